"""The map of a large image, joined from those of its tiles.

Each tile's map has a weight a pixel, and the weights of all tiles add up to 1 at every pixel. An image's score is the
detector's own aggregate over the joined map.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.map_options import Cells, MapOptions, aggregated, enlarged
from lit_od.detectors.map_region import region_of_pixels
from lit_od.types import Outputs, Scores


@runtime_checkable
class TileDetector(Protocol):
    """A detector whose maps of tiles can be joined."""

    @property
    def map_options(self) -> MapOptions:
        """Size, smoothing and aggregate of maps."""
        ...

    @property
    def least_map_value(self) -> float:
        """Value of a map's pixels that are left out."""
        ...

    def cells_of_tiles(self, outputs: Outputs, /) -> Cells:
        """Return the scores of the cells of tiles, (n, gh, gw).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        ...


class JoinedMap:
    """Adds up the maps of an image's tiles.

    Args:
        detector: The fitted detector.
        size: Height and width of the image.
        counted: Pixels of the image that count, (h, w); None if all do.
    """

    def __init__(self, detector: TileDetector, size: tuple[int, int], counted: NDArray[np.bool_] | None = None) -> None:
        self._options, self._least, self._counted = detector.map_options, detector.least_map_value, counted
        self._map = np.zeros(size, np.float32)
        self._weights = None if counted is None else np.zeros(size, np.float32)

    def add(
        self,
        cells: Cells,
        rows: slice,
        columns: slice,
        down: NDArray[np.float32],
        across: NDArray[np.float32],
    ) -> None:
        """Add a tile.

        Args:
            cells: Scores of its cells, (gh, gw).
            rows: Its rows in the image.
            columns: Its columns in the image.
            down: Weight of each of its rows, (h,).
            across: Weight of each of its columns, (w,).
        """
        within = None if self._counted is None else self._counted[rows, columns]
        if within is None or within.all():
            tile = enlarged(cells[None], self._options)[0] * down[:, None]
            tile *= across
            self._map[rows, columns] += tile
            if self._weights is not None:
                self._weights[rows, columns] += down[:, None] * across
            return
        region = region_of_pixels(within, self._options.smooth, *cells.shape)
        if region is None or self._weights is None:
            return
        tile = region.enlarged(cells.reshape(1, 1, -1)[:, :, region.cells], self._options, 0.0)[0]
        weight = down[:, None] * across * region.pixels
        self._map[rows, columns] += tile * weight
        self._weights[rows, columns] += weight

    def finish(self) -> tuple[Scores, NDArray[np.float32]]:
        """Return the image's score (1,) and its map (1, h, w)."""
        joined = self._map[None]
        if self._weights is None:
            return aggregated(joined, self._options), joined
        near = self._weights > 0
        joined = np.where(near, self._map / np.where(near, self._weights, 1), np.float32(self._least))[None]
        if not (count := int(np.count_nonzero(near))):
            return np.array([self._least]), joined
        return aggregated(joined, self._options, count), joined
