"""Maps of cells: their options, enlargement and aggregate.

The grid of a detector's scores is enlarged bilinearly to the prepared size, and smoothed; an image's score is the map's
aggregate.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import number, one_of
from lit_od.detectors.map_mask import unpack
from lit_od.errors import ConfigError, DataError
from lit_od.types import Scores

Aggregate: TypeAlias = Literal["max", "top_share"]

Cells: TypeAlias = NDArray[np.float32]
"""Score of each cell, shape (n, gh, gw); of a masked grid of each that counts, (n, 1, p)."""

MOST_PIXELS = 2**24
"""Largest map, in pixels: 64 MiB. As large may the matrix be that enlarges one side."""

MOST_SIDE = 16_384
"""Longest side of a map, in pixels: smoothing takes a matrix of the side's square."""

TRUNCATE = 4.0
"""Standard deviations at which the smoothing kernel ends, as in SciPy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """Options of maps, checked.

    Attributes:
        aggregate: Score of an image from its map: "max", or the mean of the largest places ("top_share").
        share: Share of the map's places that "top_share" averages, their number rounded up.
        smooth: Standard deviation of a Gaussian over the enlarged map, in pixels; 0 for none.
        size: Height and width to which the grid is enlarged; None leaves the grid. A bundle enlarges to the
            prepared size.
        mask: Pixels of the enlarged map that count, as `map_mask.pack` writes them; None for all. A bundle takes them
            from its region of interest.
    """

    aggregate: Aggregate = "max"
    share: float = 0.01
    smooth: float = 0.0
    size: list[int] | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        one_of("aggregate", self.aggregate, ("max", "top_share"))
        number("share", self.share, above=0, most=1)
        number("smooth", self.smooth, least=0, most=100)
        if self.size is None:
            if self.mask is not None:
                raise ConfigError("a mask needs the size of the map: give size too")
            return
        sides = list(self.size) if isinstance(self.size, list | tuple) else []
        if (
            len(sides) != 2
            or not all(type(side) is int and 0 < side <= MOST_SIDE for side in sides)
            or math.prod(sides) > MOST_PIXELS
        ):
            raise ConfigError(f"size must be height and width, as [224, 224], got {self.size!r}")
        object.__setattr__(self, "size", sides)
        if self.mask is not None:
            unpack(self.mask, sides[0], sides[1])

    @property
    def knows_place(self) -> bool:
        """True if a cell is compared with those at its place in other images.

        Tiles do not keep the place.
        """
        return False

    @property
    def weighs_images(self) -> bool:
        """True if one weight multiplies all cells of an image.

        Each tile would have another.
        """
        return False


def enlarged(cells: Cells, settings: MapOptions) -> NDArray[np.float32]:
    """Enlarge grids of scores to maps, bilinearly, and smooth them.

    Args:
        cells: Shape (n, gh, gw).
        settings: Size and smoothing.

    Returns:
        Shape (n, h, w).

    Raises:
        DataError: If the grid is too large to be enlarged to this size.
    """
    height, width = settings.size or cells.shape[1:]
    if max(height * cells.shape[1], width * cells.shape[2]) > MOST_PIXELS:
        raise DataError(
            f"a grid of {cells.shape[1]} x {cells.shape[2]} cannot be enlarged to {height} x {width}: take a "
            "coarser grid or a smaller size"
        )
    if (height, width) == cells.shape[1:] and not settings.smooth:
        return cells
    rows = enlargement(cells.shape[1], height, settings.smooth)
    columns = enlargement(cells.shape[2], width, settings.smooth)
    return np.asarray(rows @ cells @ columns.T, np.float32)


def aggregated(maps: NDArray[np.float32], settings: MapOptions, places: int | None = None) -> Scores:
    """Return the score of each map, shape (n,), of maps (n, h, w).

    Args:
        maps: The maps; what is left out of them is least.
        settings: The aggregate.
        places: Number of places that count; None for all.
    """
    flat = maps.reshape(len(maps), -1)
    if settings.aggregate == "max":
        return np.asarray(flat.max(axis=1), np.float64)
    count = places_averaged(flat.shape[1] if places is None else places, settings.share)
    largest = np.partition(flat, flat.shape[1] - count, axis=1)[:, flat.shape[1] - count :]
    return np.asarray(largest.mean(axis=1, dtype=np.float64))


def places_averaged(pixels: int, share: float) -> int:
    """Return how many of a map's largest values "top_share" averages."""
    # Multiplied before it is rounded up: 7 % of 100 places are 7, though 0.07 * 100 > 7.
    return max(1, math.ceil(round(pixels * share, 9)))


@lru_cache(maxsize=64)
def enlargement(cells: int, pixels: int, smooth: float) -> NDArray[np.float32]:
    """Return the matrix (pixels, cells) that enlarges and smooths one side.

    Enlarged values lie at pixel centres, as those of PyTorch's bilinear interpolation without aligned corners; beyond
    the border the smoothing sees the map mirrored.

    Args:
        cells: Cells along the side.
        pixels: Pixels along the side.
        smooth: Standard deviation of the Gaussian, in pixels.
    """
    places = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    low = np.minimum(places.astype(np.int64), max(cells - 2, 0))
    matrix = np.zeros((pixels, cells))
    matrix[np.arange(pixels), low] = 1 - (places - low)
    matrix[np.arange(pixels), np.minimum(low + 1, cells - 1)] += places - low
    if smooth:
        reach = int(TRUNCATE * smooth + 0.5)
        offsets = np.arange(-reach, reach + 1)
        weights = np.exp(-0.5 * (offsets / smooth) ** 2)
        weights /= weights.sum()
        smoothed = np.zeros_like(matrix)
        for offset, weight in zip(offsets, weights, strict=True):
            mirrored = (np.arange(pixels) + offset) % (2 * pixels)
            smoothed += weight * matrix[np.minimum(mirrored, 2 * pixels - 1 - mirrored)]
        matrix = smoothed
    result = matrix.astype(np.float32)
    result.setflags(write=False)
    return result
