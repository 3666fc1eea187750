"""Confidence intervals of figures, and DeLong's test of two detectors.

References:
    Efron and Tibshirani 1993, An Introduction to the Bootstrap: percentile intervals.
    DeLong, DeLong and Clarke-Pearson 1988, Comparing the areas under two or more correlated receiver
    operating characteristic curves; the rank form is Sun and Xu's (2014).
    Clopper and Pearson 1934: exact intervals for a rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.calibration.binomial import clopper_pearson
from lit_od.checks import proportion
from lit_od.errors import DataError
from lit_od.evaluation.counts import FIGURES, Counts, Tally, check_scores, figures_of
from lit_od.types import Scores, Stats

Draws: TypeAlias = dict[str, Stats]
"""Each figure's values over the resamples, shape (resamples,)."""

CHUNK_VALUES = 1 << 15
"""Counts of one chunk of resamples: small enough for the processor's cache, large enough for numpy."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its confidence interval.

    Attributes:
        value: The figure.
        low: Lower end; NaN where the images are too few for an interval.
        high: Upper end, likewise.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of DeLong's test of two detectors on the same images.

    Attributes:
        first: AUROC of the first detector.
        second: AUROC of the second detector.
        difference: first - second, with its interval.
        z: The difference over its standard error.
        p_value: Two-sided probability of so large a |z| if the areas are equal.
    """

    first: float
    second: float
    difference: Interval
    z: float
    p_value: float


