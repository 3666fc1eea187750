"""Overrides: words of a command line that change single keys of a recipe.

Each is `--part.key VALUE`. A key that holds a string takes the word as it is typed; all other values are YAML.
"""

from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from lit_od.errors import ConfigError
from lit_od.formats.strict_yaml import YAMLError, parse, parse_strings
from lit_od.recipes.schema import Recipe

_CHOICES = {"detector.kind": "detector", "calibration.rule": "calibration"}
"""Overrides that choose the kind of a part; the options of another choice are dropped with it."""

_TYPES = {
    "calibration.outliers": str | list[str],
    "data.root": str,  # a folder may be called null
    "model.init_args.checkpoint_path": str | None,
}
"""Types of keys that hold paths and that the schema does not say."""


def parse_overrides(words: Sequence[str]) -> Iterable[tuple[str, Any]]:
    """Yield key paths and values of `--key.path VALUE` and `--key.path=VALUE`.

    Strings are words as typed, also within a list of strings, and no word is None. `null` is None where a string may be
    missing.

    Raises:
        ConfigError: If a word is no override, has no value, or its value is not YAML.
    """
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ConfigError(f"expected an override such as --trainer.max_epochs 3, got {word!r}")
        path, equals, text = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{path} needs a value, as in --{path} VALUE")
            text = rest.pop(0)
        try:
            yield path, _value(path, text)
        except YAMLError:
            raise ConfigError(f"--{path}: {text!r} is not a YAML value: quote a text, as '\"TEXT\"'") from None


def apply(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change a recipe's tree by overrides, choices first in any order of the words."""
    for path, value in sorted(parse_overrides(overrides), key=lambda each: each[0] not in _CHOICES):
        part, key = _CHOICES.get(path), path.rpartition(".")[2]
        if part is not None and isinstance(tree.get(part), dict) and tree[part].get(key) != value:
            tree[part] = {name: kept for name, kept in tree[part].items() if name == "method"}  # of calibration
        _set(tree, path, value)


def _value(path: str, text: str) -> Any:
    """Return the value of a key from its word."""
    kinds = _kinds(path)
    if str in kinds and (list[str] not in kinds or not text.startswith("[")):
        return None if not text or (NoneType in kinds and text == "null") else text
    if list[str] in kinds and text.startswith("["):
        return parse_strings(text)
    value = parse(text)
    if isinstance(value, str) and text[0] not in "\"'":
        return text  # YAML would end a plain text at a comment sign
    return value


def keys_of(path: str) -> list[str]:
    """Return the keys below a recipe's key; none where the schema is silent.

    The empty path is the recipe.
    """
    structs = [each for each in _kinds(path) if _is_struct(each)]
    return [key for struct in structs for key in get_type_hints(struct)]


def _kinds(path: str) -> tuple[Any, ...]:
    """Return the types of a recipe's key; empty where the schema is silent."""
    kind: Any = Recipe
    for key in filter(None, path.split(".")):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            structs = [each for each in (kind, *get_args(kind)) if _is_struct(each)]
            kind = get_type_hints(structs[0]).get(key) if structs else None
    kind = _TYPES.get(path, kind)
    return () if kind is None else get_args(kind) if get_origin(kind) is UnionType else (kind,)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    if parents == ["backbone"] and isinstance(tree.get("backbone"), str):
        tree["backbone"] = {"file": tree["backbone"]}
    node: Any = tree
    for key in parents:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"--{path}: {key!r} holds a value, not further keys")
    node[last] = value
