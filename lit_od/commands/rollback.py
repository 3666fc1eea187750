"""Bring an earlier state of a bundle back, to the byte.

Without N it is the state before the present one. The history goes on, so that a rollback can be undone: rollback
BUNDLE N with a later N. lit-od history numbers the states.

  lit-od rollback BUNDLE
  lit-od rollback BUNDLE 0 --note 'as it was made'
"""

import argparse

from lit_od.commands._arguments import add_note_argument, add_trust_argument, no_overrides, read_bundle_folder
from lit_od.commands._status import DONE
from lit_od.formats.text import printable
from lit_od.operations.history import rollback


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("state", metavar="N", nargs="?", type=int, help="number of the state (the one before)")
    add_note_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the earlier state in place of the present one."""
    no_overrides(overrides)
    bundle = read_bundle_folder(args.bundle, args)
    new = rollback(bundle, args.state, note=args.note, trust=args.trust)
    to = new.changes()[-1].to
    print(
        printable(
            f"{args.bundle}: state {to}, threshold {bundle.calibration.threshold:.6g} -> "
            f"{new.calibration.threshold:.6g}, {new.manifest.detector.images:,} images"
        )
    )
    return DONE
