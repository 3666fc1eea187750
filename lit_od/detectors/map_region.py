"""Maps of which a part counts, cell by cell and pixel by pixel.

A cell counts if the mask has the pixel at its centre. Cells that do not count fit nothing and are not scored. Between
cells the map is interpolated and smoothed among those that count alone, so that none is lowered at the region's edge.
Pixels outside the region, and those without such a cell near, are left out: they have the least value that a detector's
map can have, which is above no threshold.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.map_mask import unpack
from lit_od.detectors.map_options import Cells, MapOptions, enlarged
from lit_od.detectors.state import LARGEST_SINGLE
from lit_od.errors import DataError
from lit_od.types import Outputs

LEAST_WEIGHT = 1e-4
"""Sum of the weights of counting cells at a pixel below which it has none near."""


@dataclass(frozen=True, slots=True, eq=False)
class MapRegion:
    """The part of a grid and of its map that counts.

    Attributes:
        grid: Height and width of the grid.
        cells: Positions of the cells that count, in reading order, shape (p,).
        pixels: True for pixels that count, shape (h, w).
        factors: One over the sum of the weights of counting cells, 0 where a pixel does not count, shape (h, w).
    """

    grid: tuple[int, int]
    cells: NDArray[np.intp]
    pixels: NDArray[np.bool_]
    factors: NDArray[np.float32]

    @property
    def count(self) -> int:
        """Number of pixels that count."""
        return int(np.count_nonzero(self.pixels))

    def taken(self, patches: Outputs) -> Outputs:
        """Return the patches of cells that count, (n, 1, p, d), of (n, gh, gw, d)."""
        flat = patches.reshape(len(patches), 1, self.grid[0] * self.grid[1], patches.shape[3])
        return np.take(flat, self.cells, axis=2)

    def enlarged(self, cells: Cells, settings: MapOptions, least: float) -> NDArray[np.float32]:
        """Enlarge the scores of cells that count to maps.

        Args:
            cells: Shape (n, 1, p).
            settings: Size and smoothing.
            least: Value of pixels that are left out.

        Returns:
            Shape (n, h, w).
        """
        grid = np.zeros((len(cells), self.grid[0] * self.grid[1]), np.float32)
        grid[:, self.cells] = cells[:, 0]
        maps = enlarged(grid.reshape(len(cells), *self.grid), settings) * self.factors
        return np.where(self.pixels, maps, np.float32(least))


def least_value(*, is_distance: bool) -> float:
    """Return the least value of a detector's map."""
    return 0.0 if is_distance else -LARGEST_SINGLE


def region_of(settings: MapOptions, rows: int, columns: int) -> MapRegion | None:
    """Return the part of a grid that counts; None if all of it does.

    Args:
        settings: Mask, size and smoothing of the map.
        rows: Height of the grid.
        columns: Width of the grid.

    Raises:
        DataError: If no cell counts, or the grid cannot be enlarged.
    """
    if settings.mask is None or settings.size is None:
        return None
    height, width = settings.size
    return _region(settings.mask, (height, width), settings.smooth, rows, columns)


def counted_cells(settings: MapOptions, rows: int, columns: int) -> int:
    """Return the number of cells that count.

    Args:
        settings: As `region_of`.
        rows: Height of the grid.
        columns: Width of the grid.
    """
    region = region_of(settings, rows, columns)
    return rows * columns if region is None else len(region.cells)


@lru_cache(maxsize=16)
def _region(mask: str, size: tuple[int, int], smooth: float, rows: int, columns: int) -> MapRegion:
    found = region_of_pixels(unpack(mask, *size), smooth, rows, columns)
    if found is None:
        raise DataError(
            f"the mask leaves no cell of the grid of {rows} x {columns}: none has its centre in it. Take a larger "
            "region or a finer grid"
        )
    return found


def region_of_pixels(pixels: NDArray[np.bool_], smooth: float, rows: int, columns: int) -> MapRegion | None:
    """Return the part of a grid that counts; None if no cell does.

    Args:
        pixels: True for pixels of the map that count, (h, w).
        smooth: Standard deviation of the map's Gaussian, in pixels.
        rows: Height of the grid.
        columns: Width of the grid.
    """
    height, width = pixels.shape
    down, across = (
        (2 * np.arange(cells) + 1) * side // (2 * cells) for cells, side in ((rows, height), (columns, width))
    )
    counted = pixels[down][:, across]
    if not counted.any():
        return None
    plain = MapOptions(size=[height, width], smooth=smooth)
    weights = enlarged(counted[None].astype(np.float32), plain)[0]
    near = weights > LEAST_WEIGHT
    factors = np.where(near & pixels, 1 / np.where(near, weights, 1), 0).astype(np.float32)
    return MapRegion((rows, columns), np.flatnonzero(counted), near & pixels, factors)
