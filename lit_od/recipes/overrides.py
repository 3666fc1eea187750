"""Overrides: words of a command line that change single keys of a recipe.

Each is `--part.key VALUE`, with the value in YAML.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from lit_od.errors import ConfigError
from lit_od.formats.strict_yaml import YAMLError, parse

_CHOICES = {"detector.kind": "detector", "calibration.rule": "calibration"}
"""Overrides that choose the kind of a part; the options of another choice are dropped with it."""


def parse_overrides(words: Sequence[str]) -> Iterable[tuple[str, Any]]:
    """Yield key paths and YAML values of `--key.path VALUE` and `--key.path=VALUE`.

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
            yield path, parse(text)
        except YAMLError:
            raise ConfigError(f"--{path}: {text!r} is not a YAML value") from None


def apply(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change a recipe's tree by overrides, choices first in any order of the words."""
    for path, value in sorted(parse_overrides(overrides), key=lambda each: each[0] not in _CHOICES):
        part, key = _CHOICES.get(path), path.rpartition(".")[2]
        if part is not None and isinstance(tree.get(part), dict) and tree[part].get(key) != value:
            tree[part] = {}
        _set(tree, path, value)


def folder(name: str, value: Any) -> str | None:
    """Check the value of an override that names a folder, and return it.

    Raises:
        ConfigError: If YAML made something else than text of it.
    """
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"--{name} must name a folder, got {value!r}: quote it for YAML, as '\"{value}\"'")
    return value


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = tree
    for key in parents:
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"--{path}: {key!r} holds a value, not further keys")
    node[last] = value
