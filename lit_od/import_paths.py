"""Classes that a recipe names by their import path, and the arguments that they take."""

import importlib
import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from lit_od.errors import ConfigError

T = TypeVar("T")


def imported(path: str, base: type[T], key: str) -> type[T]:
    """The class that `package.module.Class` or `package.module:Class` names.

    Args:
        path: The import path.
        base: What the class must be derived from; nothing else is ever called.
        key: The recipe's key, for messages.

    Raises:
        ConfigError: If it cannot be imported, or is no such class.
    """
    module_name, _, name = path.replace(":", ".").rpartition(".")
    if not module_name or not name:
        raise ConfigError(f"{key}: wanted an import path such as package.module.Class, got {path!r}")
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # importing runs the module's own code
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{key}: {path} cannot be imported: {cause}. Is its package on PYTHONPATH?") from error
    if found is None:
        near = get_close_matches(name, dir(importlib.import_module(module_name)), n=1)
        raise ConfigError(f"{key}: {module_name} has no {name}{f'; did you mean {near[0]}?' if near else ''}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}: {path} must be a class derived from {base.__name__}")
    return found


def accepted(function: Any) -> tuple[list[str], bool]:
    """Names that a class or function takes as keywords, and whether it takes any other besides."""
    parameters = inspect.signature(function).parameters.values()
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return names, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def defaults(function: Any) -> dict[str, Any]:
    """What a class or function takes where it is not told, by name."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def check_accepted(function: Any, given: Iterable[str], key: str) -> None:
    """Raise ConfigError for a name that the function does not take, with the nearest that it does."""
    names, open_ended = accepted(function)
    for name in given:
        if name not in names and not open_ended:
            near = get_close_matches(name, names, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
            raise ConfigError(f"{key}.{name} does not exist; {known}")
