"""Show or set the threshold of a bundle; the model and the detector stay as they are.

Without --value or --rule it shows what share of the calibration inliers each threshold flags.
"""

import argparse

import msgspec
import numpy as np

from lit_od import bundle as bundles
from lit_od.bundle import Bundle
from lit_od.calibration import RULES, Calibration
from lit_od.cli import DONE
from lit_od.commands import no_overrides
from lit_od.errors import ConfigError
from lit_od.manifest import CalibrationEntry

PERCENTILES = (50, 75, 90, 95, 97.5, 99, 99.5, 99.9, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--value", metavar="X", type=float, help="the threshold itself")
    how.add_argument("--rule", choices=[rule for rule in RULES if rule != "value"], help="take it from calibration")
    parser.add_argument("--n", type=float, help="mean_std: standard deviations above the mean (2)")
    parser.add_argument("--q", type=float, help="percentile: the percentile (99)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Show the rates, or write the bundle anew with another threshold."""
    no_overrides(overrides)
    bundle = Bundle.read(args.bundle)
    options = {name: getattr(args, name) for name in ("n", "q") if getattr(args, name) is not None}
    if args.value is not None:
        rule = {"rule": "value", "value": args.value, **options}
    elif args.rule is not None:
        rule = {"rule": args.rule, **options}
    elif options:
        raise ConfigError(f"--{next(iter(options))} needs --rule")
    else:
        print(rates(bundle.calibration))
        return DONE
    calibration = bundle.calibration.with_rule(rule)
    bundles.rewrite(
        bundle,
        msgspec.structs.replace(
            bundle.manifest,
            calibration=CalibrationEntry(
                threshold=calibration.threshold, rule=calibration.rule, images=calibration.scores.size
            ),
        ),
        calibration,
    )
    print(
        f"{args.bundle}: threshold {bundle.calibration.threshold:.6g} -> {calibration.threshold:.6g}, "
        f"{calibration.flagged_share():.2%} of {calibration.scores.size:,} calibration inliers above"
    )
    return DONE


def rates(calibration: Calibration) -> str:
    """A table of thresholds and the share of calibration inliers above each."""
    thresholds = [(f"percentile {q:g}", float(np.percentile(calibration.scores, q))) for q in PERCENTILES]
    thresholds.append((f"in force ({calibration.rule['rule']})", calibration.threshold))
    lines = [f"{'':24}{'threshold':>14}{'flagged':>10}"]
    for name, threshold in sorted(thresholds, key=lambda pair: pair[1]):
        lines.append(f"{name:24}{threshold:>14.6g}{calibration.flagged_share(threshold):>10.2%}")
    lines.append(f"flagged: share of the {calibration.scores.size:,} calibration inliers above the threshold")
    return "\n".join(lines)
