"""Lightning's Trainer: checked arguments, silenced chatter, contained seeds."""

import contextlib
import inspect
import logging
import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, get_args

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_od.errors import ConfigError
from lit_od.import_paths import accepted, check_accepted, defaults
from lit_od.recipes.named_code import PARTS
from lit_od.recipes.schema import ModelConfig
from lit_od.runtime.processes import place
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.twin_data import TwinData
from lit_od.training.distributed import environment
from lit_od.training.export.outputs import output_of
from lit_od.training.networks.pretrained import trusted_class
from lit_od.training.networks.trunk import Trunk
from lit_od.training.quiet_logging import quiet_logging

DEFAULTS: dict[str, Any] = {
    "max_epochs": 50,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,  # validation is cheap to get right and runs after the first epoch anyway
    "log_every_n_steps": 0,  # figures are logged by epoch
}
RESERVED = frozenset(
    "barebones default_root_dir enable_checkpointing enable_progress_bar fast_dev_run use_distributed_sampler".split()
)
"""Arguments of the Trainer that the run itself sets, since its files depend on them."""

WHOLE: dict[str, tuple[int, bool]] = {
    "max_epochs": (-1, True),
    "min_epochs": (0, True),
    "max_steps": (-1, False),
    "min_steps": (0, True),
    "accumulate_grad_batches": (1, False),
    "check_val_every_n_epoch": (1, False),
    "num_sanity_val_steps": (-1, True),
    "log_every_n_steps": (0, True),
    "reload_dataloaders_every_n_epochs": (0, False),
}
"""Whole numbers of the Trainer: the least value, and True where they may be null. Lightning checks few
of them, and fails on others in the middle of a run."""

NUMBERS = frozenset(
    "limit_train_batches limit_val_batches limit_test_batches limit_predict_batches overfit_batches"
    " gradient_clip_val".split()
)
FLAGS = frozenset("detect_anomaly inference_mode benchmark sync_batchnorm enable_model_summary".split())

COMPILE, SCALING = "compile", "scale_learning_rate"
"""Options of `trainer` beyond Lightning's: true to run torch.compile on the network (default false), and the factor of
the learning rate where a step has more images than data.batch_size, N times as many by processes and gradient
accumulation: "none" (the default), "sqrt" (root of N) or "linear" (N)."""

