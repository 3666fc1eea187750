"""Count pixels by the order of their scores, the source of every pixel metric.

Each image is counted alone: its defect-free pixels and its defective pixels by key, an unsigned integer that orders
scores as they order themselves. A curve over some images is made of their counts: the share of defect-free pixels found
so far (false positives) against the share of defective pixels and the mean overlap of regions. All three are sums over
pixels, so one sort gives every threshold.

References:
    Bergmann et al. 2021, The MVTec Anomaly Detection Dataset: per-region overlap (PRO).
    Bergmann et al. 2022, Beyond Dents and Scratches: saturated per-region overlap (sPRO).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError, missing_extra
from lit_od.types import Stats

Keys: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Unsigned integers in the order of scores."""

Mask: TypeAlias = NDArray[np.bool_]
"""True where an image is defective, shape (h, w)."""

BIN_BITS = 20
"""Binary digits of a bin's number: the sign, the exponent and 11 digits of a float32, a relative width of 2^-11."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Defects of one image, at the size of its map. They may overlap.

    Attributes:
        pixels: Flat positions of the regions' pixels, region by region, shape (m,).
        region: Number of the region of each of them, shape (m,).
        full: Number of found pixels that count as the whole region, above 0, shape (r,): the region's size for PRO,
            its saturation for sPRO.
    """

    pixels: NDArray[np.intp]
    region: NDArray[np.intp]
    full: Stats

    @classmethod
    def of_mask(cls, mask: Mask) -> Self:
        """Take each 8-connected set of a mask's pixels as a region.

        Raises:
            MissingExtra: If scipy is not installed.
        """
        try:
            from scipy.ndimage import label
        except ModuleNotFoundError:
            missing_extra("scipy", "evaluate,cpu")
        numbers = label(mask, structure=np.ones((3, 3)))[0].ravel()
        pixels = np.flatnonzero(numbers)
        region = numbers[pixels].astype(np.intp) - 1
        return cls(pixels, region, np.bincount(region).astype(np.float64))

    def within(self, counted: Mask) -> Self:
        """Return the regions, all in pixels that count, by positions among these.

        Args:
            counted: True for pixels that count, shape (h, w).
        """
        places = np.cumsum(counted.ravel()) - 1
        return type(self)(places[self.pixels], self.region, self.full)

    @classmethod
    def of_channels(cls, masks: Sequence[Mask], saturations: Sequence[float]) -> Self:
        """Take each mask as one region; an empty one is left out.

        Args:
            masks: One a defect, each of shape (h, w).
            saturations: Share of each defect, in (0, 1], that counts as the whole when it is found.
        """
        found = [(np.flatnonzero(mask), share) for mask, share in zip(masks, saturations, strict=True) if mask.any()]
        return cls(
            np.concatenate([np.empty(0, np.intp), *(pixels for pixels, _ in found)]),
            np.repeat(np.arange(len(found)), [len(pixels) for pixels, _ in found]),
            np.array([share * len(pixels) for pixels, share in found]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PixelCounts:
    """Pixels of one image by key, each key once, ascending.

    Attributes:
        good_keys: Keys of defect-free pixels, shape (g,).
        good: Number of defect-free pixels with each of them, shape (g,).
        keys: Keys of defective pixels, shape (d,).
        defective: Number of defective pixels with each of them, shape (d,).
        overlap: Sum over the regions of the share that is found at each of them, shape (d,).
        regions: Number of regions.
    """

    good_keys: Keys
    good: NDArray[np.uint32]
    keys: Keys
    defective: NDArray[np.uint32]
    overlap: Stats
    regions: int

    @classmethod
    def of(cls, scores: NDArray[np.floating[Any]], regions: Regions | None, *, binned: bool = False) -> Self:
        """Count one image.

        Args:
            scores: Its map, shape (h, w).
            regions: Its defects; None in a defect-free image.
            binned: Count in 2^20 bins, in the order of the scores, instead of at every score.

        Raises:
            DataError: If a score is not finite.
        """
        keys = _keys(scores.ravel(), binned=binned)
        defective = np.zeros(keys.size, bool)
        if regions is None:
            regions = Regions(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))
        defective[regions.pixels] = True
        good_keys, good = np.unique(keys[~defective], return_counts=True)
        at, places, counts = np.unique(keys[defective], return_inverse=True, return_counts=True)
        column = np.zeros(keys.size, np.intp)
        column[defective] = places
        overlap = np.bincount(column[regions.pixels], weights=_shares(keys, regions), minlength=len(at))
        counted = good.astype(np.uint32), counts.astype(np.uint32)
        return cls(good_keys, counted[0], at, counted[1], overlap[: len(at)].astype(np.float64), len(regions.full))


def _keys(scores: NDArray[np.floating[Any]], *, binned: bool) -> Keys:
    """Return unsigned integers in the order of the scores; 0 and -0 are equal."""
    if not np.isfinite(scores).all():
        raise DataError("a map must be finite, got NaN or infinity")
    width = np.uint64 if scores.dtype == np.float64 and not binned else np.uint32
    values: NDArray[Any] = scores.astype(np.float64 if width is np.uint64 else np.float32)
    bits: Any = (values + 0.0).view(width)
    top = width(1) << width(8 * bits.itemsize - 1)
    keys: Keys = np.where(bits & top, ~bits, bits | top)
    return keys >> np.uint32(32 - BIN_BITS) if binned else keys


def _shares(keys: Keys, regions: Regions) -> Stats:
    """Return the share of its region that each pixel adds, shape (m,).

    Pixels are found from the highest key on. The first of a region add 1 / full each, until the region is full, and the
    rest nothing.
    """
    order = np.lexsort([np.iinfo(keys.dtype).max - keys[regions.pixels], regions.region])
    sizes = np.bincount(regions.region, minlength=len(regions.full))
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # regions are numbered in the order of their pixels once sorted
    rank = np.arange(len(order)) - first
    full = regions.full[regions.region[order]]
    shares = np.empty(len(order))
    shares[order] = np.minimum((rank + 1) / full, 1) - np.minimum(rank / full, 1)
    return shares


@dataclass(frozen=True, slots=True, eq=False)
class PixelCurve:
    """Shares of pixels found as the threshold falls.

    The points are those between which false positives and finds grow in proportion.

    Attributes:
        false: Share of the defect-free pixels, from 0 to 1, shape (v,).
        found: Share of the defective pixels, shape (v,).
        overlap: Mean overlap of the regions, shape (v,).
    """

    false: Stats
    found: Stats
    overlap: Stats

    @classmethod
    def of(cls, images: Sequence[PixelCounts]) -> Self:
        """Make the curve of some images.

        Raises:
            DataError: If no pixel is defective, or none is free of defects.
        """
        regions = sum(each.regions for each in images)
        if not regions:
            raise DataError("pixel metrics need at least one region of a mask, got none")
        good_keys = np.concatenate([each.good_keys for each in images])
        if not good_keys.size:
            raise DataError("pixel metrics need pixels without a defect, got none")
        order = np.argsort(good_keys)
        counts = np.concatenate([each.good for each in images])[order]
        below = np.append(0, np.cumsum(counts, dtype=np.int64))
        good_keys = good_keys[order]
        keys, places = np.unique(np.concatenate([each.keys for each in images]), return_inverse=True)
        before = below[-1] - below[np.searchsorted(good_keys, keys, "right")][::-1]
        together = below[-1] - below[np.searchsorted(good_keys, keys, "left")][::-1]
        false = np.concatenate([[0], np.column_stack([before, together]).ravel(), [below[-1]]]) / below[-1]
        found, overlap = (
            _steps(np.bincount(places, weights=np.concatenate(weights), minlength=len(keys))[::-1].astype(np.float64))
            for weights in ([each.defective for each in images], [each.overlap for each in images])
        )
        return cls(false, found / found[-1], overlap / regions)

    def auroc(self) -> float:
        """Return the area under the ROC curve of pixels, equal scores counted half."""
        return area(self.false, self.found, 1.0)

    def aupro(self, limit: float) -> float:
        """Return the area under the overlap up to a limit, divided by the limit."""
        return area(self.false, self.overlap, limit)

    def bounds(self, limit: float) -> tuple[float, float]:
        """Return the largest errors of the areas where a key stands for many scores.

        Within a key the exact curve rises somehow from one corner of a rectangle to the other, and is taken to be
        straight: half of each rectangle is the most that this can add or leave out.

        Args:
            limit: Limit of the area under the overlap.

        Returns:
            The bound of `auroc()`, and that of `aupro(limit)`.
        """
        wide, full = np.diff(self.false), np.diff(np.minimum(self.false, limit))
        half = np.where(self.false[1:] > limit, 1.0, 0.5)  # the limit may cut a rectangle anywhere
        of_area = float(np.sum(wide * np.diff(self.found))) / 2
        return of_area, float(np.sum(half * full * np.diff(self.overlap))) / limit


def area(false: Stats, found: Stats, limit: float) -> float:
    """Return the area under straight pieces up to a limit, divided by the limit.

    Args:
        false: Share of false positives, ascending from 0 to 1, shape (v,).
        found: Height of the curve, shape (v,).
        limit: End of the area, in (0, 1].
    """
    stop = int(np.searchsorted(false, limit, "right"))
    if stop < len(false):
        share = (limit - false[stop - 1]) / (false[stop] - false[stop - 1])
        height = found[stop - 1] + share * (found[stop] - found[stop - 1])
        false, found = np.append(false[:stop], limit), np.append(found[:stop], height)
    return float(np.trapezoid(found, false)) / limit


def _steps(gains: Stats) -> Stats:
    """Return sums before and with each of n gains, from 0 to the total, (2 n + 2,)."""
    sums = np.cumsum(gains)
    return np.concatenate([[0.0], np.column_stack([np.append(0.0, sums[:-1]), sums]).ravel(), sums[-1:]])