def bootstrap(
    inlier_scores: Scores,
    outlier_scores: Scores,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Compute stratified bootstrap intervals of AUROC, both AUPR and FPR95.

    Percentile intervals. Inliers and outliers are each drawn with replacement, as many as there are, so that
    their proportion, on which AUPR depends, stays. Scores that separate the sets without an error give an
    interval of no width: no resample can show an overlap that the sample does not. A set of one image gives none.

    Args:
        inlier_scores: Shape (n,).
        outlier_scores: Shape (m,).
        rng: Source of the draws; the same state gives the same intervals.
        resamples: Number of draws.
        level: Share of draws within the interval.

    Returns:
        An interval for each of `FIGURES`, by name.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If either set is empty or holds NaN or infinity, or `resamples` is less than 1.
    """
    proportion("level", level)
    tally = Tally.of(inlier_scores, outlier_scores)
    inlier_rng, outlier_rng = rng.spawn(2)
    draws = bootstrap_draws(tally, inlier_rng=inlier_rng, outlier_rng=outlier_rng, resamples=resamples)
    values = figures_of(tally.inliers, tally.outliers)
    return {name: percentile_interval(float(values[name]), draws[name], level) for name in FIGURES}


def paired_bootstrap(
    scores: tuple[Scores, Scores],
    others: tuple[Scores, Scores],
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Compute the difference of two detectors' AUROC, with a bootstrap interval.

    A resample draws the same images for both, inliers and outliers each with replacement, as in `bootstrap`.

    Args:
        scores: The first detector's scores of inliers (n,) and of outliers (m,), n and m at least 2.
        others: The second detector's, of the same images in the same order.
        rng: Source of the draws.
        resamples: Number of draws.
        level: Share of draws within the interval.

    Returns:
        The first's AUROC less the second's.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If a set has fewer than two scores or another number of them, holds NaN or infinity, or `resamples`
            is less than 1.
    """
    proportion("level", level)
    if [np.shape(each) for each in scores] != [np.shape(each) for each in others]:
        raise DataError("both detectors must score the same images in the same order, got other numbers of scores")
    if min(np.size(each) for each in scores) < 2:
        raise DataError(f"a paired interval needs two inliers and two outliers, got {[np.size(s) for s in scores]}")
    seed = rng.integers(2**63)
    areas, draws = [], []
    for inliers, outliers in (scores, others):
        tally = Tally.of(inliers, outliers)
        inlier_rng, outlier_rng = np.random.default_rng(seed).spawn(2)  # the same images for both
        found = bootstrap_draws(tally, inlier_rng=inlier_rng, outlier_rng=outlier_rng, resamples=resamples)
        areas.append(float(figures_of(tally.inliers, tally.outliers)["auroc"]))
        draws.append(found["auroc"])
    return percentile_interval(areas[0] - areas[1], draws[0] - draws[1], level)


def bootstrap_draws(
    tally: Tally,
    *,
    inlier_rng: np.random.Generator,
    outlier_rng: np.random.Generator,
    resamples: int,
    measure: Callable[[Counts, Counts], dict[str, Counts]] = figures_of,
) -> Draws:
    """Compute the figures of each resample.

    Generators of the same state draw the same inliers again: the draws of several outlier sets then
    belong together, and their mean is a draw of the macro average.

    Args:
        tally: The counted scores.
        inlier_rng: Draws the inliers.
        outlier_rng: Draws the outliers.
        resamples: Number of resamples, at least 1.
        measure: Computes the figures of counts of inliers and outliers, shape (..., u) each.

    Returns:
        The draws; NaN where inliers or outliers are fewer than two, since a single image resamples to itself.

    Raises:
        DataError: If `resamples` is less than 1.
    """
    if resamples < 1:
        raise DataError(f"resamples must be at least 1, got {resamples}")
    draws = {name: np.full(resamples, np.nan) for name in measure(tally.inliers, tally.outliers)}
    if min(tally.inlier_places.size, tally.outlier_places.size) < 2:
        return draws
    step = max(1, CHUNK_VALUES // tally.scores.size)
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        count = rows.stop - start
        figures = measure(
            _resampled(tally.inlier_places, tally.scores.size, count, inlier_rng),
            _resampled(tally.outlier_places, tally.scores.size, count, outlier_rng),
        )
        for name, values in figures.items():
            draws[name][rows] = values
    return draws


def percentile_interval(value: float, draws: Stats, level: float) -> Interval:
    """Return the interval that holds the middle share of the draws.

    Args:
        value: The figure on all images.
        draws: The figure's resamples, shape (resamples,).
        level: Share of the draws within the interval, between 0 and 1.
    """
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def delong(inlier_scores: Scores, outlier_scores: Scores, *, level: float = 0.95) -> Interval:
    """Compute AUROC with DeLong's normal interval, cut off at 0 and 1.

    Args:
        inlier_scores: Shape (n,), n at least 2.
        outlier_scores: Shape (m,), m at least 2.
        level: Confidence level, between 0 and 1.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If a set has fewer than two scores, or holds NaN or infinity.
    """
    proportion("level", level)
    of_inliers, of_outliers = _placements(inlier_scores, outlier_scores)
    area = float(of_outliers.mean())
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(_variance(of_inliers, of_outliers))
    return Interval(area, max(0.0, area - reach), min(1.0, area + reach))


def delong_test(
    inlier_scores: Scores,
    outlier_scores: Scores,
    other_inlier_scores: Scores,
    other_outlier_scores: Scores,
    *,
    level: float = 0.95,
) -> Comparison:
    """Test if two detectors' AUROC differ on the same images.

    Args:
        inlier_scores: The first detector's, shape (n,).
        outlier_scores: The first detector's, shape (m,).
        other_inlier_scores: The second detector's, of the same images in the same order, shape (n,).
        other_outlier_scores: The second detector's, of the same images in the same order, shape (m,).
        level: Confidence level of the interval of the difference.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If the detectors did not score the same number of images, a set has fewer than two
            scores, or a score is NaN or infinite.
    """
    proportion("level", level)
    pairs = (
        (inlier_scores, other_inlier_scores, "inlier"),
        (outlier_scores, other_outlier_scores, "outlier"),
    )
    for mine, yours, name in pairs:
        if np.shape(mine) != np.shape(yours):
            raise DataError(
                f"both detectors must score the same {name} images in the same order, "
                f"got {np.shape(mine)} and {np.shape(yours)} scores"
            )
    of_inliers, of_outliers = _placements(inlier_scores, outlier_scores)
    other_of_inliers, other_of_outliers = _placements(other_inlier_scores, other_outlier_scores)
    first, second = float(of_outliers.mean()), float(other_of_outliers.mean())
    error = math.sqrt(_variance(of_inliers - other_of_inliers, of_outliers - other_of_outliers))
    gap = first - second
    z = gap / error if error > 0 else math.copysign(math.inf, gap) if gap else 0.0
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Comparison(
        first=first,
        second=second,
        difference=Interval(gap, max(-1.0, gap - reach), min(1.0, gap + reach)),
        z=z,
        p_value=math.erfc(abs(z) / math.sqrt(2)),
    )


def exact_binomial(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Compute Clopper and Pearson's exact interval of a rate.

    Args:
        count: Number of events, at least 0.
        total: Number of trials, at least 1 and `count`.
        level: Least coverage of the interval, between 0 and 1.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If not 0 <= count <= total with total at least 1.
    """
    low, high = clopper_pearson(count, total, confidence=level)
    return Interval(count / total, low, high)


def _resampled(places: NDArray[np.intp], width: int, rows: int, rng: np.random.Generator) -> Counts:
    """Draw with replacement, and count the draws at each distinct score.

    Returns:
        Shape (rows, width).
    """
    drawn = places[rng.integers(places.size, size=(rows, places.size))]
    drawn += np.arange(rows)[:, None] * width
    return np.bincount(drawn.ravel(), minlength=rows * width).reshape(rows, width).astype(np.float64)


def _placements(inlier_scores: Scores, outlier_scores: Scores) -> tuple[Stats, Stats]:
    """Compute DeLong's components, shapes (n,) and (m,).

    For each inlier the share of outliers above it, for each outlier the share of inliers below it, equal
    scores counted half.
    """
    inliers, outliers = check_scores(inlier_scores, "inlier"), check_scores(outlier_scores, "outlier")
    if min(inliers.size, outliers.size) < 2:
        raise DataError(f"DeLong's variance needs two inliers and two outliers, got {inliers.size} and {outliers.size}")
    return 1 - _share_below(inliers, outliers), _share_below(outliers, inliers)


def _share_below(scores: Scores, others: Scores) -> Stats:
    ordered = np.sort(others)
    below: NDArray[Any] = np.searchsorted(ordered, scores, "left")
    share: Stats = (below + np.searchsorted(ordered, scores, "right")) / (2 * ordered.size)
    return share


def _variance(of_inliers: Stats, of_outliers: Stats) -> float:
    return float(of_inliers.var(ddof=1) / of_inliers.size + of_outliers.var(ddof=1) / of_outliers.size)
