"""Check a bundle: schema, every file's hash, and its golden images.

The golden images are decoded, prepared and scored again.

  lit-od verify BUNDLE
  lit-od verify model.onnx --provider cuda
"""

import argparse
from pathlib import Path

from lit_od.backbone.compiled import CompiledGraph
from lit_od.bundle.folder import MANIFEST, Bundle, golden_arrays
from lit_od.bundle.model_file import NODES, TOLERANCE, changed_parts
from lit_od.commands._arguments import (
    add_json_argument,
    add_session_arguments,
    no_overrides,
    print_json,
    read_bundle,
    session_options,
)
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import BackboneError, BundleError
from lit_od.formats.text import printable, unicode_text
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.verification import golden_differences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    add_json_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Verify; return 1 after printing a line for each difference."""
    no_overrides(overrides)
    changed: list[str] = []
    try:
        bundle = read_bundle(args.bundle, args, whole=True)
        scorer = Scorer.of(bundle, **session_options(args))
        found = golden_differences(bundle, scorer)
    except BackboneError as error:
        found = [str(error)]
    except BundleError as error:
        if not (Path(args.bundle) / MANIFEST).exists():
            raise
        found = [str(error)]
    else:
        if isinstance(scorer.backbone, CompiledGraph):
            changed = list(changed_parts(bundle))
            if not args.json:
                return _verify_model(args.bundle, bundle, found)
    if args.json:
        print_json({"sound": not found, "differences": [unicode_text(line) for line in found], "changed": changed})
        return INCOMPLETE if found else DONE
    for line in found:
        print(printable(f"{args.bundle}: {line}"))
    if not found:
        allowed, count = bundle.manifest.tolerance, len(golden_arrays(bundle)["scores"])
        print(
            f"{args.bundle}: {len(bundle.manifest.files)} files as their hashes say; {count} golden "
            f"images score as they must (pixels within {allowed.pixels}/255, outputs within {allowed.outputs:g}, "
            f"scores within {allowed.scores:g})"
        )
    return INCOMPLETE if found else DONE


def _verify_model(path: str, bundle: Bundle, found: list[str]) -> int:
    """Verify a model file: name the parts that were changed; golden images decide."""
    for part in changed_parts(bundle):
        verb = "were" if part == NODES else "was"
        print(printable(f"{path}: {part} {verb} changed since lit-od compile"))
    for line in found:
        print(printable(f"{path}: {line}"))
    if not found:
        count = len(golden_arrays(bundle)["scores"])
        print(f"{path}: {count} golden images score as they must (scores within {TOLERANCE:g})")
    return INCOMPLETE if found else DONE
