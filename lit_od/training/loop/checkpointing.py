"""Callbacks that keep checkpoints and stop early, right across resumed runs."""

import signal
import threading
from pathlib import Path
from typing import Any, ClassVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

BEFORE_SAVING = "before saving"
"""In place of "epoch" as the interval of a plateau rule."""


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that a resumed run keeps to.

    Lightning restores the epochs that were waited for, but not that the run had stopped by then.
    """

    saved_as: ClassVar[str] = "LastingStop"
    """Name of its state in a checkpoint, which runs of lit_od 0.1.0 are resumed by."""

    @property
    def state_key(self) -> str:
        """The key of its state in a checkpoint."""
        return super().state_key.replace(type(self).__qualname__, self.saved_as, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was waited for; the patience is this run's own, and a longer one lets it go on."""
        stopped = state_dict["stopped_epoch"] if state_dict["patience"] >= self.patience else 0
        super().load_state_dict(state_dict | {"patience": self.patience, "stopped_epoch": stopped})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a run that had stopped before it takes a step."""
        if self.stopped_epoch:
            trainer.should_stop = True


class RelocatableCheckpoint(ModelCheckpoint):
    """Checkpoints of a run whose folder may have been moved since they were written, or is mounted elsewhere.

    Lightning would forget which one was the best, and how good it was.
    """

    saved_as: ClassVar[str] = "Movable"
    """Name of its state in a checkpoint, which runs of lit_od 0.1.0 are resumed by."""

    @property
    def state_key(self) -> str:
        """The key of its state in a checkpoint."""
        return super().state_key.replace(type(self).__qualname__, self.saved_as, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was kept, as it lies in the present folder."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"best_k_models": kept, "dirpath": self.dirpath})


class BestCheckpoint(RelocatableCheckpoint):
    """Keeps the best epoch, once the plateau rules have taken the epoch's step.

    Lightning lets them take it after the checkpoints are written, and a resumed run would miss it.
    """

    saved_as = "Best"

    _validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the rules out of Lightning's hands."""
        super().on_train_start(trainer, pl_module)
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.interval == "epoch":
                config.interval = BEFORE_SAVING

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the epoch's validation; it may have none."""
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that it took place."""
        self._validated = True
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let them take the step, then save. Rules that watch a validation's figure leave out epochs without one."""
        watched = [config.monitor for config in trainer.lr_scheduler_configs if config.interval == BEFORE_SAVING]
        if self._validated or all(name in trainer.callback_metrics for name in watched):
            trainer.fit_loop.epoch_loop.update_lr_schedulers(BEFORE_SAVING, update_plateau_schedulers=True)
        super().on_train_epoch_end(trainer, pl_module)


class Signals(Callback):
    """Leaves SIGTERM as it is outside of the training.

    Lightning's own handler would talk to the other processes in the middle of whatever this one is doing,
    and end with status 0.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the handler back; Lightning has replaced it by now, and restores it in the end."""
        if threading.current_thread() is threading.main_thread() and self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


class RecordOrigin(Callback):
    """Writes into every checkpoint what it takes to make its module again, and the figures of its epoch."""

    def __init__(self, origin: dict[str, Any]) -> None:
        """Take plain values alone: checkpoints are read without unpickling anything else."""
        self.origin = origin

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the figures before: Lightning keeps a validation's through epochs that have none."""
        trainer.callback_metrics.clear()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add them under "lit_od"."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint["lit_od"] = self.origin | {"figures": figures}
