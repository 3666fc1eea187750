"""Metrics of scores and maps: AUROC, AUPR, FPR, AUPRO. Higher is more outlying.

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
from lit_od.evaluation.pixel_metrics import aupro, pixel_auroc
from lit_od.evaluation.rates import Rates, best_balanced_accuracy, best_f1, rates
from lit_od.types import Scores

__all__ = [
    "Rates",
    "aupr",
    "aupro",
    "auroc",
    "best_balanced_accuracy",
    "best_f1",
    "fpr_at_tpr",
    "pixel_auroc",
    "rates",
    "summary",
]


def auroc(inlier_scores: Scores, outlier_scores: Scores) -> float:
    """Compute the area under the ROC curve: P(outlier's > inlier's) + P(equal) / 2.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.

    Example:
        >>> import numpy as np
        >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0]))
        0.8333333333333334
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(auroc_of(Curve.of(tally.inliers, tally.outliers)))


def aupr(inlier_scores: Scores, outlier_scores: Scores, *, positives: Positives = "outliers") -> float:
    """Compute the area under the precision-recall curve, as average precision.

    It is not interpolated, and depends on the numbers of images: random scores give the share of positives.

    Args:
        inlier_scores: Shape (n,).
        outlier_scores: Shape (m,).
        positives: "outliers", found from the highest score downwards, or "inliers", found from the
            lowest upwards.

    Raises:
        ConfigError: If `positives` is neither of the two.
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(aupr_of(Curve.of(tally.inliers, tally.outliers, positives)))


def fpr_at_tpr(
    inlier_scores: Scores, outlier_scores: Scores, *, tpr: float = 0.95, positives: Positives = "outliers"
) -> float:
    """Compute the false-positive rate at the strictest threshold that reaches a TPR.

    Papers report both readings as FPR95. With outliers as positives (here the default, and OpenOOD's
    since 1.5) it is the share of inliers flagged where 95 % of the outliers are found. With inliers as
    positives (ODIN, OpenOOD 1.0) it is the share of outliers let through where 95 % of the inliers pass.

    Args:
        inlier_scores: Shape (n,).
        outlier_scores: Shape (m,).
        tpr: Least share of the positives to find, between 0 and 1.
        positives: The class to find; the other one is falsely found.

    Raises:
        ConfigError: If `tpr` is not between 0 and 1, or `positives` is neither "outliers" nor "inliers".
        DataError: If either set is empty, or holds NaN or infinity.
    """
    proportion("tpr", tpr)
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(fpr_of(Curve.of(tally.inliers, tally.outliers, positives), tpr))


def summary(inlier_scores: Scores, outlier_scores: Scores) -> dict[str, float]:
    """Compute the figures of `FIGURES`, which need no threshold, by name.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return {name: float(value) for name, value in figures_of(tally.inliers, tally.outliers).items()}
