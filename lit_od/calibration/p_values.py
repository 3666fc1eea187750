"""Thresholds and p-values from the scores of calibration inliers.

Calibration inliers are used for nothing else, or each is scored by a detector that was fitted without it (see
`calibration.method`). The p-value of a score is (1 + number of calibration inliers with score >= this score) / (1 + n):
the conformal p-value (Vovk et al. 2005; Laxhammar and Falkman 2010). For an inlier that is exchangeable with inliers
that were held out P(p <= t) <= t holds for every t, whatever the scores' distribution; after a cross calibration it is
an approximation.

Calibration scores are stored raised by a hair, which p-values and thresholds then share: the last bits of a score hang
on its batch and on the processor, and must decide nothing for an image that equals a calibration image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.calibration.binomial import clopper_pearson
from lit_od.calibration.method import Folds
from lit_od.calibration.rules import require_applicable, threshold_of
from lit_od.errors import DataError
from lit_od.types import Scores

HAIR = 1e-6
"""By how much calibration scores are raised: a share of their interquartile range, see `from_inliers`."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Calibration scores, and the threshold that a rule takes from them.

    Attributes:
        scores: Scores of the calibration inliers, raised by a hair, ascending, shape (n,).
        rule: `rule` and its options.
        threshold: Images with a score above it are called outliers.
        folds: Folds of a cross calibration; None where the inliers were held out.
        peaks: Peaks of the calibration inliers' maps, ascending, shape (n,), where an image's score is another
            aggregate; None elsewhere.

    Example:
        >>> calibration = Calibration.from_inliers(np.arange(19.0), {"rule": "fpr", "rate": 0.05})
        >>> calibration.p_values(np.array([9.0, 30.0])).tolist(), calibration.is_outlier(np.array([9.0, 30.0])).tolist()
        ([0.55, 0.05], [False, True])
    """

    scores: Scores
    rule: dict[str, Any]
    threshold: float
    folds: Folds | None = None
    peaks: Scores | None = None

    @classmethod
    def from_inliers(
        cls, scores: Scores, rule: Mapping[str, Any], *, outliers: Scores | None = None, folds: Folds | None = None
    ) -> Self:
        """Take the threshold from inliers that were not fitted on.

        Scores are raised by `HAIR` of their interquartile range, or of max(1, |median|) where that is zero.

        Args:
            scores: Outlier scores of inliers that neither fitted the detector nor chose anything, (n,); with folds
                each by a detector that was fitted without it.
            rule: `{"rule": NAME, option: value}`: mean_std (n), percentile (q), fpr (rate), max_f1 or
                value (value).
            outliers: Scores of labelled outliers, (m,): needed by max_f1, refused by the others.
            folds: Folds of a cross calibration; None where the inliers were held out.

        Raises:
            ConfigError: If the rule or an option is invalid, or outliers are missing or too many.
            DataError: If there are no scores, too few for the rule, or one is not finite.
        """
        scores = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
        if scores.size == 0:
            raise DataError("calibration needs inliers: give the calibration part a larger share")
        return cls._of(_raised(scores), rule, outliers, folds)

    def with_rule(self, rule: Mapping[str, Any], *, outliers: Scores | None = None) -> Self:
        """Return a calibration of the same scores under another rule."""
        return replace(self._of(self.scores, rule, outliers, self.folds), peaks=self.peaks)

    @classmethod
    def _of(cls, scores: Scores, rule: Mapping[str, Any], outliers: Scores | None, folds: Folds | None) -> Self:
        """Take the threshold from scores that are raised and ascending."""
        others = np.empty(0) if outliers is None else np.asarray(outliers, dtype=np.float64).reshape(-1)
        if not np.isfinite(scores).all() or not np.isfinite(others).all():
            raise DataError("calibration scores must be finite")
        scores.setflags(write=False)
        complete = require_applicable(rule, inliers=scores.size, outliers=others.size)
        return cls(scores, complete, threshold_of(complete, scores, others), folds)

    def of_peaks(self) -> float | None:
        """Return the threshold that the rule takes from the peaks of maps.

        It is the largest of them for a rule that needs more than inliers, and None without peaks.
        """
        if self.peaks is None:
            return None
        rule = {"rule": "percentile", "q": 100} if self.rule["rule"] in ("max_f1", "value") else self.rule
        return type(self).from_inliers(self.peaks, rule).threshold

    def as_scored(self) -> Scores:
        """Return the scores as they were before they were raised, shape (n,)."""
        low, median, high = np.percentile(self.scores, (25, 50, 75))
        return self.scores - HAIR * (float(high - low) or max(1.0, abs(float(median))))

    def p_values(self, scores: Scores) -> NDArray[np.float64]:
        """Return conformal p-values in (0, 1], shape (n,); small is outlying."""
        at_least = self.scores.size - np.searchsorted(self.scores, scores, side="left")
        return np.asarray((1.0 + at_least) / (1.0 + self.scores.size), dtype=np.float64)

    def is_outlier(self, scores: Scores) -> NDArray[np.bool_]:
        """Return True for each score above the threshold, shape (n,)."""
        return np.asarray(scores) > self.threshold

    def flagged(self, threshold: float | None = None) -> int:
        """Count the calibration inliers above a threshold; None takes the one in force."""
        limit = self.threshold if threshold is None else threshold
        return int(np.count_nonzero(self.scores > limit))

    def flagged_share(self, threshold: float | None = None) -> float:
        """Return the share of calibration inliers above a threshold; None: that in force."""
        return self.flagged(threshold) / self.scores.size

    def promised(self) -> float | None:
        """Return the rate that p-values promise for the threshold in force.

        With m scores above it an inlier above it has a p-value of at most (m + 1) / (n + 1). None for the rules that
        do not set m beforehand, which are all but fpr and percentile.
        """
        if self.rule["rule"] not in ("fpr", "percentile"):
            return None
        return (self.flagged() + 1) / (self.scores.size + 1)

    def fpr_interval(self, threshold: float | None = None, *, confidence: float = 0.95) -> tuple[float, float]:
        """Return an interval of a threshold's false-positive rate on inliers like these.

        The interval is Clopper and Pearson's (1934) for the calibration inliers above the threshold. It covers
        the rate with at least the stated confidence, over the draw of the calibration images,

        - for a threshold that does not depend on these scores (rule value, set without looking at them);
        - for one at or between two scores of ranks that were set beforehand (fpr, percentile), if scores
          do not tie. The rate above the k-th smallest of n is Beta(n + 1 - k, k) distributed (Wilks 1941;
          Vovk 2012 for conformal predictors). With n - k scores above, Beta(n - k, k + 1) and
          Beta(n + 1 - k, k), whose quantiles are the ends here, belong to the two scores around the
          threshold; at the k-th score itself the upper end is exact and the lower one cautious.

        The interval is an approximation after a cross calibration and for mean_std. It is too low for max_f1, since the
        threshold was moved to where few of these scores are above, and for one picked from a table of intervals.

        Args:
            threshold: None takes the one in force.
            confidence: In (0, 1).

        Returns:
            Both ends, in [0, 1].

        Raises:
            ConfigError: If the confidence is out of range.
        """
        return clopper_pearson(self.flagged(threshold), self.scores.size, confidence=confidence)


def _raised(scores: Scores) -> Scores:
    """Raise scores of shape (n,), n at least 1, by a hair."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the caller
        low, median, high = np.percentile(scores, (25, 50, 75))
        return scores + HAIR * (float(high - low) or max(1.0, abs(float(median))))
