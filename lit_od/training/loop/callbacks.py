"""Callbacks that watch and steer a training besides its objective."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

from lit_od.detectors.mahalanobis import Mahalanobis
from lit_od.errors import DataError
from lit_od.evaluation.metrics import auroc
from lit_od.images.batching import load
from lit_od.images.split import evenly
from lit_od.training.data.augmentation import step_generator
from lit_od.training.data.image_data import ImageData, in_batches
from lit_od.training.export.outputs import output_of

NO_STEP = 2**32 - 1
"""A step that no epoch reaches, so that the network's draws and the augmentation's stay apart."""

TINY = 1e-30
"""Weights below this are zero; the least normal number of float32 and bfloat16 is 1.2e-38."""


SWEEP_STEPS = 64
"""Steps between two sweeps; a moment that decays by 0.9 a step falls by a factor of 1e-3 in them."""


class OutlierMonitor(Callback):
    """Logger of val_outlier_auroc after every validation; nothing is chosen by it.

    A Mahalanobis detector is fitted on a sample of training images, without augmentation, and tells
    validation images from the classes held out; of an autoencoder the mean squared error does. Every process
    computes the same, so that none waits for another.
    """

    def __init__(self, data: ImageData, *, images: int = 2000) -> None:
        """Watch at most `images` of each kind.

        Args:
            data: Images with outliers in the training source.
            images: Largest number of training, of validation and of outlier images.
        """
        self.data, self.images = data, images
        self._pixels: list[Tensor] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, score and log; NaN if the features admit no detector yet."""
        if trainer.sanity_checking:
            return
        if not self._pixels:
            parts = (self.data.sources("train"), self.data.sources("validation"), self.data.watched_outliers())
            shown = [load(evenly(part, self.images), self.data.prepare) for part in parts]
            self._pixels = [torch.from_numpy(each) for each in shown]
        network = pl_module.backbone()  # type: ignore[operator]  # only modules that have one are watched
        if output_of(pl_module) == "errors":
            inliers, outliers = (
                in_batches(lambda images: network(images).mean(dim=(1, 2, 3)), each, pl_module.device).double().numpy()
                for each in self._pixels[1:]
            )
            pl_module.log("val_outlier_auroc", auroc(inliers, outliers))
            return
        fitted, inliers, outliers = (in_batches(network, each, pl_module.device).numpy() for each in self._pixels)
        try:
            detector = Mahalanobis.fit(fitted)
            figure = auroc(detector.score(inliers), detector.score(outliers))
        except DataError:
            figure = float("nan")
        pl_module.log("val_outlier_auroc", figure)


class FiniteLoss(Callback):
    """A stop of the training at a loss that is not finite.

    It stops before the loss reaches the weights or passes for the best.
    """

    def __init__(self, best: ModelCheckpoint | None = None) -> None:
        """Take the callback that keeps the best checkpoint, to report on it."""
        self.best = best

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Raise DataError that names the step, if the loss is not finite."""
        self._require_finite(loss, "loss", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise DataError if the validation loss is not finite, before checkpoints."""
        if "val_loss" in trainer.callback_metrics:
            self._require_finite(trainer.callback_metrics["val_loss"], "validation loss", trainer)

    def _require_finite(self, loss: Tensor, name: str, trainer: Trainer) -> None:
        if torch.isfinite(loss):
            return
        kept = self.best is None or self.best.best_model_path
        raise DataError(
            f"the {name} became {loss.item():g} at step {trainer.global_step} of epoch {trainer.current_epoch}; "
            f"{'the best checkpoint so far is kept' if kept else 'there is no checkpoint yet'}. "
            "Lower the learning rate, or use full precision"
        )


class SeededEpochs(Callback):
    """Seeding of torch at every epoch's start, so that runs can be resumed.

    A resumed run then draws what an unbroken one does. Dropout and other random layers use torch's global
    generators; the caller restores them.
    """

    def __init__(self, seed: int) -> None:
        """Take the run's seed."""
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed by (seed, epoch, rank)."""
        generator = step_generator(self.seed, trainer.current_epoch, NO_STEP, trainer.global_rank)
        torch.manual_seed(generator.initial_seed())


class FlushSubnormals(Callback):
    """Rounding of tiny weights and optimiser states to zero.

    Weight decay drives the weights of dead units towards zero without end. Once they are
    subnormal (below 1.2e-38 in float32), a CPU multiplies them in microcode: measured after three epochs
    of the small CNN, a training step takes six times as long, and so would scoring with the exported
    graph. The limit lies far below anything that changes a result, and far above the subnormal numbers.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sweep every `SWEEP_STEPS` steps."""
        if trainer.global_step % SWEEP_STEPS:
            return
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    zero_tiny(weight)
                    for state in optimizer.state.get(weight, {}).values():
                        if isinstance(state, Tensor) and state.ndim:
                            zero_tiny(state)


@torch.no_grad()
def zero_tiny(values: Tensor) -> None:
    """Set values nearer to zero than `TINY` to zero, in place."""
    values.masked_fill_(values.abs() < TINY, 0.0)


class Progress(Callback):
    """A progress bar for each epoch, on standard error if it is a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's bar."""
        if trainer.is_global_zero:
            title = f"epoch {trainer.current_epoch + 1}"
            # disable=None: quiet where standard error is no terminal
            self._bar = tqdm(total=int(trainer.num_training_batches), desc=title, unit="batch", disable=None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar by a batch."""
        if self._bar is not None:
            self._bar.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar with the validation's figures."""
        if self._bar is not None:
            figures = trainer.callback_metrics
            self._bar.set_postfix({name: f"{float(value):.4f}" for name, value in figures.items()})
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the terminal begins a line."""
        if self._bar is not None:
            self._bar.close()
