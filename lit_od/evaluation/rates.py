"""Rates at a threshold, and at those of the best F1 and balanced accuracy."""

from dataclasses import dataclass

import numpy as np

from lit_od.calibration.rules import best_f1_cut
from lit_od.errors import DataError
from lit_od.evaluation.counts import Tally, check_scores
from lit_od.types import Scores


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates where every score above a threshold is flagged.

    Outliers are the positives.

    Attributes:
        threshold: An image is flagged if `score > threshold`.
        tpr: Share of outliers that are flagged (recall).
        fpr: Share of inliers that are flagged.
        precision: Share of the flagged that are outliers; 0 if nothing is flagged.
        f1: Harmonic mean of precision and tpr; 0 if no outlier is flagged.
        balanced_accuracy: Mean of tpr and 1 - fpr.
    """

    threshold: float
    tpr: float
    fpr: float
    precision: float
    f1: float
    balanced_accuracy: float


def rates(inlier_scores: Scores, outlier_scores: Scores, threshold: float) -> Rates:
    """Compute the rates at a threshold.

    Args:
        inlier_scores: Shape (n,).
        outlier_scores: Shape (m,).
        threshold: An image is flagged if `score > threshold`.

    Raises:
        DataError: If either set is empty or holds NaN or infinity, or the threshold is NaN.
    """
    inliers = check_scores(inlier_scores, "inlier")
    outliers = check_scores(outlier_scores, "outlier")
    if np.isnan(threshold):
        raise DataError("threshold must be a number, got NaN")
    false = int(np.count_nonzero(inliers > threshold))
    found = int(np.count_nonzero(outliers > threshold))
    tpr, fpr = found / outliers.size, false / inliers.size
    return Rates(
        threshold=float(threshold),
        tpr=tpr,
        fpr=fpr,
        precision=found / (found + false) if found + false else 0.0,
        f1=2 * found / (found + false + outliers.size),
        balanced_accuracy=(tpr + 1 - fpr) / 2,
    )


def best_f1(inlier_scores: Scores, outlier_scores: Scores) -> Rates:
    """Compute the rates at the threshold with the highest F1.

    Of equal thresholds, that which flags fewest images. The threshold is the highest score that is not flagged.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    inliers, outliers = check_scores(inlier_scores, "inlier"), check_scores(outlier_scores, "outlier")
    return _at_cut(inliers, outliers, best_f1_cut(inliers, outliers))


def best_balanced_accuracy(inlier_scores: Scores, outlier_scores: Scores) -> Rates:
    """Compute the rates at the threshold with the highest balanced accuracy.

    Of equal thresholds, that which flags fewest images. The threshold is the highest score that is not flagged.
    If flagging nothing is best, it is the highest score.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    found, false = np.cumsum(tally.outliers), np.cumsum(tally.inliers)
    gain = found * false[-1] - false * found[-1]  # whole numbers, so that ties are exact
    best = int(np.argmax(gain))
    # the highest score that is not flagged, for 0, 1, ... distinct ones flagged
    cuts = np.append(tally.scores, -np.inf)
    return _at_cut(inlier_scores, outlier_scores, float(cuts[best + 1 if gain[best] > 0 else 0]))


def _at_cut(inlier_scores: Scores, outlier_scores: Scores, cut: float) -> Rates:
    """Compute the rates where scores above a cut are flagged.

    A cut of -inf flags all, and becomes a finite threshold.
    """
    if cut == -np.inf:
        cut = float(np.nextafter(min(np.min(inlier_scores), np.min(outlier_scores)), -np.inf))
    return rates(inlier_scores, outlier_scores, cut)
