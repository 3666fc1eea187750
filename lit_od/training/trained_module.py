"""The base of the modules that are trained here, and their optimisers."""

from collections.abc import Callable
from functools import partial

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": partial(SGD, momentum=0.9),
    "rmsprop": partial(RMSprop, alpha=0.9),  # the decay of Keras
}
"""Optimisers by name, called with weights, learning rate and further options."""


class TrainedModule(LightningModule):
    """A module that adds figures up over an epoch, and over all processes at its end.

    Subclasses add in each step, and log in `log_epoch`. One sum kept here costs a tenth of Lightning's
    bookkeeping of a value that is logged in every step.
    """

    def __init__(self) -> None:
        """Begin without figures."""
        super().__init__()
        self._sums: dict[str, Tensor] = {}  # by stage: validation runs inside a training epoch

    def log_epoch(self, stage: str) -> None:
        """Log the figures of an epoch's stage: "train", "val" or "test".

        Raises:
            NotImplementedError: If the subclass logs nothing.
        """
        raise NotImplementedError

    def on_train_epoch_end(self) -> None:
        """Log the training's figures."""
        self.log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation's figures."""
        self.log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the test's figures."""
        self.log_epoch("test")

    def add(self, stage: str, *values: Tensor) -> None:
        """Add scalars to the sums of a stage, the same number of them in each step."""
        batch = torch.stack(values)
        self._sums[stage] = self._sums[stage] + batch if stage in self._sums else batch

    def totals(self, stage: str) -> Tensor:
        """Return the sums of an epoch over all processes, and clear them."""
        total = self.trainer.strategy.reduce(self._sums.pop(stage), reduce_op="sum")
        return torch.as_tensor(total)
