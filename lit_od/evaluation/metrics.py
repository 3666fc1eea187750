"""How well scores tell outliers from inliers. Higher scores are more outlying, so outliers are flagged first.

The functions take the scores of inliers, shape (n,), and of outliers, shape (m,), on any scale.
`OutlierMetrics` is the same for Lightning's validation and test loops, on any number of processes.
torchmetrics brings the states that gather across them; the arithmetic is the float64 rank form of
`lit_od.evaluation.counts`, since torchmetrics' own curves pass what lies outside [0, 1] through a
sigmoid and add up in float32.
"""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lit_od.errors import DataError
from lit_od.evaluation.counts import (
    Curve,
    Positives,
    Tally,
    aupr_of,
    auroc_of,
    check_share,
    figures_of,
    fpr_of,
)
from lit_od.evaluation.rates import Rates, best_balanced_accuracy, best_f1, rates
from lit_od.types import Scores

__all__ = [
    "OutlierMetrics",
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
    check_share(tpr, "tpr")
    tally = Tally.of(inlier_scores, outlier_scores)
    return float(fpr_of(Curve.of(tally.inliers, tally.outliers, positives), tpr))


def summary(inlier_scores: Scores, outlier_scores: Scores) -> dict[str, float]:
    """The figures that need no threshold, by name: auroc, aupr_outliers, aupr_inliers, fpr95.

    Raises:
        DataError: If either set is empty, or holds NaN or infinity.
    """
    tally = Tally.of(inlier_scores, outlier_scores)
    return {name: float(value) for name, value in figures_of(tally.inliers, tally.outliers).items()}


class OutlierMetrics(Metric):
    """AUROC, AUPR and FPR at 95 % TPR of the scores of all batches and processes.

    `compute` gathers the scores of all processes first, whatever number each of them has, and ranks
    them then: any number of processes gives the figures of one. In a LightningModule:

        def validation_step(self, batch, _):
            self.metrics.update(scores, is_outlier)

        def on_validation_epoch_end(self):
            if not self.trainer.sanity_checking:  # its few batches may hold inliers alone
                self.log_dict(self.metrics.compute())
            self.metrics.reset()

    Args:
        threshold: Adds the rates where `score > threshold` is flagged. None adds nothing.
        prefix: Goes before each name in what `compute` returns.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    inlier_scores: list[Tensor]
    outlier_scores: list[Tensor]

    def __init__(self, *, threshold: float | None = None, prefix: str = "") -> None:
        super().__init__()
        self.threshold = threshold
        self.prefix = prefix
        self.set_dtype(torch.float64)  # also of the empty state that a process without a batch sends
        self.add_state("inlier_scores", default=[], dist_reduce_fx="cat")
        self.add_state("outlier_scores", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, is_outlier: Tensor) -> None:
        """Take a batch: scores of shape (n,), and whether each is an outlier's, bool or 0 and 1, shape (n,).

        Raises:
            DataError: If the shapes differ or are not (n,), or `is_outlier` holds other values.
        """
        if scores.ndim != 1 or scores.shape != is_outlier.shape:
            raise DataError(
                f"scores and is_outlier must both have shape (n,), got {tuple(scores.shape)} "
                f"and {tuple(is_outlier.shape)}"
            )
        positive = is_outlier == 1
        if not bool((positive | (is_outlier == 0)).all()):
            raise DataError("is_outlier must hold booleans, or 0 and 1 alone")
        # Apple's GPUs have no float64
        scores = scores.detach().to(torch.float32 if scores.device.type == "mps" else torch.float64)
        self.inlier_scores.append(scores[~positive])
        self.outlier_scores.append(scores[positive])

    def compute(self) -> dict[str, Tensor]:
        """The figures by name: auroc, aupr_outliers, aupr_inliers, fpr95, and the rates at the threshold.

        Raises:
            DataError: If all processes together hold no inlier, no outlier, or a score that is not finite.
        """
        inliers, outliers = _gathered(self.inlier_scores), _gathered(self.outlier_scores)
        figures = summary(inliers, outliers)
        if self.threshold is not None:
            figures |= asdict(rates(inliers, outliers, self.threshold))
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return {
            self.prefix + name: torch.tensor(value, dtype=dtype, device=self.device) for name, value in figures.items()
        }


def _gathered(state: list[Tensor] | Tensor) -> Scores:
    """A state as one array: a list of batches, or after gathering, one tensor."""
    if isinstance(state, list) and not state:
        return np.empty(0)
    together: Tensor = dim_zero_cat(state)
    gathered: Scores = together.cpu().double().numpy()
    return gathered
