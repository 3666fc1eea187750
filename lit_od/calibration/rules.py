"""Threshold rules: their options, requirements and thresholds.

An image is called an outlier if its score is above the threshold, never where it is equal.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from lit_od.checks import integer, number, suggest
from lit_od.errors import ConfigError, DataError
from lit_od.types import Scores

RULES: dict[str, dict[str, Any]] = {
    "mean_std": {"n": 2},
    "percentile": {"q": 99},
    "fpr": {"rate": 0.01},
    "max_f1": {"outliers": None},
    "value": {"value": None},
}
"""Threshold rules and the defaults of their options.

`value` is a threshold set by hand. `outliers` of max_f1 is the number of outliers that gave the
threshold: it is filled in with the threshold, and a rule without it has not been applied yet.
"""


def check_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule with every option filled in.

    Raises:
        ConfigError: If the rule or an option is unknown, or a value is invalid.
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
            number("n", complete["n"], least=-1e6, most=1e6)
        case "percentile":
            number("q", complete["q"], least=0, most=100)
        case "fpr":
            number("rate", complete["rate"], above=0, below=1)
        case "max_f1":
            if complete["outliers"] is not None:
                integer("outliers", complete["outliers"], least=1)
        case "value":
            number("value", complete["value"], least=-1e300, most=1e300)
    return {"rule": name, **complete}


def require_applicable(rule: Mapping[str, Any], *, inliers: int, outliers: int = 0) -> dict[str, Any]:
    """Return the rule with its options once it is applicable to so many scores.

    Called before the scores are computed, so that nothing is computed in vain.

    Args:
        rule: `rule` and its options.
        inliers: Number of calibration inliers.
        outliers: Number of labelled outliers, which max_f1 needs and no other rule takes.

    Raises:
        ConfigError: If the rule is invalid, or outliers are missing or too many.
        DataError: If there are too few inliers for the rule.
    """
    complete = check_rule(rule)
    name = complete["rule"]
    require_outliers_where_used(name, outliers)
    if name == "max_f1":
        complete["outliers"] = outliers
    if name == "fpr":
        conformal_rank(inliers, complete["rate"])
    return complete


def require_outliers_where_used(name: str, outliers: int) -> None:
    """Check that outliers are there exactly where a rule needs them.

    Raises:
        ConfigError: If they are missing, or not used by the rule.
    """
    if name == "max_f1" and not outliers:
        raise ConfigError(
            "rule max_f1 needs labelled outliers: give --outliers PATH (in a recipe calibration.outliers), "
            "or another rule"
        )
    if name != "max_f1" and outliers:
        raise ConfigError(f"rule {name} takes no outliers: leave them out, or take rule max_f1")


def threshold_of(rule: Mapping[str, Any], inliers: Scores, outliers: Scores) -> float:
    """Return the threshold of a complete rule that is applicable.

    Args:
        rule: The rule as `require_applicable` returned it.
        inliers: Finite scores of calibration inliers, ascending, shape (n,), n at least 1.
        outliers: Finite scores of labelled outliers, shape (m,); empty but for max_f1.

    Raises:
        DataError: If max_f1 finds nothing better than to flag every image.
    """
    match rule["rule"]:
        case "mean_std":
            return float(np.mean(inliers) + rule["n"] * np.std(inliers))
        case "percentile":
            return float(np.percentile(inliers, rule["q"]))
        case "fpr":
            return float(inliers[conformal_rank(inliers.size, rule["rate"]) - 1])
        case "max_f1":
            return best_f1(inliers, outliers)
        case _:
            return float(rule["value"])


def conformal_rank(inliers: int, rate: float) -> int:
    """Return the rank of the calibration score that rule fpr takes as threshold.

    Rank 1 is the smallest score. k = ceil((n + 1)(1 - rate)): an inlier that is exchangeable with the n
    others is above the k-th smallest of them with probability (n + 1 - k) / (n + 1) <= rate, and with less
    where scores tie (Vovk et al. 2005). A score is above it exactly where its p-value is at most `rate`;
    rounding included, since k is found by the p-values' own division.

    Raises:
        DataError: If there are too few inliers: even above the largest of n scores, an inlier is
            expected with probability 1 / (n + 1).
    """
    flagged = _most_flagged(inliers, rate)
    if flagged == 0:
        raise DataError(
            f"rate={rate:g} needs at least {inliers_needed(rate):,} calibration inliers, got {inliers:,}. "
            "Pass more images or a higher rate."
        )
    return inliers + 1 - flagged


def inliers_needed(rate: float) -> int:
    """Return the least number of calibration inliers for rule fpr at this rate.

    It is 1 / rate - 1, rounded up.
    """
    needed = math.ceil(1 / Fraction(rate)) - 1
    return needed - 1 if needed > 1 and 1 / needed <= rate else needed  # 1 / 3 in floating point is below a third


def _most_flagged(inliers: int, rate: float) -> int:
    """Return the largest m with m / (n + 1) <= rate in floating point.

    floor(rate * (n + 1)) may be off by one.
    """
    flagged = math.floor(rate * (inliers + 1)) + 1
    while flagged / (inliers + 1) > rate:
        flagged -= 1
    return flagged


def best_f1(inliers: Scores, outliers: Scores) -> float:
    """Return the threshold with the best F1 = 2 TP / (2 TP + FP + FN).

    Outliers are the positives. The threshold lies halfway between the two neighbouring scores that it
    divides, so that neither changes side where another machine computes it a little differently. Of
    equally good ones it is the highest, which flags the fewest inliers.

    Args:
        inliers: Finite scores, ascending, shape (n,).
        outliers: Finite scores, shape (m,), m at least 1.

    Raises:
        DataError: If no threshold between two scores is as good as calling every image an outlier.
    """
    below = best_f1_cut(inliers, outliers)
    if below == -math.inf:
        raise DataError(
            f"the best F1 over {inliers.size:,} inliers and {outliers.size:,} outliers is that of calling every image "
            "an outlier. Pass outliers that score higher, more inliers, or another rule."
        )
    scores = np.concatenate([inliers, outliers])
    above = float(scores[scores > below].min())
    middle = below / 2 + above / 2
    return middle if middle < above else below  # neighbouring floats have nothing between them


def best_f1_cut(inliers: Scores, outliers: Scores) -> float:
    """Return the cut of the best F1: images that score higher are flagged.

    Of equally good cuts it is the one that flags the fewest images.

    Args:
        inliers: Finite scores, shape (n,).
        outliers: Finite scores, shape (m,), m at least 1.
    """
    cuts = np.concatenate([[-np.inf], np.unique(np.concatenate([inliers, outliers]))[:-1]])
    true = outliers.size - np.searchsorted(np.sort(outliers), cuts, side="right")
    false = inliers.size - np.searchsorted(np.sort(inliers), cuts, side="right")
    f1 = 2 * true / (true + false + outliers.size)
    return float(cuts[np.flatnonzero(f1 == f1.max())[-1]])
