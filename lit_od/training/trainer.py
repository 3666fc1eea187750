"""Lightning's Trainer as a run uses it: its arguments checked, its chatter silenced, its seeds contained."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_od.errors import ConfigError
from lit_od.recipe import ModelConfig
from lit_od.training.data import ImageData
from lit_od.training.imports import accepted, check_accepted, imported

DEFAULTS: dict[str, Any] = {
    "max_epochs": 50,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,  # validation is cheap to get right and runs after the first epoch anyway
    "log_every_n_steps": 0,  # figures are logged by epoch
}
OURS = frozenset(
    "barebones callbacks default_root_dir enable_checkpointing enable_progress_bar fast_dev_run logger"
    " use_distributed_sampler".split()
)
"""Arguments of the Trainer that the run itself sets: without them it would not write what it promises."""


def trainer_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's `trainer` over the defaults.

    Raises:
        ConfigError: If the Trainer has no such argument, or the run sets it itself.
    """
    check_accepted(Trainer, given, "trainer")
    for name in given:
        if name in OURS:
            raise ConfigError(f"trainer.{name} is set by the run itself: leave it out")
    return DEFAULTS | _processes() | dict(given)


def _processes() -> dict[str, Any]:
    """One process, or those that torchrun has started."""
    local, world = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("WORLD_SIZE")
    if local is None or world is None:
        return {"devices": 1}
    return {
        "devices": int(local),
        "num_nodes": int(world) // int(local),
        "strategy": "ddp" if int(world) > 1 else "auto",
    }


def make_trainer(arguments: Mapping[str, Any], **ours: Any) -> Trainer:
    """A Trainer. Raises ConfigError, in one line, where Lightning refuses an argument."""
    try:
        return Trainer(**arguments, **ours)
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def module_arguments(model: ModelConfig, data: ImageData) -> tuple[type[LightningModule], dict[str, Any]]:
    """The module's class and what it is made with; what the data know is filled in where it is not given.

    Raises:
        ConfigError: If the class cannot be imported, or does not take an argument.
    """
    kind = imported(model.class_path, LightningModule, "model.class_path")
    check_accepted(kind, model.init_args, "model.init_args")
    names, _ = accepted(kind)
    known = {
        "classes": len(data.class_names),
        "channels": data.config.prepare.channels,
        "image_size": list(data.config.prepare.size),
    }
    return kind, {name: value for name, value in known.items() if name in names} | model.init_args


def make_module(kind: type[LightningModule], arguments: Mapping[str, Any]) -> LightningModule:
    """The module. Raises ConfigError, in one line, where its class refuses the arguments' types."""
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"model.init_args: {kind.__name__}: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and leave its generators as they were found."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's announcements and three of its warnings; real warnings still come through."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # the folder is the run's own; its files were looked for before
        warnings.filterwarnings("ignore", message=r"(?s)Checkpoint directory .* exists and is not empty")
        # Lightning's own call of torch
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # a GPU may be left alone on purpose
        warnings.filterwarnings("ignore", message=r"GPU available but not used")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
