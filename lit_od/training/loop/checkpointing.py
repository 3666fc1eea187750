"""Callbacks for checkpoints and early stopping that survive resumed runs."""

import signal
import threading
from pathlib import Path
from typing import Any, ClassVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

BEFORE_SAVING = "before saving"
"""Interval of a plateau rule, in place of "epoch"."""


class SavedAs(Callback):
    """A callback whose state has another name in a checkpoint than its class."""

    saved_as: ClassVar[str]
    """Name of its state, which runs of lit_od 0.1.0 are resumed by."""

    @property
    def state_key(self) -> str:
        """Key of the callback's state in a checkpoint."""
        return super().state_key.replace(type(self).__qualname__, self.saved_as, 1)


class ResumableEarlyStopping(SavedAs, EarlyStopping):
    """Early stopping that a resumed run continues.

    Lightning restores the number of epochs waited, but not that the run had stopped by then.
    """

    saved_as = "LastingStop"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the epochs waited, under this run's patience.

        A longer patience than before lets a stopped run go on.
        """
        stopped = state_dict["stopped_epoch"] if state_dict["patience"] >= self.patience else 0
        super().load_state_dict(state_dict | {"patience": self.patience, "stopped_epoch": stopped})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a run that had stopped before it takes a step."""
        if self.stopped_epoch:
            trainer.should_stop = True


class RelocatableCheckpoint(SavedAs, ModelCheckpoint):
    """Checkpoints of a run whose folder may have been moved since.

    Lightning would forget the best one and its loss.
    """

    saved_as = "Movable"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with paths in the present folder."""

        def relocated(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {
            name: relocated(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        kept = {relocated(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"best_k_models": kept, "dirpath": self.dirpath})


class BestCheckpoint(RelocatableCheckpoint):
    """The checkpoint of the best epoch, saved after the plateau rules' step.

    Lightning lets the rules step after the checkpoints are written, and a resumed run would miss it.
    """

    saved_as = "Best"

    _validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the plateau rules over from Lightning."""
        super().on_train_start(trainer, pl_module)
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.interval == "epoch":
                config.interval = BEFORE_SAVING

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has no validation yet; it may have none."""
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation took place."""
        self._validated = True
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the plateau rules, then save.

        Rules that watch a validation's figure leave out epochs without one.
        """
        watched = [config.monitor for config in trainer.lr_scheduler_configs if config.interval == BEFORE_SAVING]
        if self._validated or all(name in trainer.callback_metrics for name in watched):
            trainer.fit_loop.epoch_loop.update_lr_schedulers(BEFORE_SAVING, update_plateau_schedulers=True)
        super().on_train_epoch_end(trainer, pl_module)


class Signals(Callback):
    """Restoration of SIGTERM's handler for the training.

    Lightning's handler would talk to the other processes while this one is busy, and end with status 0.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handler; Lightning has replaced it, and restores it in the end."""
        if threading.current_thread() is threading.main_thread() and self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


class RecordOrigin(Callback):
    """A record in every checkpoint of its module's origin and its epoch's figures."""

    def __init__(self) -> None:
        """Begin without an origin, which is set once the module is made."""
        self.origin: dict[str, Any] = {}  # plain values alone: checkpoints are read without unpickling code

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear figures; Lightning keeps a validation's through epochs without one."""
        trainer.callback_metrics.clear()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add origin and figures under "lit_od"."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        checkpoint["lit_od"] = self.origin | {"figures": figures}
