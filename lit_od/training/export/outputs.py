"""Outputs of a module's graphs: features, errors or patches, and heat maps."""

from typing import Any, cast, get_args

from torch import nn

from lit_od.detectors.registry import DETECTORS
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.types import Output


def output_of(module: object) -> Output:
    """Return the output of a module's `backbone()`: its attribute `output`.

    "features" without the attribute.

    Args:
        module: A module or its class.

    Raises:
        ConfigError: If the attribute is none of "features", "errors" and "patches".
    """
    output: object = getattr(module, "output", "features")
    if output not in get_args(Output):
        raise ConfigError(
            f'the attribute `output` of a module must be "features", "errors" or "patches", got {output!r}'
        )
    return cast(Output, output)


def maps_of(module: nn.Module) -> nn.Module | None:
    """Return the module of heat maps, which `maps()` makes; None without it."""
    maps: Any = getattr(module, "maps", None)
    return maps() if callable(maps) else None


def require_readable(module: object, spec: DetectorSpec, output: Output) -> None:
    """Check that a detector reads the output of a module.

    Args:
        module: The module or its class, for messages.
        spec: The detector.
        output: The output of the exported graph.

    Raises:
        ConfigError: If it reads another one.
    """
    reads = spec.reads()
    if reads != output:
        fitting = ", ".join(sorted(name for name, each in DETECTORS.items() if each.reads == output))
        name = (module if isinstance(module, type) else type(module)).__name__
        raise ConfigError(f"{name} gives {output}, and detector {spec.kind} reads {reads}: choose {fitting}")
