"""Thresholds and p-values from the scores of inliers that were used for nothing else.

The p-value of a score is (1 + number of calibration inliers with score >= this score) / (1 + n): the
conformal p-value (Vovk et al. 2005; Laxhammar and Falkman 2010). For an inlier that is exchangeable
with the calibration inliers P(p <= t) <= t holds for every t, whatever the scores' distribution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.options import number, suggest
from lit_od.errors import ConfigError, DataError
from lit_od.types import Scores

RULES: dict[str, dict[str, Any]] = {
    "mean_std": {"n": 2},
    "percentile": {"q": 99},
    "value": {"value": None},
}
"""Threshold rules and the defaults of their options; `value` is a threshold set by hand."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Calibration scores, and the threshold that a rule takes from them.

    Attributes:
        scores: Scores of the calibration inliers, ascending, shape (n,).
        rule: `rule` and its options.
        threshold: An image is called an outlier if its score is above.
    """

    scores: Scores
    rule: dict[str, Any]
    threshold: float

    @classmethod
    def from_inliers(cls, scores: Scores, rule: Mapping[str, Any]) -> Self:
        """Take the threshold from held-out inliers.

        Args:
            scores: Outlier scores of inliers that neither fitted the detector nor chose anything, (n,).
            rule: `{"rule": NAME, option: value}`: mean_std (n), percentile (q) or value (value).

        Raises:
            ConfigError: If the rule or an option cannot be.
            DataError: If there are no scores, or one is not finite.
        """
        scores = np.sort(np.asarray(scores, dtype=np.float64).reshape(-1))
        if scores.size == 0:
            raise DataError("calibration needs inliers: give the calibration part a larger share")
        if not np.isfinite(scores).all():
            raise DataError("calibration scores must be finite")
        scores.setflags(write=False)
        complete = check_rule(rule)
        return cls(scores, complete, _threshold(scores, complete))

    def with_rule(self, rule: Mapping[str, Any]) -> Self:
        """The same scores under another rule."""
        return type(self).from_inliers(self.scores, rule)

    def p_values(self, scores: Scores) -> NDArray[np.float64]:
        """Conformal p-values in (0, 1], shape (n,); small is outlying."""
        at_least = self.scores.size - np.searchsorted(self.scores, scores, side="left")
        return np.asarray((1.0 + at_least) / (1.0 + self.scores.size), dtype=np.float64)

    def is_outlier(self, scores: Scores) -> NDArray[np.bool_]:
        """Whether each score is above the threshold, shape (n,)."""
        return np.asarray(scores) > self.threshold

    def flagged_share(self, threshold: float | None = None) -> float:
        """Share of the calibration inliers above a threshold, by default above the one in force."""
        limit = self.threshold if threshold is None else threshold
        return float(np.mean(self.scores > limit))


def check_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """The rule with every option filled in.

    Raises:
        ConfigError: If the rule or an option is unknown, or a value cannot be.
    """
    options = dict(rule)
    name = options.pop("rule", None)
    if not isinstance(name, str) or name not in RULES:
        raise ConfigError(f"unknown threshold rule {name!r}: {suggest(name, list(RULES))}")
    for option in options:
        if option not in RULES[name]:
            raise ConfigError(f"rule {name} has no option {option!r}: {suggest(option, list(RULES[name]))}")
    complete = {**RULES[name], **options}
    match name:
        case "mean_std":
            number("n", complete["n"], least=-math.inf, most=1e6)
        case "percentile":
            number("q", complete["q"], least=0, most=100)
        case "value":
            number("value", complete["value"], least=-1e300, most=1e300)
    return {"rule": name, **complete}


def _threshold(scores: Scores, rule: Mapping[str, Any]) -> float:
    match rule["rule"]:
        case "mean_std":
            return float(np.mean(scores) + rule["n"] * np.std(scores))
        case "percentile":
            return float(np.percentile(scores, rule["q"]))
        case _:
            return float(rule["value"])
