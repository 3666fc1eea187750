"""One module a command: `add_arguments(parser)` and `run(args, overrides)`; its docstring is its help."""

from lit_od.errors import ConfigError


def no_overrides(overrides: list[str]) -> None:
    """Raise ConfigError if a command that takes no recipe was given an override of one."""
    if overrides:
        raise ConfigError(f"unknown option {overrides[0]}: overrides go with recipes (fit, train, export)")
