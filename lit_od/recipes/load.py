"""Read recipes: YAML and overrides to a checked recipe."""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from lit_od.errors import ConfigError
from lit_od.formats.strict_yaml import YAMLError, parse
from lit_od.formats.text import did_you_mean
from lit_od.images.augment import Augment
from lit_od.recipes.overrides import apply, keys_of
from lit_od.recipes.roots import PACKAGED_DATA
from lit_od.recipes.schema import Recipe

OF_DATA = {"mask": "data.mask", "mask_colour": "data.mask", "overlap": "data.overlap"}
"""Keys of a preparation that come from other keys, by those."""


def shipped() -> dict[str, Path]:
    """Return the files of the recipes that ship with the package, by bare name."""
    folder = Path(str(resources.files("lit_od") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its bare name or YAML file, with overrides applied.

    Args:
        name: `mnist-digits`, or the path of a YAML file.
        overrides: `--data.root DIR` or `--data.root=DIR`, as `parse_overrides` takes them.

    Raises:
        ConfigError: If the recipe does not exist, or a key or value is invalid.
    """
    tree = read_tree(name)
    apply(tree, overrides)
    return from_tree(tree, str(name))


def override(recipe: Recipe, overrides: Sequence[str], *, detector: str | None = None) -> Recipe:
    """Return a recipe with overrides applied, and optionally another detector.

    Args:
        recipe: The recipe to change.
        overrides: `--data.root DIR` or `--data.root=DIR`, as `parse_overrides` takes them.
        detector: Kind of another detector, which gets its default options; None keeps the recipe's.

    Raises:
        ConfigError: If a key or value is invalid.
    """
    tree = to_tree(recipe)
    if detector is not None:
        tree["detector"] = {"kind": detector}
    apply(tree, overrides)
    return from_tree(tree, recipe.name)


def require_same_training(trained: Recipe, changed: Recipe) -> None:
    """Raise ConfigError where overrides would change a checkpoint's training.

    The training is over, so they could not take effect; and images that trained the model might calibrate
    its detector.
    """
    for name in ("model", "trainer", "early_stopping"):
        if getattr(trained, name) != getattr(changed, name):
            raise ConfigError(
                f"overrides of {name} are for a training, and that of the checkpoint is over: leave them out "
                "(torchrun or srun start several processes)"
            )
    if changed.backbone is not None:
        raise ConfigError("a checkpoint is of a recipe with a `model`: name no `backbone`")
    for name in ("augment", "batch_size", "reference", "class_path", "init_args"):
        if getattr(trained.data, name) != getattr(changed.data, name):
            raise ConfigError(f"--data.{name} is for a training, and that of the checkpoint is over: leave it out")
    if trained.seed != changed.seed:
        raise ConfigError(f"the checkpoint was trained with seed {trained.seed}, which divides its images: keep it")
    for name in ("train", "classes", "outlier_classes", "split", "limit", "prepare", "mask"):
        if getattr(trained.data, name) != getattr(changed.data, name):
            raise ConfigError(
                f"--data.{name} would divide or prepare the images otherwise than the training did, and images that "
                "trained the model would calibrate it: train anew, or lit-od refit a bundle on other images"
            )


def without_training(recipe: Recipe, reason: str) -> Recipe:
    """Return a recipe that trains nothing, with an empty `trainer`.

    The number of processes that carry it out leaves no trace in its bundle.

    Args:
        recipe: The recipe.
        reason: Clause of the message that says why nothing is trained.

    Raises:
        ConfigError: If the recipe has options that only a training uses.
    """
    for key, options in (("trainer", recipe.trainer.keys() - {"devices"}), ("data.class_path", recipe.data.class_path)):
        if options:
            raise ConfigError(f"{key} goes with training, and {reason}: leave it out")
    return msgspec.structs.replace(recipe, trainer={})


def read_tree(name: str | Path) -> dict[str, Any]:
    """Read a recipe's YAML as plain dictionaries, unchecked.

    Raises:
        ConfigError: If the recipe does not exist, or is no YAML mapping.
    """
    known = shipped()
    file = known.get(str(name), Path(name))
    if file.is_dir():
        raise ConfigError(
            f"{name} is a folder and no recipe: name a recipe (lit-od recipes), and give --data.root {name}"
        )
    if not file.is_file():
        hint = did_you_mean(str(name), known) or f"; shipped are {', '.join(known)}"
        raise ConfigError(f"no recipe {str(name)!r}: wanted a YAML file or a shipped recipe{hint}")
    try:
        tree = parse(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold a mapping of keys, got {type(tree).__name__}")
    return tree


def from_tree(tree: dict[str, Any], name: str) -> Recipe:
    """Check a recipe's dictionaries and return the recipe.

    Args:
        tree: The recipe as plain dictionaries.
        name: Name of the recipe in messages.

    Raises:
        ConfigError: If a key or value is invalid; the message has the key's path.
    """
    model = tree.get("model")
    if isinstance(model, dict) and "network" in model and isinstance(model.setdefault("init_args", {}), dict):
        tree = tree | {"model": model | {"init_args": model["init_args"] | {"network": model["network"]}}}
        del tree["model"]["network"]
    try:
        recipe = msgspec.convert(tree, Recipe, strict=True)
        for key in OF_DATA.keys() & tree["data"]["prepare"].keys():
            raise ConfigError(f"recipe {name}: data.prepare takes no {key}, which comes from {OF_DATA[key]}: give that")
        return recipe
    except msgspec.ValidationError as error:
        raise ConfigError(f"recipe {name}: {_text(error)}") from None


def read_augment(tree: Any) -> Augment | None:
    """Read a recipe's `data.augment` from plain values.

    Raises:
        ConfigError: If a key or value is invalid.
    """
    try:
        return msgspec.convert(tree, Augment | None, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"data.augment: {_text(error, 'data.augment')}") from None


def _text(error: msgspec.ValidationError, within: str = "") -> str:
    """Return an error's text, with the key that was perhaps meant."""
    text = str(error)
    unknown = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", text)
    hint = did_you_mean(unknown[1], keys_of(".".join(filter(None, (within, unknown[2]))))) if unknown else ""
    return text.replace("`$.", "`").replace("Object contains unknown field", "unknown key") + hint


def to_tree(recipe: Recipe) -> dict[str, Any]:
    """Convert a recipe to plain dictionaries, the inverse of `from_tree`."""
    tree: dict[str, Any] = msgspec.to_builtins(recipe)
    return tree


def portable_tree(recipe: Recipe) -> dict[str, Any]:
    """Convert a recipe to dictionaries without the folders of this machine.

    Files keep their names.
    """
    tree = to_tree(recipe)
    if recipe.data.root != PACKAGED_DATA:
        tree["data"]["root"] = None
    if recipe.data.mask is not None:
        tree["data"]["mask"] = _file_name(recipe.data.mask)
    if isinstance(recipe.backbone, str):
        tree["backbone"] = _file_name(recipe.backbone)
    elif recipe.backbone is not None:
        tree["backbone"]["file"] = _file_name(recipe.backbone.file)
    arguments = tree["model"]["init_args"] if tree["model"] else {}
    if isinstance(arguments.get("checkpoint_path"), str):
        arguments["checkpoint_path"] = _file_name(arguments["checkpoint_path"])
    return tree


def _file_name(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path
