"""What a module states of its exported graphs: features or errors, and whether there are heat maps."""

from collections.abc import Mapping
from typing import Any, cast, get_args

from torch import nn

from lit_od.detectors.registry import DETECTORS
from lit_od.errors import ConfigError
from lit_od.types import Output


def output_of(module: object) -> Output:
    """What `backbone()` of a module, or of a module's class, gives: its attribute `output`, else "features".

    Raises:
        ConfigError: If the attribute is neither "features" nor "errors".
    """
    output: object = getattr(module, "output", "features")
    for known in get_args(Output):
        if output == known:
            return cast(Output, known)
    raise ConfigError(f'the attribute `output` of a module must be "features" or "errors", got {output!r}')


def maps_of(module: nn.Module) -> nn.Module | None:
    """What draws a module's heat maps, the module that `maps()` returns; None where there is no such method."""
    maps: Any = getattr(module, "maps", None)
    return maps() if callable(maps) else None


def require_readable(module: object, detector: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a recipe's detector reads what a module, or a module's class, gives."""
    given, kind = output_of(module), str(detector["kind"])
    reads = DETECTORS[kind].reads
    if reads != given:
        fitting = ", ".join(sorted(name for name, each in DETECTORS.items() if each.reads == given))
        name = (module if isinstance(module, type) else type(module)).__name__
        raise ConfigError(f"{name} gives {given}, and detector {kind} reads {reads}: choose {fitting}")
