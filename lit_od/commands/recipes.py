"""List the shipped recipes, or print one to start another from it.

lit-od recipes
lit-od recipes mnist-digits > mine.yaml
"""

import argparse

from lit_od.commands._arguments import add_json_argument, no_overrides, print_json
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError
from lit_od.formats.text import did_you_mean
from lit_od.recipes.load import read_tree, shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the recipe to print")
    add_json_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print names and descriptions, or one recipe's YAML.

    Raises:
        ConfigError: If there is no such recipe.
    """
    no_overrides(overrides)
    known = shipped()
    if args.name is None:
        texts = {name: str(read_tree(name).get("description", "")) for name in known}
        width = max(map(len, texts))
        if args.json:
            print_json(texts)
        else:
            print("\n".join(f"{name:{width}}  {text}" for name, text in texts.items()))
        return DONE
    if args.name not in known:
        hint = did_you_mean(args.name, known) or f": there are {', '.join(known)}"
        raise ConfigError(f"no shipped recipe {args.name!r}{hint}")
    if args.json:
        print_json(read_tree(args.name))
    else:
        print(known[args.name].read_text(encoding="utf-8"), end="")
    return DONE
