"""Rates at a threshold, and the thresholds with the best rates."""

from dataclasses import dataclass

import numpy as np

from lit_od.errors import DataError
from lit_od.evaluation.counts import Tally, check_scores
from lit_od.types import Scores


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of flagging all scores above a threshold; outliers are the positives.

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
    flagged_inliers = np.float64(np.count_nonzero(inliers > threshold))
    flagged_outliers = np.float64(np.count_nonzero(outliers > threshold))
    return _rates(threshold, flagged_inliers, flagged_outliers, inliers.size, outliers.size)


def best_f1(inlier_scores: Scores, outlier_scores: Scores) -> Rates:
    """Compute the rates at the threshold with the highest F1.

    Of equal thresholds, that which flags fewest images. The threshold is the highest score that is not flagged.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    found, false = np.cumsum(tally.outliers), np.cumsum(tally.inliers)
    return _at_cut(tally, int(np.argmax(found / (found + false + found[-1]))))


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
    return _at_cut(tally, best if gain[best] > 0 else -1)


def _at_cut(tally: Tally, last_flagged: int) -> Rates:
    """Compute the rates when the scores up to this index are flagged; -1 for none."""
    if last_flagged + 1 < tally.scores.size:
        threshold = float(tally.scores[last_flagged + 1])
    else:
        threshold = float(np.nextafter(tally.scores[-1], -np.inf))
    flagged = slice(last_flagged + 1)
    return _rates(
        threshold,
        tally.inliers[flagged].sum(),
        tally.outliers[flagged].sum(),
        tally.inlier_places.size,
        tally.outlier_places.size,
    )


def _rates(threshold: float, false: np.float64, found: np.float64, inliers: int, outliers: int) -> Rates:
    tpr, fpr = float(found / outliers), float(false / inliers)
    return Rates(
        threshold=float(threshold),
        tpr=tpr,
        fpr=fpr,
        precision=float(found / (found + false)) if found + false else 0.0,
        f1=float(2 * found / (found + false + outliers)),
        balanced_accuracy=(tpr + 1 - fpr) / 2,
    )
