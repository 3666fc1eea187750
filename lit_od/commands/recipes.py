"""List the shipped recipes, or print one to start another from it."""

import argparse

from lit_od.commands._arguments import no_overrides
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError
from lit_od.recipes.load import read_tree, shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the recipe to print")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print names and descriptions, or one recipe's YAML.

    Raises:
        ConfigError: If there is no such recipe.
    """
    no_overrides(overrides)
    known = shipped()
    if args.name is None:
        width = max(len(name) for name in known)
        for name in known:
            print(f"{name:{width}}  {read_tree(name).get('description', '')}")
        return DONE
    if args.name not in known:
        raise ConfigError(f"no shipped recipe {args.name!r}: there are {', '.join(known)}")
    print(known[args.name].read_text(encoding="utf-8"), end="")
    return DONE