_KINDS = {int: "a number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}

_SCALES = {"none": lambda times: 1.0, "sqrt": math.sqrt, "linear": float}


def trainer_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's `trainer` over the defaults, for Lightning's Trainer.

    Loggers, callbacks and profiler are made by `TrainerParts`.

    Raises:
        ConfigError: If the Trainer has no such argument, the run sets it itself, or an option is invalid.
    """
    arguments = {name: value for name, value in options.items() if name not in (COMPILE, SCALING, *PARTS)}
    check_accepted(Trainer, arguments, "trainer")
    for name in arguments:
        if name in RESERVED:
            raise ConfigError(f"trainer.{name} is set by the run itself: leave it out")
    if not isinstance(options.get(COMPILE, False), bool):
        raise ConfigError(f"trainer.{COMPILE} must be true or false, got {options[COMPILE]!r}")
    if options.get(SCALING, "none") not in _SCALES:
        raise ConfigError(f"trainer.{SCALING} must be one of {', '.join(_SCALES)}, got {options[SCALING]!r}")
    for name, value in arguments.items():
        _require_valid(name, value)
    strategy = str(options.get("strategy"))
    if any(word in strategy for word in ("spawn", "fork", "notebook")):
        raise ConfigError(f"trainer.strategy {strategy} makes processes that cannot export: give ddp")
    return DEFAULTS | _processes() | arguments


def _require_valid(name: str, value: Any) -> None:
    """Raise ConfigError unless an argument of the Trainer has a value of its kind."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in WHOLE:
        least, may_be_null = WHOLE[name]
        if not (number and isinstance(value, int) and value >= least) and not (value is None and may_be_null):
            raise ConfigError(f"trainer.{name} must be a whole number of at least {least}, got {value!r}")
    elif name in NUMBERS and not (number and value >= 0) and value is not None:
        raise ConfigError(f"trainer.{name} must be a number of at least 0, got {value!r}")
    elif name in FLAGS and not isinstance(value, bool) and value is not None:
        raise ConfigError(f"trainer.{name} must be true or false, got {value!r}")
    elif name == "max_time" and not isinstance(value, str | dict | timedelta) and value is not None:
        raise ConfigError(f"trainer.max_time must be text, '00:12:00:00' for instance (d:h:m:s), got {value!r}")
    elif name == "val_check_interval" and not (value is None or (isinstance(value, float) and value == 1)):
        # the log has a row an epoch, and the best checkpoint and early stopping are those of epochs
        raise ConfigError(
            f"trainer.val_check_interval {value!r} validates within an epoch, and figures are those of whole epochs: "
            "leave it out, or validate more seldom by trainer.check_val_every_n_epoch"
        )


def _processes() -> dict[str, Any]:
    """Return arguments for one process, or for those of torchrun or SLURM."""
    found = place()
    if found is None:
        return {"devices": 1}
    return {"devices": found.local_size, "num_nodes": found.size // found.local_size, "strategy": "ddp"}


def scaled(init_args: Mapping[str, Any], trainer: Trainer, kind: type[LightningModule], rule: str) -> dict[str, Any]:
    """Return a module's arguments with the learning rate scaled, see `SCALING`.

    Args:
        init_args: The module's arguments.
        trainer: The trainer, with its number of processes and of accumulated batches.
        kind: The module's class.
        rule: "none", "sqrt" or "linear".

    Raises:
        ConfigError: If the module has no learning rate to scale.
    """
    factor = _SCALES[rule](trainer.world_size * trainer.accumulate_grad_batches)
    if factor == 1:
        return dict(init_args)
    rate = (defaults(kind) | dict(init_args)).get("learning_rate")
    if not isinstance(rate, int | float):
        raise ConfigError(f"trainer.{SCALING}: {kind.__name__} has no learning_rate. Leave it out")
    return dict(init_args) | {"learning_rate": rate * factor}


def compile_network(module: LightningModule) -> None:
    """Run torch.compile on the module's parts, in place.

    Names and checkpoints do not change.

    Raises:
        ConfigError: If the module trains behind a trunk whose activations are kept: it bypasses its parts.
    """
    trunk = getattr(module, "trunk", None)
    if isinstance(trunk, Trunk) and not trunk.whole:
        raise ConfigError(
            f"trainer.{COMPILE} does not reach what {type(module).__name__} trains behind a kept trunk: set "
            f"model.init_args.cache_trunk to false, or leave trainer.{COMPILE} out"
        )
    for part in module.children():
        part.compile()


def make_trainer(arguments: Mapping[str, Any], **reserved: Any) -> Trainer:
    """Make a Trainer. Raises ConfigError, in one line, for arguments it refuses."""
    plugins = arguments.get("plugins") or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    known = environment(place())
    if known is not None and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        reserved["plugins"] = [*plugins, known]
    try:
        trainer = Trainer(**{**arguments, **reserved})
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    kind = trainer.strategy.root_device.type
    if arguments.get("sync_batchnorm") and kind != "cuda":  # torch would refuse in the middle of the first step
        raise ConfigError(f"trainer.sync_batchnorm works on CUDA devices alone, this run is on {kind}: leave it out")
    return trainer


def module_arguments(
    model: ModelConfig, data: ImageData, trust: Collection[str] = ()
) -> tuple[type[LightningModule], dict[str, Any]]:
    """Return the module's class and its arguments, completed by facts of the data.

    Args:
        model: The recipe's model.
        data: The images.
        trust: Import paths and names of hubs' models that may be followed.

    Raises:
        ConfigError: If the class is not trusted, cannot be imported, or does not take an argument.
    """
    kind = trusted_class(model.class_path, model.init_args, trust, key="model.")
    check_accepted(kind, model.init_args, "model.init_args")
    names, _ = accepted(kind)
    known: dict[str, Any] = {
        "classes": len(data.class_names),
        "channels": data.config.prepare.channels,
        "image_size": list(data.config.prepare.size),
    }
    takes_reference = "reference_classes" in names
    if takes_reference != (data.config.reference is not None):
        wants = "needs data.reference" if takes_reference else "takes no data.reference: leave it out"
        raise ConfigError(f"{model.class_path} {wants}")
    if isinstance(data, TwinData):
        known["reference_classes"] = len(data.reference.class_names)
    init_args = dict(model.init_args)
    if kind.__module__.startswith("lit_od."):  # arguments of other classes may mean something else
        _require_consistent(init_args, known, exact=output_of(kind) == "errors")
    return kind, {name: value for name, value in known.items() if name in names} | init_args


def _require_consistent(init_args: dict[str, Any], known: Mapping[str, Any], *, exact: bool) -> None:
    """Raise ConfigError where arguments contradict the images.

    Sizes are brought into one form. A network may know more classes; grey images serve one of three channels,
    unless it reconstructs images.
    """
    if isinstance(size := init_args.get("image_size"), int | tuple | list):
        init_args["image_size"] = [size, size] if isinstance(size, int) else list(size)
    for name in init_args.keys() & known.keys():
        given, found = init_args[name], known[name]
        more = name in ("classes", "reference_classes") and isinstance(given, int) and given >= found
        grey = name == "channels" and (given, found) == (3, 1) and not exact
        if given != found and not more and not grey:
            raise ConfigError(f"model.init_args.{name} is {given}, the images have {found}: leave it out")


def make_module(kind: type[LightningModule], arguments: Mapping[str, Any]) -> LightningModule:
    """Make the module. Raises ConfigError, in one line, for types it refuses."""
    _require_types(kind, arguments)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"model.init_args: {kind.__name__}: {' '.join(str(error).split())}") from error


def _require_types(kind: type[LightningModule], arguments: Mapping[str, Any]) -> None:
    """Raise ConfigError where an argument is no number, text or flag as it must be.

    The class says which it must be. Some are first used in the middle of a training.
    """
    parameters = inspect.signature(kind).parameters
    for name, value in arguments.items():
        wanted = parameters[name].annotation if name in parameters else None
        kinds = set(get_args(wanted)) if isinstance(wanted, UnionType) else {wanted}
        if not kinds <= {int, float, str, bool, NoneType}:
            continue
        given = {type(value)}
        if type(value) is int:
            given.add(float)
        elif type(value) is float and value.is_integer():
            given.add(int)
        if not given & kinds:
            texts = _KINDS | ({} if float in kinds else {int: "a whole number"})
            names = " or ".join(dict.fromkeys(texts[each] for each in texts if each in kinds))
            raise ConfigError(
                f"model.init_args: {kind.__name__}: {name} must be {names}, got {value!r} ({type(value).__name__})"
            )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and restore its generators afterwards."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet(kind: type | None = None) -> Iterator[None]:
    """Silence Lightning's announcements and empty warnings; real ones come through."""
    adds_up = any(base.__module__.startswith("lit_od.") for base in getattr(kind, "__mro__", ()))
    loggers = ("lightning.pytorch", "lightning.fabric")
    with warnings.catch_warnings(), quiet_logging(loggers, logging.ERROR):
        # the folder is the run's own; its files were looked for before
        warnings.filterwarnings("ignore", message=r"(?s)Checkpoint directory .* exists and is not empty")
        # Lightning's own call of torch
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # of a weight with one channel both orders in memory are the same
        warnings.filterwarnings("ignore", message=r"Grad strides do not match bucket view strides")
        # every process watches the same images, and our own modules log what they have added up over all
        ours = r"(val_outlier_auroc|(train|val)_\w+)" if adds_up else "val_outlier_auroc"
        warnings.filterwarnings("ignore", message=rf"It is recommended to use `self.log\('{ours}'")
        # Lightning's own call of torch
        warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather is deprecated")
        # a GPU may be left alone on purpose
        warnings.filterwarnings("ignore", message=r"GPU available but not used")
        # frozen layers and batch normalisation may be meant to stay so
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        yield
