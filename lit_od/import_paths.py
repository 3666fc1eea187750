"""Classes and functions named by import path, and their arguments."""

import importlib
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from lit_od.errors import ConfigError

T = TypeVar("T")


OWN = frozenset({"lit_od", "timm", "torchvision"})
"""Packages whose classes anybody may name."""


def require_trusted(path: str, trust: Collection[str], key: str) -> None:
    """Check that an import path may be followed.

    Importing a module runs its code.

    Args:
        path: "package.module:Class".
        trust: Paths that the caller trusts.
        key: The key or option that names it, for messages.

    Raises:
        ConfigError: If its code lies outside lit_od and the caller does not trust it, or `trust` is a text, parts of
            which would be trusted too.
    """
    if isinstance(trust, str):
        raise ConfigError(f"trust must be a list of import paths, got the text {trust!r}: write [{trust!r}]")
    if path not in trust and _package(path) not in OWN:
        raise ConfigError(f"{key}: {path} runs code from outside lit_od when it is imported: add --trust {path}")


def import_beside(file: Path) -> None:
    """Let modules in a recipe's own folder be imported, after all others."""
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)


def trust_option(name: str) -> str:
    """Return a blank and the option by which a command trusts a detector.

    The text is empty where it needs none.

    Args:
        name: Kind of a detector, or its import path.
    """
    return f" --trust {name}" if _package(name) not in (name, *OWN) else ""


NETWORKS = ("network", "encoder", "decoder")
"""Arguments of modules that may name code: an import path, or a model that a hub gives."""

TIMM = "timm.create_model"
"""A network's class_path where timm makes it, by the argument model_name."""


def class_and_arguments(choice: Any, key: str) -> tuple[str, dict[str, Any]]:
    """Return the name or import path of a class, and its arguments.

    Args:
        choice: The name alone, or class_path and init_args, as Lightning's own configurations have them.
        key: The recipe's key, for messages.

    Raises:
        ConfigError: If it is neither.
    """
    if isinstance(choice, str):
        return choice, {}
    if isinstance(choice, Mapping) and choice.keys() <= {"class_path", "init_args"}:
        path, arguments = choice.get("class_path"), choice.get("init_args") or {}
        if isinstance(path, str) and isinstance(arguments, Mapping):
            return path, dict(arguments)
    raise ConfigError(f"{key} must be a name, or class_path with init_args, got {choice!r}")


def network_and_arguments(choice: Any, key: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a network, as recipes have it, and its arguments.

    Args:
        choice: As of `class_and_arguments`; the class_path may be `TIMM`, with timm's own name as model_name.
        key: The recipe's key, for messages.

    Raises:
        ConfigError: If it is neither, `TIMM` has no model_name, or a network of lit_od gets another one to import.
    """
    name, arguments = class_and_arguments(choice, key)
    if name == TIMM:
        name = arguments.pop("model_name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{key}: {TIMM} needs model_name among its init_args")
    if _package(name) == "lit_od" and (nested := arguments.keys() & set(NETWORKS)):
        raise ConfigError(f"{key}: {name} is given a {min(nested)}, and a network within a network is not followed")
    return name, arguments


def code_of(class_path: str, init_args: Mapping[str, Any]) -> dict[str, str]:
    """Return what a module's class and arguments may import, by key.

    Args:
        class_path: Import path of the module.
        init_args: Its arguments.

    Raises:
        ConfigError: If a network is neither a name nor class_path and init_args.
    """
    choices = {key: init_args[key] for key in NETWORKS if isinstance(init_args.get(key), str | Mapping)}
    names = {f"init_args.{key}": network_and_arguments(choice, key)[0] for key, choice in choices.items()}
    return {"class_path": class_path, **names}


def _package(path: str) -> str:
    return re.split("[.:]", path)[0]


def named(path: str, key: str) -> Any:
    """Import the object that `package.module.NAME` or `package.module:NAME` names.

    Args:
        path: The import path.
        key: The key or option that names it, for messages.

    Raises:
        ConfigError: If it cannot be imported, or there is no such name.
    """
    module_name, _, name = path.replace(":", ".").rpartition(".")
    if not module_name or not name:
        raise ConfigError(f"{key}: wanted an import path such as package.module.Class, got {path!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module's own code
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{key}: {path} cannot be imported: {cause}. Is its package on PYTHONPATH, or beside the recipe?"
        ) from error
    if not hasattr(module, name):
        near = get_close_matches(name, dir(module), n=1)
        raise ConfigError(f"{key}: {module_name} has no {name}{f'; did you mean {near[0]}?' if near else ''}")
    return getattr(module, name)


def imported(path: str, base: type[T], key: str) -> type[T]:
    """Import the class that `package.module.Class` or `package.module:Class` names.

    Args:
        path: The import path.
        base: Class from which it must be derived; nothing else is ever called.
        key: The recipe's key, for messages.

    Raises:
        ConfigError: If it cannot be imported, or is no such class.
    """
    found = named(path, key)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}: {path} must be a class derived from {base.__name__}")
    return found


def accepted(function: Any) -> tuple[list[str], bool]:
    """Return the keywords that a class or function takes, and True if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return names, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def defaults(function: Any) -> dict[str, Any]:
    """Return the defaults of a class or function by name."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def check_accepted(function: Any, keywords: Iterable[str], key: str) -> None:
    """Check that a function takes all of some keywords.

    Args:
        function: A class or function.
        keywords: The keywords.
        key: The key or option that names them, for messages.

    Raises:
        ConfigError: If it does not take one of them.
    """
    names, open_ended = accepted(function)
    for name in keywords:
        if name not in names and not open_ended:
            near = get_close_matches(name, names, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
            raise ConfigError(f"{key}.{name} does not exist; {known}")
