"""New statistics from new normal images, on the same backbone, without torch.

The images are split into a part that fits (80 %) and one that calibrates (20 %), by seed; the bundle's
threshold rule is applied anew and its golden images are renewed. Options of the detector and of the
rule: --detector.k 5, --detector.shrinkage 0.1, --calibration.rule percentile --calibration.q 99.5 ...
"""

import argparse
import time
from pathlib import Path
from typing import Any

from lit_od.bundle import BACKBONE, Bundle, require_replaceable
from lit_od.cli import DONE
from lit_od.commands import no_overrides
from lit_od.commands.fit import written
from lit_od.commands.score import add_session_arguments
from lit_od.errors import ConfigError
from lit_od.fit import Origin, fit_bundle
from lit_od.recipe import parse_overrides
from lit_od.sources import find
from lit_od.splitting import fit_and_calibration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle whose backbone is used")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="new normal images")
    parser.add_argument(
        "--out", metavar="BUNDLE2", required=True, help="folder of the new bundle; a bundle is replaced"
    )
    parser.add_argument("--detector", metavar="KIND", help="another detector than the bundle's, with its defaults")
    parser.add_argument("--labels", choices=("folders",), help="classes are the folders below each PATH")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the split (0)")
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the new bundle and say what it is."""
    out = Path(args.out)
    require_replaceable(out)
    started = time.perf_counter()
    bundle = Bundle.read(args.bundle)
    detector, rule = _options(bundle, args.detector, overrides)
    if detector.get("class_conditional") and args.labels is None:
        raise ConfigError(
            f"{detector['kind']} is class-conditional and needs the images' classes: give class folders and "
            "--labels folders, or --detector.class_conditional false"
        )
    fit, calibration = fit_and_calibration(find(args.paths), seed=args.seed)
    old = bundle.manifest
    new = fit_bundle(
        out,
        model=bundle.files[BACKBONE],
        preparation=old.preparation,
        fit=fit,
        calibration=calibration,
        detector=detector,
        rule=rule,
        origin=Origin(name=out.name, recipe=None, seed=args.seed, data={"refit_of": old.name}),
        opset=old.model.opset,
        threads=args.threads,
        providers=[args.provider] if args.provider else None,
    )
    print(written(new, time.perf_counter() - started))
    return DONE


def _options(bundle: Bundle, kind: str | None, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Detector and rule of the bundle, changed as the command line says."""
    entry = bundle.manifest.detector
    detector = {"kind": entry.kind, **entry.options} if kind is None else {"kind": kind}
    rule = dict(bundle.calibration.rule)
    for path, value in sorted(parse_overrides(overrides), key=lambda each: each[0] != "calibration.rule"):
        part, _, key = path.partition(".")
        if part == "detector" and key and key != "kind":
            detector[key] = value
        elif path == "calibration.rule":
            rule = {"rule": value}
        elif part == "calibration" and key:
            rule[key] = value
        else:
            no_overrides([f"--{path}"])
    if rule["rule"] == "value":
        raise ConfigError("the bundle's threshold was set by hand and cannot be applied anew: give --calibration.rule")
    return detector, rule
