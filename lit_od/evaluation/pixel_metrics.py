"""Metrics of maps against masks, with bootstrap intervals over images.

They are the AUROC of pixels, AUPRO, and sPRO for defects that saturate.

AUPRO is MVTec's: the mean over all 8-connected regions of the share that is found, against the share of all defect-free
pixels, those of good images among them, that are found falsely. Every threshold counts, equal scores are one threshold,
the curve is straight between thresholds and at the limit, and its area up to the limit is divided by it.

Maps and masks are compared at the prepared size, as anomalib does; masks are brought there as their images are, by
the nearest pixel. MVTec's own script compares at the size of the images instead, where enlarging the map decides little
and what a crop leaves out counts as not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import proportion
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.intervals import Draws, Interval, percentile_interval
from lit_od.evaluation.pixel_counts import PixelCounts, PixelCurve, Regions, area
from lit_od.types import Maps, Stats

LIMITS = (0.3, 0.05)
"""Limits of AUPRO: that of MVTec AD, and that of MVTec AD 2 and LOCO."""

EXACT_PIXELS = 2**24
"""Most pixels that are counted at every score, 256 images of 256x256: 0.2 GB, and 0.8 GB while they are sorted."""

QUANTILES = 1000
"""Bins of equal shares of defect-free pixels, and as many of equal overlap, in which resamples are counted."""

RESAMPLED_AT_ONCE = 100
"""Resamples of one matrix product."""

RESAMPLED_VALUES = 2**24
"""Most counts of all images in those bins: 128 MB for each of the three."""


def pixel_auroc(maps: Maps, masks: NDArray[Any]) -> float:
    """Compute the area under the ROC curve of all pixels, equal scores counted half.

    Args:
        maps: Scores, higher where more outlying, shape (n, h, w).
        masks: True, or not 0, where an image is defective, shape (n, h, w).

    Raises:
        DataError: If shapes differ, a score is not finite, or no pixel is defective or none is not.
    """
    return PixelCurve.of(_counted(maps, masks)).auroc()


def aupro(maps: Maps, masks: NDArray[Any], limit: float = 0.3) -> float:
    """Compute the mean per-region overlap up to a limit of false positives.

    It is the area under the curve of overlap against false positives up to the limit, divided by the limit. Regions are
    8-connected; false positives are counted over all pixels that are not in one.

    Args:
        maps: Scores, higher where more outlying, shape (n, h, w).
        masks: True, or not 0, where an image is defective, shape (n, h, w); nowhere in good images.
        limit: Largest share of false positives, in (0, 1].

    Raises:
        ConfigError: If `limit` is not in (0, 1].
        DataError: If shapes differ, a score is not finite, or no pixel is defective or none is not.
        MissingExtra: If scipy is not installed.

    Example:
        >>> masks = np.zeros((1, 8, 8), dtype=bool)
        >>> masks[0, 2:4, 2:4] = True
        >>> aupro(masks.astype(np.float32), masks)
        1.0
    """
    if not 0 < limit <= 1:
        raise ConfigError(f"limit must lie in (0, 1], got {limit:g}")
    return PixelCurve.of(_counted(maps, masks)).aupro(limit)


def _counted(maps: Maps, masks: NDArray[Any]) -> list[PixelCounts]:
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise DataError(f"maps and masks must have the same shape (n, h, w), got {maps.shape} and {masks.shape}")
    if maps.dtype.kind != "f":
        maps = maps.astype(np.float64)
    return [PixelCounts.of(each, Regions.of_mask(mask != 0)) for each, mask in zip(maps, masks, strict=True)]


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """Pixel metrics of some images.

    Attributes:
        regions: Number of regions, of LOCO's defects that of their masks.
        figures: AUROC of pixels, and AUPRO (of LOCO sPRO) by limit, with bootstrap intervals: names as of
            `figure_names`.
        bounds: Largest error of each figure, where pixels were counted in bins; else 0.
    """

    regions: int
    figures: dict[str, Interval]
    bounds: dict[str, float]


def figure_names(*, saturated: bool) -> list[str]:
    """Return the names of figures: "aupro_0.3", or "spro_0.3" if regions saturate."""
    return ["pixel_auroc", *(f"{'spro' if saturated else 'aupro'}_{limit:g}" for limit in LIMITS)]


def pixel_figures(
    good: Sequence[PixelCounts],
    defective: Sequence[PixelCounts],
    *,
    rng: np.random.Generator,
    saturated: bool = False,
    binned: bool = False,
    resamples: int = 1000,
    level: float = 0.95,
) -> PixelFigures:
    """Compute the pixel metrics of good and defective images.

    The figures are those of all thresholds. Their intervals resample images, good and defective ones apart, from
    counts in bins: the bins of resamples are so many that an area moves by less than 0.001.

    Args:
        good: Counts of good images.
        defective: Counts of defective images.
        rng: Source of the draws.
        saturated: The overlap saturates (sPRO), which decides the names of the figures.
        binned: The counts are those of bins.
        resamples: Number of bootstrap resamples.
        level: Share of the draws within an interval.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If no pixel is defective, or none is free of defects.
    """
    proportion("level", level)
    names = figure_names(saturated=saturated)
    curve = PixelCurve.of([*good, *defective])
    values = [curve.auroc(), *(curve.aupro(limit) for limit in LIMITS)]
    bounds = [0.0] * len(names)
    if binned:
        bounds = [curve.bounds(1.0)[0], *(curve.bounds(limit)[1] for limit in LIMITS)]
    draws = _draws(good, defective, names, rng, resamples)
    return PixelFigures(
        sum(each.regions for each in defective),
        {name: percentile_interval(value, draws[name], level) for name, value in zip(names, values, strict=True)},
        dict(zip(names, bounds, strict=True)),
    )


def _draws(
    good: Sequence[PixelCounts],
    defective: Sequence[PixelCounts],
    names: Sequence[str],
    rng: np.random.Generator,
    resamples: int,
) -> Draws:
    """Compute the figures of each resample.

    They are NaN where good or defective images are fewer than two.
    """
    draws = {name: np.full(resamples, np.nan) for name in names}
    if min(len(good), len(defective)) < 2:
        return draws
    images = [*good, *defective]
    counts = _quantile_bins(images)
    regions = np.array([each.regions for each in images], dtype=np.float64)
    for start in range(0, resamples, RESAMPLED_AT_ONCE):
        rows = min(RESAMPLED_AT_ONCE, resamples - start)
        drawn = [rng.multinomial(len(part), np.full(len(part), 1 / len(part)), rows) for part in (good, defective)]
        times = np.concatenate(drawn, axis=1).astype(np.float64)  # (rows, n)
        false, found, overlap = (np.cumsum(times @ each, axis=1) for each in counts)  # (rows, bins)
        shares = (
            false / false[:, -1:],
            found / np.maximum(found[:, -1:], 1),
            overlap / np.maximum(times @ regions, 1)[:, None],
        )
        for row in np.flatnonzero(times @ regions):  # without a region where every mask drawn has vanished
            at, roc, pro = (np.append(0.0, each[row]) for each in shares)
            draws[names[0]][start + row] = area(at, roc, 1.0)
            for name, limit in zip(names[1:], LIMITS, strict=True):
                draws[name][start + row] = area(at, pro, limit)
    kept = np.isfinite(draws[names[0]])
    return {name: each[kept] for name, each in draws.items()} if kept.any() else draws


def _quantile_bins(images: Sequence[PixelCounts]) -> tuple[Stats, Stats, Stats]:
    """Count each image in bins of equal shares of defect-free pixels or of overlap.

    Returns:
        Defect-free pixels, defective pixels and overlap, each of shape (n, bins), highest scores first.
    """
    bins = max(2, min(QUANTILES, RESAMPLED_VALUES // (2 * len(images))))
    edges = np.unique(
        np.concatenate(
            [
                _quantiles([each.good_keys for each in images], [each.good for each in images], bins),
                _quantiles([each.keys for each in images], [each.overlap for each in images], bins),
            ]
        )
    )
    return (
        np.stack([_histogram(each.good_keys, each.good, edges) for each in images]),
        np.stack([_histogram(each.keys, each.defective, edges) for each in images]),
        np.stack([_histogram(each.keys, each.overlap, edges) for each in images]),
    )


def _quantiles(keys: Sequence[NDArray[Any]], weights: Sequence[NDArray[Any]], bins: int) -> NDArray[Any]:
    """Return the keys at which the weights reach equal shares of their sum."""
    every = np.concatenate(keys)
    order = np.argsort(every)
    sums = np.cumsum(np.concatenate(weights)[order], dtype=np.float64)
    at = np.searchsorted(sums, sums[-1] * np.arange(1, bins) / bins)
    reached: NDArray[Any] = every[order[np.minimum(at, len(order) - 1)]]
    return reached


def _histogram(keys: NDArray[Any], weights: NDArray[Any], edges: NDArray[Any]) -> Stats:
    """Sum weights between edges, highest keys first, shape (edges + 1,)."""
    places = len(edges) - np.searchsorted(edges, keys, "right")
    return np.bincount(places, weights=weights, minlength=len(edges) + 1).astype(np.float64)
