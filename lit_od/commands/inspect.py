"""Print a bundle's model card or manifest.

The card lists images, backbone, detector, threshold, calibration and provenance.

  lit-od inspect BUNDLE
  lit-od inspect BUNDLE --json
"""

import argparse
import json

from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import MANIFEST
from lit_od.bundle.model_card import model_card
from lit_od.bundle.model_file import MODEL
from lit_od.commands._arguments import add_trust_argument, no_overrides, read_bundle
from lit_od.commands._status import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--json", action="store_true", help="print the manifest as it is")
    add_trust_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Print the model card or the manifest."""
    no_overrides(overrides)
    bundle = read_bundle(args.bundle, args)
    if args.json:
        if MODEL in bundle.files:
            text = manifests.encode(bundle.manifest).decode()
        else:
            text = (bundle.path / MANIFEST).read_text(encoding="utf-8")
        print("".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text), end="")
    else:
        print(model_card(bundle.manifest, bundle.calibration), end="")
        part = "part" if MODEL in bundle.files else "file"
        print(f"\n| {part} | bytes | sha256 |\n|---|---|---|")
        for name, entry in bundle.manifest.files.items():
            print(f"| {name} | {entry.size:,} | {entry.sha256[:16]}... |")
    return DONE
