"""The code that a recipe names by import path: what `--trust` may have to allow."""

from collections.abc import Iterator
from typing import Any

from lit_od.import_paths import class_and_arguments, code_of
from lit_od.recipes.schema import Recipe

PARTS = ("logger", "callbacks", "profiler")
"""Arguments of `trainer` that name classes."""


def choices_of(value: Any) -> list[Any]:
    """Return the classes that an argument of `trainer` names: one, several or none."""
    if value is None or isinstance(value, bool):
        return []
    return value if isinstance(value, list) else [value]


def code_of_training(recipe: Recipe) -> Iterator[str]:
    """Yield the import paths and hubs' models that a recipe's training names.

    Raises:
        ConfigError: If one is neither a name nor class_path and init_args.
    """
    if recipe.model is not None:
        yield from code_of(recipe.model.class_path, recipe.model.init_args).values()
    if recipe.data.class_path is not None:
        yield recipe.data.class_path
    for key in PARTS:
        for choice in choices_of(recipe.trainer.get(key)):
            yield class_and_arguments(choice, f"trainer.{key}")[0]
