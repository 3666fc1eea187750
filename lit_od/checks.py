"""Checks of option values: strict types and ranges, nothing converted."""

import math
from difflib import get_close_matches

from lit_od.errors import ConfigError


def suggest(name: object, known: list[str]) -> str:
    """Return the known names as half a sentence, a close one first."""
    close = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}"


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed that a bundle cannot hold: more than 64 bits."""
    if seed >= 2**64:
        raise ConfigError(f"seed must be below 2**64, got {seed}")


def integer(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Check that a value is an int from least to most.

    Args:
        name: The option's, for messages.
        value: The value.
        least: Least allowed value.
        most: Largest allowed value; None for no limit.

    Raises:
        ConfigError: If it is not.
    """
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ConfigError(f"{name} must be an integer {span}, got {value!r}")


def number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Check that a value is a finite int or float within the given ends.

    Args:
        name: The option's, for messages.
        value: The value.
        least: Least allowed value.
        above: Largest value that is too small.
        most: Largest allowed value.
        below: Least value that is too large.

    Raises:
        ConfigError: If it is not.
    """
    if type(value) in (int, float):
        real = float(value)  # type: ignore[arg-type]  # an int or a float
        if math.isfinite(real) and least <= real <= most and above < real < below:
            return
    start = f"({above:g}" if above > least else f"[{least:g}"
    stop = f"{below:g})" if below < most else f"{most:g}]"
    raise ConfigError(f"{name} must be a number in {start}, {stop}, got {value!r}")


def proportion(name: str, value: float) -> None:
    """Raise ConfigError unless value is strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ConfigError(f"{name} must lie between 0 and 1, got {value:g}")


def flag(name: str, value: object) -> None:
    """Raise ConfigError unless value is True or False."""
    if type(value) is not bool:
        raise ConfigError(f"{name} must be true or false, got {value!r}")


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that a value is one of the choices.

    Args:
        name: The option's, for messages.
        value: The value.
        choices: Allowed values.

    Raises:
        ConfigError: If it is not.
    """
    if type(value) is not str or value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
