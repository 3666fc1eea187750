"""Count inliers and outliers at each distinct score, the source of every metric.

Only the order of scores matters to AUROC, AUPR and FPR, so a score scale of 1e-9 or 1e9 changes
nothing. Counts are exact in float64, which represents whole numbers below 2**53 exactly. The functions
below take any number of leading axes, one row of counts a resample, for the bootstrap.

Throughout, the outermost score comes first, u is the number of distinct scores, and an image is
flagged together with all images of its score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError
from lit_od.types import Scores

Counts: TypeAlias = NDArray[np.float64]
"""Whole numbers, shape (..., u), one for each distinct score, highest score first."""

Positives: TypeAlias = Literal["outliers", "inliers"]
"""The class to be found."""

FIGURES = ("auroc", "aupr_outliers", "aupr_inliers", "fpr95")
"""Names of the figures that need no threshold. fpr95 takes outliers as positives."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Counts of two sets of scores.

    Attributes:
        scores: Distinct scores, highest first, shape (u,).
        inliers: Number of inliers with each score, shape (u,).
        outliers: Number of outliers with each score, shape (u,).
        inlier_places: Index into `scores` of each inlier, shape (n,).
        outlier_places: Index into `scores` of each outlier, shape (m,).
    """

    scores: Scores
    inliers: Counts
    outliers: Counts
    inlier_places: NDArray[np.intp]
    outlier_places: NDArray[np.intp]

    @classmethod
    def of(cls, inlier_scores: Scores, outlier_scores: Scores) -> Self:
        """Count two sets of scores, shapes (n,) and (m,).

        Raises:
            DataError: If a set is empty, not one-dimensional, or holds NaN or infinity.
        """
        inliers = check_scores(inlier_scores, "inlier")
        outliers = check_scores(outlier_scores, "outlier")
        distinct, places = np.unique(np.concatenate([inliers, outliers]), return_inverse=True)
        places = len(distinct) - 1 - places
        of_inliers, of_outliers = places[: inliers.size], places[inliers.size :]
        return cls(
            scores=distinct[::-1],
            inliers=np.bincount(of_inliers, minlength=len(distinct)).astype(np.float64),
            outliers=np.bincount(of_outliers, minlength=len(distinct)).astype(np.float64),
            inlier_places=of_inliers,
            outlier_places=of_outliers,
        )


def check_scores(scores: Scores, name: str) -> Scores:
    """Check scores, and return them as float64 of shape (n,).

    Raises:
        DataError: If they are empty, not real numbers, not one-dimensional, or hold NaN or infinity.
    """
    try:
        array: NDArray[Any] = np.asarray(scores)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} scores must be an array of numbers: {error}") from None
    if array.ndim != 1:
        raise DataError(f"{name} scores must have shape (n,), got {array.shape}")
    if array.size == 0:
        raise DataError(f"{name} scores are empty, wanted at least one")
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name} scores must be real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise DataError(f"{name} scores must be finite, but {bad} of {array.size} are NaN or infinite")
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Negatives and positives in the order in which they are flagged, with sums.

    Attributes:
        negatives: Number at each distinct score, shape (..., u).
        positives: Number at each distinct score, shape (..., u).
        false: Negatives flagged up to and with each score, shape (..., u).
        found: Positives flagged up to and with each score, shape (..., u).
    """

    negatives: Counts
    positives: Counts
    false: Counts
    found: Counts

    @classmethod
    def of(cls, inliers: Counts, outliers: Counts, positives: Positives = "outliers") -> Self:
        """Make the curve of outliers from the highest score, or inliers from the lowest.

        Args:
            inliers: Number of inliers at each distinct score, shape (..., u).
            outliers: Number of outliers at each distinct score, shape (..., u).
            positives: "outliers" are found from the highest score down, "inliers" from the lowest up.

        Raises:
            ConfigError: If `positives` is neither "outliers" nor "inliers".
        """
        if positives not in ("outliers", "inliers"):
            raise ConfigError(f'positives must be "outliers" or "inliers", got {positives!r}')
        curve = cls(inliers, outliers, np.cumsum(inliers, axis=-1), np.cumsum(outliers, axis=-1))
        return curve if positives == "outliers" else curve.turned()

    def turned(self) -> Self:
        """Return the curve of the other class, found from the other end."""
        return type(self)(
            negatives=self.positives[..., ::-1],
            positives=self.negatives[..., ::-1],
            false=(self.found[..., -1:] - self.found + self.positives)[..., ::-1],
            found=(self.false[..., -1:] - self.false + self.negatives)[..., ::-1],
        )


def auroc_of(curve: Curve) -> Counts:
    """Compute the area under the ROC curve in its rank form, shape (...).

    P(positive flagged before a negative) + P(with it) / 2 (Mann and Whitney).
    """
    pairs = curve.false[..., -1] * curve.found[..., -1]
    lost = _dot(curve.false, curve.positives) - _dot(curve.negatives, curve.positives) / 2
    area: Counts = (pairs - lost) / pairs
    return area


def aupr_of(curve: Curve) -> Counts:
    """Compute the average precision, shape (...).

    The sum over scores of (gain in recall) * precision, not interpolated.
    """
    flagged = curve.false + curve.found
    np.maximum(flagged, 1, out=flagged)  # a resample may have no image at the first scores
    np.divide(curve.found, flagged, out=flagged)
    area: Counts = _dot(flagged, curve.positives) / curve.found[..., -1]
    return area


def fpr_of(curve: Curve, tpr: float) -> Counts:
    """Compute the false-positive rate at the first cut that reaches `tpr`, (...).

    Args:
        curve: The curve.
        tpr: Share of the positives to find, in (0, 1].
    """
    cut = np.argmax(curve.found / curve.found[..., -1:] >= tpr, axis=-1)
    false = np.take_along_axis(curve.false, cut[..., None], axis=-1)[..., 0]
    share: Counts = false / curve.false[..., -1]
    return share


def f1_max_of(curve: Curve) -> Counts:
    """Compute the largest F1 over all cuts, shape (...)."""
    best: Counts = (2 * curve.found / (curve.false + curve.found + curve.found[..., -1:])).max(axis=-1)
    return best


def defect_figures_of(inliers: Counts, outliers: Counts) -> dict[str, Counts]:
    """Compute AUROC, AUPR and F1-max with outliers as positives, each of shape (...)."""
    curve = Curve.of(inliers, outliers)
    return {"auroc": auroc_of(curve), "aupr": aupr_of(curve), "f1_max": f1_max_of(curve)}


def figures_of(inliers: Counts, outliers: Counts) -> dict[str, Counts]:
    """Compute the four figures of `FIGURES` by name, each of shape (...)."""
    curve = Curve.of(inliers, outliers)
    return {
        "auroc": auroc_of(curve),
        "aupr_outliers": aupr_of(curve),
        "aupr_inliers": aupr_of(curve.turned()),
        "fpr95": fpr_of(curve, 0.95),
    }


def _dot(a: Counts, b: Counts) -> Counts:
    """Sum products over the last axis.

    Not by BLAS, since its threads would wait for one another here.
    """
    products: Counts = np.einsum("...u,...u->...", a, b)
    return products


def check_sets(sets: Mapping[str, Scores]) -> dict[str, Scores]:
    """Check each set of scores.

    Raises:
        DataError: If there is no set, or one is invalid.
    """
    if not sets:
        raise DataError("a picture needs at least one set, got none")
    return {name: check_scores(each, name) for name, each in sets.items()}
