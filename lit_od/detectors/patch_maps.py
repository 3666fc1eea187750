"""Detectors over patches: their base.

A detector over patches scores each cell of a grid. The map is the grid enlarged bilinearly to the prepared size, and
smoothed; an image's score is the map's aggregate, so that with the maximum an image is an outlier exactly where some
pixel is.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.farthest_first import FarthestFirst
from lit_od.detectors.base import Accumulator, Batches, PixelDetector
from lit_od.detectors.map_options import MOST_PIXELS, Cells, MapOptions, aggregated, enlarged
from lit_od.detectors.map_region import MapRegion, least_value, region_of
from lit_od.detectors.options import read_options
from lit_od.detectors.state import LARGEST_SINGLE
from lit_od.errors import DataError
from lit_od.types import Maps, Output, Outputs, Scores

Candidates: TypeAlias = tuple[FarthestFirst | None, ...]
"""Patches that the banks of a detector may take, bank by bank; None for a member without one."""

IMAGES_AT_ONCE = 8
"""Images whose maps are made at once; of large maps as many as `MOST_PIXELS` allows."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchDetector(PixelDetector):
    """A detector that scores each patch of an image.

    Attributes:
        settings: The options it was fitted with.
    """

    reads: ClassVar[Output] = "patches"
    options_type: ClassVar[type[MapOptions]]
    settings: MapOptions

    @classmethod
    def fit(cls, patches: Outputs, **options: Any) -> Self:
        """Fit on inliers in memory, in as many passes as it takes.

        Args:
            patches: Shape (n, gh, gw, d).
            options: Options of `options_type`, which documents them and has their defaults.

        Raises:
            ConfigError: On an option that does not exist or is out of range.
            DataError: On a wrong shape, too few images or patches, or values that are not finite.
        """
        gathered = cls.accumulator(**options)
        gathered.update(patches)
        if cls.passes == 2:
            gathered = cls.start_second(gathered)
            gathered.update(patches)
        fitted = gathered.finish()
        assert isinstance(fitted, cls)
        return fitted

    @classmethod
    def accumulator(cls, *, first_row: int = 0, **options: Any) -> Accumulator:
        """Return an empty accumulator, of the first pass where it takes two.

        Args:
            first_row: Number of the first image it will see, among those of all accumulators.
            options: As `fit` takes them.

        Raises:
            ConfigError: On an option that does not exist or is out of range.
        """
        return cls.start(read_options(cls.kind, cls.options_type, options), first_row)

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with."""
        return asdict(self.settings)

    @property
    def score_is_peak(self) -> bool:
        """True if an image's score is the largest value of its map."""
        return self.settings.aggregate == "max"

    @property
    def region(self) -> MapRegion | None:
        """The part of the grid that counts; None if all of it does."""
        return region_of(self.settings, *self.input_shape[:2])

    @property
    def counted(self) -> NDArray[np.bool_] | None:
        """Pixels of the map that count; None if all do."""
        region = self.region
        return None if region is None else region.pixels

    @property
    def cell_shape(self) -> tuple[int, int]:
        """Shape of the cells that count: the grid, or one row of its cells."""
        region = self.region
        return (self.input_shape[0], self.input_shape[1]) if region is None else (1, len(region.cells))

    @property
    def map_options(self) -> MapOptions:
        """Size, smoothing and aggregate of maps."""
        return self.settings

    @property
    def least_map_value(self) -> float:
        """Value of a map's pixels that are left out."""
        return least_value(is_distance=self.is_distance)

    @abstractmethod
    def cells(self, patches: Outputs, /) -> Cells:
        """Return the scores of cells for their patches, (n, *cell_shape, d).

        They have shape (n, *cell_shape).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """

    def cells_of_tiles(self, patches: Outputs, /) -> Cells:
        """Return the scores of all cells of tiles, (n, gh, gw), for (n, gh, gw, d).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        return self.cells(check_patches(patches, self.input_shape))

    def candidates(self, patches: Outputs, /) -> Candidates:
        """Return the patches that banks may take of one image's counting cells.

        Raises:
            DataError: On values that lie too far away.
        """
        del patches
        return (None,)

    def grown(self, candidates: Candidates, count: int) -> Self:
        """Return the detector with so many candidates in each bank, farthest first."""
        del candidates, count
        return self

    def accept(self, batches: Batches, sums: Accumulator | None = None, /, *, limit: float) -> "PatchDetector":
        """Return the detector that takes further images for normal ones.

        Sums take all of them; then banks take of each image that still scores above the limit the patches that are
        farthest from their rows, as few as bring it to the limit. Where all of an image's patches do not (with k above
        1), all are taken.

        Args:
            batches: Gives the patches of the images, shape (n, gh, gw, d) a batch.
            sums: As `Detector.accept` takes them.
            limit: Score that the images should not exceed.

        Raises:
            ConfigError: If the detector cannot take images, or a bank's memory budget is used up.
            DataError: On a wrong shape, or values that are not finite or too far away.
        """
        taken: PatchDetector = self
        if sums is not None or not self.accepts:
            updated = PixelDetector.accept(self, batches, sums, limit=limit)
            assert isinstance(updated, PatchDetector)
            taken = updated
        for batch in batches():
            for row in range(len(batch)):
                taken = _least_grown(taken, batch[row : row + 1], limit)
        return taken

    def score(self, patches: Outputs, /) -> Scores:
        """Return scores of shape (n,) for patches of shape (n, gh, gw, d).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        return np.concatenate([np.empty(0), *(scores for scores, _ in self._by_block(patches))])

    def score_map(self, patches: Outputs, /) -> tuple[Scores, Maps]:
        """Return scores (n,) and maps (n, h, w), float32, for patches (n, gh, gw, d).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        parts = list(self._by_block(patches))
        if not parts:
            return np.empty(0), np.empty((0, *(self.settings.size or self.input_shape[:2])), np.float32)
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([maps for _, maps in parts])

    def _by_block(self, patches: Outputs) -> Iterator[tuple[Scores, NDArray[np.float32]]]:
        patches = check_patches(patches, self.input_shape)
        pixels, region = math.prod(self.settings.size or self.input_shape[:2]), self.region
        step = max(1, min(IMAGES_AT_ONCE, MOST_PIXELS // pixels))
        for start in range(0, len(patches), step):
            block = patches[start : start + step]
            if region is None:
                maps = enlarged(self.cells(block), self.settings)
                yield aggregated(maps, self.settings), maps
            else:
                maps = region.enlarged(self.cells(region.taken(block)), self.settings, self.least_map_value)
                yield aggregated(maps, self.settings, region.count), maps


def _least_grown(detector: PatchDetector, image: Outputs, limit: float) -> PatchDetector:
    """Return the detector that takes the fewest patches of an image, (1, gh, gw, d).

    They bring its score to the limit.
    """
    if detector.score(image)[0] <= limit:
        return detector
    candidates, most = detector.candidates(counted_patches(image, detector.settings)), math.prod(detector.cell_shape)
    if all(each is None for each in candidates):
        return detector
    too_few, enough = 0, 1
    while (found := detector.grown(candidates, enough)).score(image)[0] > limit:
        if enough == most:
            return found
        too_few, enough = enough, min(2 * enough, most)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        fewer = detector.grown(candidates, middle)
        if fewer.score(image)[0] > limit:
            too_few = middle
        else:
            found, enough = fewer, middle
    return found


def check_patches(patches: Outputs, shape: tuple[int, ...] | None = None) -> Outputs:
    """Return patches of shape (n, gh, gw, d) unchanged.

    Raises:
        DataError: If they have another shape, or are not finite floating-point numbers.
    """
    patches = np.asarray(patches)
    if patches.ndim != 4 or 0 in patches.shape[1:]:
        raise DataError(f"patches must have shape (n, gh, gw, d), got {patches.shape}")
    if patches.dtype.kind != "f":
        raise DataError(f"patches must be floating point, got {patches.dtype}")
    if shape is not None and patches.shape[1:] != shape:
        raise DataError(f"patches must have shape (n, {str(shape)[1:]}, got {patches.shape}")
    finite = np.isfinite(patches)
    if not finite.all():
        bad = int((~finite.reshape(len(patches), -1)).any(axis=1).sum())
        raise DataError(f"patches must be finite, but {bad} of {len(patches)} images hold NaN or infinity")
    return patches


def counted_patches(patches: Outputs, settings: MapOptions) -> Outputs:
    """Return the patches of cells that count: all, or (n, 1, p, d) of (n, gh, gw, d)."""
    region = region_of(settings, patches.shape[1], patches.shape[2])
    return patches if region is None else region.taken(patches)


def single(scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return scores in float32, within what it holds."""
    return np.asarray(np.clip(scores, -LARGEST_SINGLE, LARGEST_SINGLE), np.float32)
