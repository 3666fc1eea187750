"""Loggers, callbacks and a profiler of the Trainer, as a recipe names them.

Each is a name, or Lightning's own `{class_path, init_args}`; loggers and callbacks may be lists of these.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler
from torch import Tensor

from lit_od.errors import ConfigError
from lit_od.import_paths import accepted, check_accepted, class_and_arguments, imported, require_trusted
from lit_od.recipes.named_code import PARTS, choices_of

FOLDER = "logs"
"""Folder of a run in which loggers and profilers write, unless their arguments name another."""

TRACKING = "MLFLOW_TRACKING_URI"
"""Variable that names MLflow's server or data base."""

STEP = "_step"
"""End of the names of figures of single steps."""

NAMES: dict[str, dict[str, str]] = {
    "logger": {
        "csv": "CSVLogger",
        "tensorboard": "TensorBoardLogger",
        "mlflow": "MLFlowLogger",
        "wandb": "WandbLogger",
    },
    "callbacks": {},
    "profiler": {"simple": "SimpleProfiler", "advanced": "AdvancedProfiler", "pytorch": "PyTorchProfiler"},
}
"""Names of Lightning's classes."""

_HOMES = {
    "logger": "lightning.pytorch.loggers",
    "callbacks": "lightning.pytorch.callbacks",
    "profiler": "lightning.pytorch.profilers",
}
_BASES: dict[str, type[Any]] = {"logger": Logger, "callbacks": Callback, "profiler": Profiler}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Choice:
    """A class and its arguments."""

    key: str
    kind: type[Any]
    init_args: Mapping[str, Any]

    def make(self, **known: Any) -> Any:
        """Make it, with facts of the run that it takes and the recipe does not give.

        Raises:
            ConfigError: If it refuses an argument, or a package is missing.
        """
        names, _ = accepted(self.kind)
        arguments = {name: value for name, value in known.items() if name in names} | dict(self.init_args)
        try:
            return self.kind(**arguments)
        except Exception as error:  # each tracker raises others
            cause = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{self.key}: {self.kind.__name__} cannot be made: {cause}") from error


@dataclass(frozen=True, slots=True)
class TrainerParts:
    """Classes that a recipe's trainer names, imported and checked, not yet made."""

    loggers: tuple[_Choice, ...] = ()
    callbacks: tuple[_Choice, ...] = ()
    profilers: tuple[_Choice, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any], trust: Collection[str] = ()) -> "TrainerParts":
        """Import the classes that the recipe's `trainer` names.

        Args:
            options: The recipe's `trainer`.
            trust: Import paths outside Lightning that may be followed.

        Raises:
            ConfigError: If one is not trusted, does not exist, or does not take an argument.
        """
        found = [tuple(_choice(key, each, trust) for each in choices_of(options.get(key))) for key in PARTS]
        if len(found[2]) > 1:
            raise ConfigError("trainer.profiler names one profiler, got a list")
        return cls(*found)

    def make_loggers(self, out: Path) -> list[Logger]:
        """Make the loggers, which write below a run's folder.

        MLflow's takes a data base there, unless MLFLOW_TRACKING_URI names another place.
        """
        folder = (out / FOLDER).absolute()
        known = {"save_dir": str(folder)}
        if any("tracking_uri" in accepted(each.kind)[0] for each in self.loggers) and TRACKING not in os.environ:
            folder.mkdir(parents=True, exist_ok=True)
            known |= {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "artifact_location": str(folder / "mlruns")}
        return [each.make(**known) for each in self.loggers]

    def make_callbacks(self) -> list[Callback]:
        """Make the callbacks."""
        return [each.make() for each in self.callbacks]

    def make_profiler(self, out: Path) -> Profiler | None:
        """Make the profiler, which writes below a run's folder."""
        known = {"dirpath": str(out / FOLDER), "filename": "profile"}
        return next((each.make(**known) for each in self.profilers), None)


def _choice(key: str, choice: Any, trust: Collection[str]) -> _Choice:
    """Return the class that a name or class_path names, and its arguments."""
    name, arguments = class_and_arguments(choice, f"trainer.{key}")
    path = NAMES[key].get(name, name)
    if "." not in path and ":" not in path:
        path = f"{_HOMES[key]}.{path}"
    if not path.startswith("lightning."):  # which is imported anyway
        require_trusted(path, trust, f"trainer.{key}")
    kind = imported(path, _BASES[key], f"trainer.{key}")
    check_accepted(kind, arguments, f"trainer.{key}.init_args")
    return _Choice(f"trainer.{key}", kind, arguments)


class StepLoss(Callback):
    """Logger of the loss of single steps, every `log_every_n_steps`."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the loss as train_loss_step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            pl_module.log(f"train_loss{STEP}", loss.detach(), on_step=True, on_epoch=False)
