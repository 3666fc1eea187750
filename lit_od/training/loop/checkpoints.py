"""Checkpoints that hold their module's class, its arguments and the recipe."""

import io
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from lit_od.errors import ConfigError, DataError
from lit_od.formats.atomic import atomic_file
from lit_od.import_paths import accepted, check_accepted, defaults
from lit_od.recipes.load import from_tree, to_tree
from lit_od.recipes.schema import Recipe
from lit_od.training.data.image_data import ImageData
from lit_od.training.distributed import process_group
from lit_od.training.networks.pretrained import trusted_class
from lit_od.training.networks.weights import load_state, read_tensors

SCHEMA = 1
"""Version of the record of `origin`; another one is refused."""

MAY_DIFFER = frozenset(
    {"pretrained", "checkpoint_path", "cache_trunk", "channels", "image_size", "classes", "reference_classes"}
)
"""Arguments that a resumed run may change: the source of the first weights, the place of activations, and facts of
images that are checked to be the same."""

SCALED = " (which trainer.scale_learning_rate makes of the number of processes, where it is set)"
"""Addition to a message on a learning rate, which may come from no recipe."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Contents of a checkpoint, besides Lightning's state.

    Attributes:
        path: The file.
        class_path: Import path of the LightningModule.
        init_args: Arguments of the LightningModule.
        recipe: The run that wrote it.
        state: Weights by name.
        epoch: Its epoch, counted from 0.
        steps: Steps that the optimiser had taken.
        figures: Figures of that epoch by name.
        fingerprints: Fingerprints of its training images, as of `ImageData.fingerprints`; empty in
            checkpoints that are older than these.
    """

    path: Path
    class_path: str
    init_args: dict[str, Any]
    recipe: Recipe
    state: dict[str, Tensor]
    epoch: int = 0
    steps: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)


def origin(
    class_path: str, init_args: dict[str, Any], recipe: Recipe, fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    """Return a record that describes a checkpoint's module and run in plain values.

    Args:
        class_path: Import path of the LightningModule.
        init_args: Its arguments.
        recipe: The run.
        fingerprints: Fingerprints of the training images, as of `ImageData.fingerprints`.
    """
    return {
        "schema": SCHEMA,
        "class_path": class_path,
        "init_args": dict(init_args),
        "recipe": to_tree(recipe),
        "fingerprints": dict(fingerprints),
    }


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written atomically.

    A full disk or a kill leaves the one before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Any] | None = None
    ) -> None:
        """Write a checkpoint in place of an older one."""
        del storage_options
        data = io.BytesIO()  # torch raises no OSError for a full disk
        torch.save(checkpoint, data)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(path)) as partial:
            partial.write_bytes(data.getbuffer())


