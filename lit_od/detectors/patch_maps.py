"""Maps of patch scores: their base, options, enlargement and aggregate.

A detector over patches scores each cell of a grid. The map is the grid enlarged bilinearly to the prepared size, and
smoothed; an image's score is the map's aggregate, so that with the maximum an image is an outlier exactly where some
pixel is.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import number, one_of
from lit_od.detectors.bank.farthest_first import FarthestFirst
from lit_od.detectors.base import Accumulator, Batches, PixelDetector
from lit_od.detectors.options import read_options
from lit_od.detectors.state import LARGEST_SINGLE
from lit_od.errors import ConfigError, DataError
from lit_od.types import Maps, Output, Outputs, Scores

Aggregate: TypeAlias = Literal["max", "top_share"]

Cells: TypeAlias = NDArray[np.float32]
"""Score of each cell of the grid, shape (n, gh, gw)."""

Candidates: TypeAlias = tuple[FarthestFirst | None, ...]
"""Patches that the banks of a detector may take, bank by bank; None for a member without one."""

IMAGES_AT_ONCE = 8
"""Images whose maps are made at once; of large maps as many as `MOST_PIXELS` allows."""

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
    """

    aggregate: Aggregate = "max"
    share: float = 0.01
    smooth: float = 0.0
    size: list[int] | None = None

    def __post_init__(self) -> None:
        one_of("aggregate", self.aggregate, ("max", "top_share"))
        number("share", self.share, above=0, most=1)
        number("smooth", self.smooth, least=0, most=100)
        if self.size is None:
            return
        sides = list(self.size) if isinstance(self.size, list | tuple) else []
        if (
            len(sides) != 2
            or not all(type(side) is int and 0 < side <= MOST_SIDE for side in sides)
            or math.prod(sides) > MOST_PIXELS
        ):
            raise ConfigError(f"size must be height and width, as [224, 224], got {self.size!r}")
        object.__setattr__(self, "size", sides)


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

    @abstractmethod
    def cells(self, patches: Outputs, /) -> Cells:
        """Return the scores of cells, (n, gh, gw), for patches (n, gh, gw, d).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """

    def candidates(self, patches: Outputs, /) -> Candidates:
        """Return the patches of one image, (1, gh, gw, d), that banks may take.

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
        pixels = math.prod(self.settings.size or self.input_shape[:2])
        step = max(1, min(IMAGES_AT_ONCE, MOST_PIXELS // pixels))
        for start in range(0, len(patches), step):
            maps = enlarged(self.cells(patches[start : start + step]), self.settings)
            yield aggregated(maps, self.settings), maps


def _least_grown(detector: PatchDetector, image: Outputs, limit: float) -> PatchDetector:
    """Return the detector that takes the fewest patches of an image, (1, gh, gw, d).

    They bring its score to the limit.
    """
    if detector.score(image)[0] <= limit:
        return detector
    candidates, most = detector.candidates(image), math.prod(image.shape[1:3])
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


def single(scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return scores in float32, within what it holds."""
    return np.asarray(np.clip(scores, -LARGEST_SINGLE, LARGEST_SINGLE), np.float32)


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


def aggregated(maps: NDArray[np.float32], settings: MapOptions) -> Scores:
    """Return the score of each map, shape (n,), of maps (n, h, w)."""
    flat = maps.reshape(len(maps), -1)
    if settings.aggregate == "max":
        return np.asarray(flat.max(axis=1), np.float64)
    count = places_averaged(flat.shape[1], settings.share)
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
