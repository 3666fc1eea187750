"""Loggers, callbacks and profilers that a recipe names."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger

from lit_od.errors import ConfigError
from lit_od.training.loop.train import train
from lit_od.training.loop.trainer_parts import FOLDER, TRACKING, TrainerParts
from tests.support.small_training import demo, rows_of

SHORT = ("--data.limit=120", "--data.batch_size=16", "--trainer.max_epochs=1")


class Kept(Logger):
    """Keeps what it is given."""

    seen: dict[str, Any]

    def __init__(self, label: str) -> None:
        super().__init__()
        type(self).seen = {"label": label, "metrics": {}, "params": {}}

    @property
    def name(self) -> str:
        return "kept"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.seen["metrics"].setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.seen["params"].update(params)


class Counted(Callback):
    """Counts the batches of all trainings."""

    batches = 0

    def __init__(self, start: int = 0) -> None:
        type(self).batches = start

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        type(self).batches += 1


def test_a_run_has_the_loggers_callbacks_and_profiler_that_its_recipe_names(tmp_path: Path) -> None:
    parts = (
        f"--trainer.logger=[csv, {{class_path: '{__name__}:Kept', init_args: {{label: mine}}}}]",
        f"--trainer.callbacks=[{{class_path: '{__name__}:Counted', init_args: {{start: 100}}}}, LearningRateMonitor]",
        "--trainer.profiler=simple",
        "--trainer.log_every_n_steps=2",
    )
    recipe = demo(*SHORT, *parts)
    train(recipe, tmp_path / "run", trust=(f"{__name__}:Kept", f"{__name__}:Counted"))
    assert Kept.seen["label"] == "mine"
    assert Kept.seen["params"]["trainer"]["log_every_n_steps"] == 2  # the recipe's
    assert Kept.seen["params"]["network"] == "small-cnn"  # the module's own
    steps = [step for step, figures in Kept.seen["metrics"].items() if "train_loss_step" in figures]
    assert steps == list(range(1, Counted.batches - 100, 2))
    (row,) = rows_of(tmp_path / "run")
    assert {"train_loss", "val_loss"} <= row.keys()
    assert "train_loss_step" not in row
    (lightnings,) = (tmp_path / "run" / FOLDER).rglob("metrics.csv")
    with lightnings.open(newline="") as lines:
        assert {"train_loss_step", "val_loss"} <= set(next(csv.reader(lines)))
    (profile,) = (tmp_path / "run" / FOLDER).glob("*profile*.txt")
    assert "run_training_batch" in profile.read_text()


@pytest.mark.parametrize("options", [{}, {"logger": False, "callbacks": None}, {"logger": [], "profiler": None}])
def test_none_are_named(options: dict[str, Any], tmp_path: Path) -> None:
    parts = TrainerParts.of(options)
    assert (parts.make_loggers(tmp_path), parts.make_callbacks(), parts.make_profiler(tmp_path)) == ([], [], None)


def test_a_class_goes_by_lightnings_short_name_by_its_path_or_by_ours(tmp_path: Path) -> None:
    for name in ("csv", "CSVLogger", "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers:CSVLogger"):
        for choice in (name, [{"class_path": name}], {"class_path": name, "init_args": {"name": "mine"}}):
            (made,) = TrainerParts.of({"logger": choice}).make_loggers(tmp_path)
            assert isinstance(made, CSVLogger)
            assert Path(made.save_dir) == tmp_path / FOLDER
            assert made.name == ("mine" if isinstance(choice, dict) else "lightning_logs")
    elsewhere = {"class_path": "csv", "init_args": {"save_dir": str(tmp_path)}}
    assert TrainerParts.of({"logger": elsewhere}).make_loggers(tmp_path / "run")[0].save_dir == str(tmp_path)
    assert isinstance(TrainerParts.of({"callbacks": "LearningRateMonitor"}).make_callbacks()[0], LearningRateMonitor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logger": f"{__name__}:Kept"}, r"trainer\.logger: .*:Kept runs code from outside lit_od .*: add --trust"),
        ({"logger": "subprocess.Popen"}, r"trainer\.logger: subprocess\.Popen runs code from outside"),
        ({"logger": "lightning.Trainer"}, r"trainer\.logger: lightning\.Trainer must be a class derived from Logger"),
        ({"logger": "tensorbord"}, r"trainer\.logger: lightning\.pytorch\.loggers has no tensorbord"),
        ({"logger": 7}, r"trainer\.logger must be a name, or class_path with init_args, got 7"),
        ({"callbacks": [{"class": "Timer"}]}, r"trainer\.callbacks must be a name, or class_path with init_args"),
        ({"callbacks": {"class_path": "Timer", "init_args": {"durations": 1}}}, r"init_args\.durations does not exist"),
        ({"profiler": ["simple", "advanced"]}, r"trainer\.profiler names one profiler"),
        ({"profiler": "slow"}, r"trainer\.profiler: lightning\.pytorch\.profilers has no slow"),
    ],
)
def test_what_is_no_logger_callback_or_profiler_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerParts.of(options)


def test_one_that_cannot_be_made_is_refused_before_the_training(tmp_path: Path) -> None:
    recipe = demo(*SHORT, "--trainer.callbacks={class_path: Timer, init_args: {duration: soon}}")
    with pytest.raises(ConfigError, match=r"trainer\.callbacks: Timer cannot be made: "):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # of the trackers' own
@pytest.mark.parametrize(
    ("package", "logger", "written"),
    [
        ("tensorboard", "tensorboard", "**/events.out.tfevents.*"),
        ("mlflow", "{class_path: mlflow, init_args: {experiment_name: mine}}", "mlflow.db"),
        ("wandb", "{class_path: wandb, init_args: {offline: true}}", "wandb/offline-run-*/*.wandb"),
    ],
)
def test_trackers_write_below_the_run(
    package: str, logger: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.delenv(TRACKING, raising=False)
    train(demo(*SHORT, f"--trainer.logger={logger}"), tmp_path / "run")
    assert list((tmp_path / "run" / FOLDER).glob(written))
    assert torch.is_grad_enabled()