def keep_whole(trainer: Trainer) -> None:
    """Let a trainer write `WholeFiles`.

    A strategy or a plugin with another form of checkpoint keeps it.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFiles()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that `train` wrote, without unpickling code.

    Raises:
        ConfigError: If its recipe is invalid.
        DataError: If there is no such file, it is damaged, or another program wrote it.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        raise DataError(f"{path} is damaged, or no checkpoint: give best.ckpt of a run of lit-od train")
    found = read_tensors(path)
    about, state = found.get("lit_od"), found.get("state_dict")
    if isinstance(about, dict) and about.get("schema", SCHEMA) != SCHEMA:
        raise DataError(f"{path} has schema {about['schema']!r}, this version reads {SCHEMA}. Train anew")
    if not isinstance(about, dict) or not isinstance(state, dict) or not _is_origin(about):
        raise DataError(f"{path} was not written by lit-od train: give best.ckpt of a run")
    recipe = from_tree(about["recipe"], f"in {path}")
    return Checkpoint(
        path,
        about["class_path"],
        about["init_args"],
        recipe,
        state,
        epoch=int(found.get("epoch", 0)),
        steps=int(found.get("global_step", 0)),
        figures=dict(about.get("figures", {})),
        fingerprints=dict(about.get("fingerprints", {})),
    )


def _is_origin(about: Mapping[str, Any]) -> bool:
    """Return True if a record has the values of `origin`, each of its kind."""
    kinds = {"schema": int, "class_path": str, "init_args": dict, "recipe": dict}
    optional = {"figures": dict, "fingerprints": dict}
    needed = all(isinstance(about.get(name), kind) for name, kind in kinds.items())
    return needed and all(isinstance(about.get(name, {}), kind) for name, kind in optional.items())


def require_same_images(checkpoint: Checkpoint, data: ImageData) -> None:
    """Raise DataError unless a checkpoint was trained on these images.

    One image more or less divides all of them anew. Without fingerprints in the checkpoint nobody can tell; it
    is accepted, since to refuse it would throw the training away.
    """
    for name, fingerprint in data.fingerprints.items():
        if checkpoint.fingerprints.get(name, fingerprint) != fingerprint:
            raise DataError(
                f"data.{name} holds other images than {checkpoint.path} was trained on, and some of those that trained "
                "the model would be taken for unseen ones: give them as they were (--data.root DIR), or train anew"
            )


def require_same_model(
    checkpoint: Checkpoint, kind: type[LightningModule], init_args: Mapping[str, Any], trust: Collection[str] = ()
) -> None:
    """Raise ConfigError where a resumed run would train another model.

    The optimiser's state would override another learning rate, and the run would record a wrong one.

    Args:
        checkpoint: Checkpoint of the run.
        kind: Class of the present model.
        init_args: Arguments of the present model.
        trust: Import paths and names of hubs' models that may be followed.

    Raises:
        ConfigError: If the class or an argument differs, or is not trusted.
    """
    if trusted_class(checkpoint.class_path, checkpoint.init_args, trust) is not kind:
        raise ConfigError(
            f"{checkpoint.path} was trained with model.class_path {checkpoint.class_path}, not {kind.__name__}: give "
            "that, or begin a run of its own"
        )
    before, now = defaults(kind) | checkpoint.init_args, defaults(kind) | dict(init_args)
    for name in sorted((checkpoint.init_args.keys() | init_args.keys()) - MAY_DIFFER):
        if _plain(before.get(name)) != _plain(now.get(name)):
            raise ConfigError(
                f"{checkpoint.path} was trained with {name} {before.get(name)}, this run has {now.get(name)}"
                f"{SCALED if name == 'learning_rate' else ''}: give it as it was, or begin a run of its own"
            )


def _plain(value: Any) -> Any:
    """Convert a value to YAML's types, which have lists alone."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def load_module(checkpoint: Path, trust: Collection[str] = ()) -> LightningModule:
    """Load the trained module of a checkpoint, on the CPU.

    Arguments and errors as of `rebuild`, and DataError if the file cannot be read.
    """
    return rebuild(read_checkpoint(checkpoint), trust)


def load_everywhere(checkpoint: Path, trust: Collection[str] = ()) -> LightningModule:
    """Load a checkpoint's module in all processes.

    Only the first process needs to see the file. Errors as of `load_module`.
    """
    group = process_group()
    data = group.broadcast(checkpoint.read_bytes() if group.rank == 0 else b"") if group.size > 1 else b""
    if group.rank == 0:
        return load_module(checkpoint, trust)
    with tempfile.TemporaryDirectory(prefix="lit_od-best-") as folder:
        copy = Path(folder) / checkpoint.name
        copy.write_bytes(data)
        return load_module(copy, trust)


def rebuild(checkpoint: Checkpoint, trust: Collection[str] = ()) -> LightningModule:
    """Build the trained module of a checkpoint that has been read, on the CPU.

    Args:
        checkpoint: The checkpoint.
        trust: Import paths and names of hubs' models, outside lit_od, timm and torchvision, that may be followed.

    Raises:
        ConfigError: If its class is not trusted, or cannot be imported or made.
        DataError: If its weights are of another architecture.
    """
    arguments = dict(checkpoint.init_args)
    # The weights are in the checkpoint; nothing is fetched for them a second time.
    kind = trusted_class(checkpoint.class_path, checkpoint.init_args, trust)
    names, _ = accepted(kind)
    arguments |= {name: value for name, value in (("pretrained", False), ("checkpoint_path", None)) if name in names}
    check_accepted(kind, arguments, "init_args")
    module = kind(**arguments)
    try:
        load_state(module, checkpoint.state, checkpoint.path)
    except DataError as error:
        raise DataError(f"{error}. {checkpoint.class_path} is not what it was: train anew") from error
    return module
