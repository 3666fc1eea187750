"""One module a command: `add_arguments(parser)` and `run(args, overrides)`; its docstring is its help."""

from lit_od.errors import ConfigError
from lit_od.recipes.overrides import parse_overrides


def no_overrides(overrides: list[str]) -> None:
    """Raise ConfigError if a command that takes no recipe was given an override of one."""
    if overrides:
        raise ConfigError(f"unknown option {overrides[0]}: overrides go with recipes (fit, train, export)")


def only_overrides(overrides: list[str], *names: str, why: str) -> None:
    """Raise ConfigError if an override is neither one of these keys nor within one; `why` says what the rest is."""
    for path, _ in parse_overrides(overrides):
        if not any(path == name or path.startswith(f"{name}.") for name in names):
            raise ConfigError(f"--{path} {why}: leave it out. What can be changed is {', '.join(names)}")
