"""How well scores tell outliers from inliers. Higher scores are more outlying, so outliers are flagged first.

The functions take the scores of inliers, shape (n,), and of outliers, shape (m,), on any scale.
The arithmetic is the float64 rank form of `counts`; `training.loop.outlier_metrics` is the same for Lightning's loops.
"""

from lit_od.checks import proportion
from lit_od.evaluation.counts import (
    Curve,
    Positives,
    Tally,
    aupr_of,
    auroc_of,
    figures_of,
    fpr_of,
)
from lit_od.evaluation.rates import Rates, best_balanced_accuracy, best_f1, rates
from lit_od.types import Scores

__all__ = [
    "Rates",
    "aupr",
    "auroc",
    "best_balanced_accuracy",
    "best_f1",
    "fpr_at_tpr",
    "rates",
    "summary",
]


def auroc(inlier_scores: Scores, outlier_scores: Scores) -> float:
    """Area under the ROC curve: P(outlier's score > inlier's) + P(equal) / 2.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(auroc_of(Curve.of(tally.inliers, tally.outliers)))


def aupr(inlier_scores: Scores, outlier_scores: Scores, *, positives: Positives = "outliers") -> float:
    """Area under the precision-recall curve, as average precision (no interpolation).

    It depends on how many there are of each: scores without any meaning give the share of positives.

    Args:
        inlier_scores: Shape (n,).
        outlier_scores: Shape (m,).
        positives: "outliers", found from the highest score downwards, or "inliers", found from the
            lowest upwards.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(aupr_of(Curve.of(tally.inliers, tally.outliers, positives)))


def fpr_at_tpr(
    inlier_scores: Scores, outlier_scores: Scores, *, tpr: float = 0.95, positives: Positives = "outliers"
) -> float:
    """False-positive rate at the strictest threshold that finds at least the share `tpr` of the positives.

    Papers report both readings as FPR95. With outliers as positives (here the default, and OpenOOD's
    since 1.5) it is the share of inliers flagged where 95 % of the outliers are found. With inliers as
    positives (ODIN, OpenOOD 1.0) it is the share of outliers let through where 95 % of the inliers pass.

    Args:
        inlier_scores: Shape (n,).
        outlier_scores: Shape (m,).
        tpr: Share of the positives to find, between 0 and 1.
        positives: The class to find; the other one is falsely found.

    Raises:
        ConfigError: If `tpr` is not between 0 and 1.
        DataError: If either set is empty, or holds NaN or infinity.
    """
    proportion("tpr", tpr)
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(fpr_of(Curve.of(tally.inliers, tally.outliers, positives), tpr))


def summary(inlier_scores: Scores, outlier_scores: Scores) -> dict[str, float]:
    """The figures that need no threshold, by name: auroc, aupr_outliers, aupr_inliers, fpr95.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return {name: float(value) for name, value in figures_of(tally.inliers, tally.outliers).items()}
