"""Outlier metrics for Lightning's loops, on any number of processes.

torchmetrics brings the states that gather across processes; the arithmetic is the float64 rank form of
`evaluation.counts`, since torchmetrics' own curves pass values outside [0, 1] through a sigmoid and add up
in float32.
"""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lit_od.errors import DataError
from lit_od.evaluation.metrics import summary
from lit_od.evaluation.rates import rates
from lit_od.types import Scores


class OutlierMetrics(Metric):
    """AUROC, AUPR and FPR at 95 % TPR of the scores of all batches and processes.

    `compute` first gathers the scores of all processes, any number from each, and then ranks
    them: any number of processes gives the figures of one. In a LightningModule:

        def validation_step(self, batch, _):
            self.metrics.update(scores, is_outlier)

        def on_validation_epoch_end(self):
            if not self.trainer.sanity_checking:  # its few batches may hold inliers alone
                self.log_dict(self.metrics.compute())
            self.metrics.reset()

    Args:
        threshold: Adds the rates at this threshold, with `score > threshold` flagged. None adds nothing.
        prefix: Prefix of each name that `compute` returns.
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
        """Add a batch of scores.

        Args:
            scores: Outlier scores, shape (n,).
            is_outlier: True, or 1, for outliers, shape (n,).

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
        """Return auroc, aupr_outliers, aupr_inliers, fpr95, and the rates, by name.

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
    """Return a state as one array: a list of batches, or after gathering, a tensor."""
    if isinstance(state, list) and not state:
        return np.empty(0)
    joined: Tensor = dim_zero_cat(state)
    gathered: Scores = joined.cpu().double().numpy()
    return gathered
