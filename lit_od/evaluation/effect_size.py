"""Compare two sets of scores: Welch's test and Cohen's effect size.

Also the density ratio of a fitted normal distribution, beside the p-value that needs no distribution.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import proportion
from lit_od.errors import DataError, missing_extra
from lit_od.evaluation.counts import check_scores
from lit_od.evaluation.intervals import Interval
from lit_od.types import Scores


@dataclass(frozen=True, slots=True)
class SampleMoments:
    """Number, mean and standard deviation of a set of scores.

    Attributes:
        n: Number of scores, at least 2.
        mean: Their mean.
        sd: Their standard deviation, with n - 1 in the denominator.
    """

    n: int
    mean: float
    sd: float

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """Compute the moments of scores of shape (n,).

        Raises:
            DataError: If there are fewer than 2 scores, or one is NaN or infinite.
        """
        scores = check_scores(scores, "the")
        if scores.size < 2:
            raise DataError(f"a standard deviation needs at least 2 scores, got {scores.size}")
        return cls(scores.size, float(scores.mean()), float(scores.std(ddof=1)))


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of a second set of scores from a first.

    Attributes:
        t: Welch's t; positive where the second set's mean is higher.
        p_value: Two-sided, of the hypothesis that the means are equal.
        d: Cohen's d: the difference of the means in units of sqrt((sd1^2 + sd2^2) / 2).
    """

    t: float
    p_value: float
    d: float


def difference(first: SampleMoments, second: SampleMoments) -> Difference:
    """Compare two sets of unequal variances (Welch 1947; Cohen 1988).

    Raises:
        DataError: If both standard deviations are 0.
        MissingExtra: If scipy is not installed.
    """
    try:
        from scipy.stats import ttest_ind_from_stats
    except ImportError:
        missing_extra("scipy", "evaluate,cpu")
    pooled = math.sqrt((first.sd**2 + second.sd**2) / 2)
    if pooled == 0:
        raise DataError("two sets without any spread cannot be compared: all scores of each are equal")
    t, p_value = ttest_ind_from_stats(second.mean, second.sd, second.n, first.mean, first.sd, first.n, equal_var=False)
    return Difference(float(t), float(p_value), (second.mean - first.mean) / pooled)


def effect_interval(first: SampleMoments, second: SampleMoments, *, level: float = 0.95) -> Interval:
    """Compute Cohen's d of two sets of unequal variances, with its interval.

    The interval is the large-sample one of Bonett 2008, equation 3.

    Args:
        first: Moments of the first set.
        second: Moments of the second set.
        level: Confidence level, between 0 and 1.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If both standard deviations are 0.
        MissingExtra: If scipy is not installed.
    """
    proportion("level", level)
    d = difference(first, second).d
    variances = [(each.sd**2, each.n - 1) for each in (first, second)]
    pooled = sum(variance for variance, _ in variances) / 2
    of_spread = d**2 / (8 * pooled**2) * sum(variance**2 / freedom for variance, freedom in variances)
    of_means = sum(variance / freedom for variance, freedom in variances) / pooled
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(of_spread + of_means)
    return Interval(d, d - reach, d + reach)


def normal_ratio(inliers: SampleMoments, scores: Scores) -> NDArray[np.float64]:
    """Compute a normal density at each score relative to its peak, shape (n,).

    The distribution has the inliers' mean and standard deviation. The ratio is exp(-z^2 / 2), in (0, 1], and no
    probability: it assumes normally distributed scores, falls below the mean as it does above, and the share of
    inliers at or below a level is not that level.

    Raises:
        DataError: If all of the inliers' scores are equal.
    """
    if inliers.sd == 0:
        raise DataError("a normal distribution needs scores that differ, and all of the inliers' are equal")
    return np.exp(-0.5 * np.square((np.asarray(scores) - inliers.mean) / inliers.sd))
