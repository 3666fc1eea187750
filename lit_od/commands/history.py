"""Show what was changed in a bundle: when, by which command, on which images.

accept, threshold and refit in place add a line each, and keep what lit-od rollback needs to undo it. State N is the
bundle after change N, state 0 the one before the first.

  lit-od history BUNDLE
  lit-od history BUNDLE --keep 3
"""

import argparse

import msgspec

from lit_od.commands._arguments import (
    add_json_argument,
    add_trust_argument,
    no_overrides,
    print_json,
    read_bundle_folder,
)
from lit_od.commands._status import DONE
from lit_od.formats.text import printable
from lit_od.operations.history import describe, drop_states, present, purge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--keep", metavar="N", type=_whole, help="keep the ways back of the last N changes alone")
    change.add_argument("--purge", action="store_true", help="remove the history, its record too")
    add_json_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print the record, after dropping what the arguments say."""
    no_overrides(overrides)
    bundle = read_bundle_folder(args.bundle, args)
    if args.purge:
        purge(bundle, trust=args.trust)
        print(printable(f"{args.bundle}: the history is removed"))
        return DONE
    record = bundle.changes()
    if args.keep is not None and record:
        record = drop_states(bundle, keep=args.keep, trust=args.trust).changes()
    if args.json:
        print_json({"present": present(record), "changes": msgspec.to_builtins(record)})
        return DONE
    for line in describe(record).splitlines() if record else [f"{args.bundle} has no history: it is as it was made"]:
        print(printable(line))
    return DONE


def _whole(text: str) -> int:
    """Parse a whole number of at least 0.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)
