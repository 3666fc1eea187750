"""Options of detectors: strict names, types and ranges, nothing converted.

Each detector keeps its options in a frozen dataclass whose `__post_init__` calls these checks, so
that Python callers, recipes and bundles all meet the same ones.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lit_od.checks import suggest
from lit_od.errors import ConfigError

T = TypeVar("T")


def read_options(kind: str, options_type: type[T], options: Mapping[str, Any]) -> T:
    """Return the options dataclass that plain values give.

    Args:
        kind: The detector's, for messages.
        options_type: The dataclass, which checks its values.
        options: Plain values by name; others have their defaults.

    Raises:
        ConfigError: On an unknown name, a wrong type or a value out of range.
    """
    known = [field.name for field in fields(options_type)]  # type: ignore[arg-type]  # T is a dataclass
    for name in options:
        if name not in known:
            raise ConfigError(f"detector {kind} has no option {name!r}: {suggest(name, known)}")
    return options_type(**options)


def same_options(first: object, second: object) -> None:
    """Raise ConfigError unless accumulators to be merged have equal options."""
    if first != second:
        raise ConfigError(f"accumulators to merge must have the same options, got {first} and {second}")
