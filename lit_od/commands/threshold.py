"""Show or set the threshold of a bundle.

Model and detector stay unchanged; lit-od rollback undoes it. Without --value or --rule it shows
the share of the calibration inliers that each threshold flags, the interval of the false-positive rate that this
promises on new inliers and, with --outliers, the share of the outliers that it finds. Rule max_f1 takes its threshold
from the calibration inliers and --outliers.

  lit-od threshold BUNDLE                          rates against thresholds
  lit-od threshold BUNDLE --rule fpr --rate 0.01    flag at most 1 in 100 normal images, in expectation
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from lit_od.bundle import folder as bundles
from lit_od.bundle.folder import Bundle
from lit_od.bundle.history import Change
from lit_od.bundle.model_card import false_positives, method, since_accepted, supported_rate
from lit_od.bundle.model_file import MODEL, with_threshold
from lit_od.calibration.method import shortfall
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import RULES, inliers_needed, require_applicable
from lit_od.commands._arguments import (
    add_json_argument,
    add_note_argument,
    add_outliers_argument,
    add_session_arguments,
    no_overrides,
    print_json,
    read_bundle,
    session_options,
)
from lit_od.commands._status import DONE
from lit_od.detectors.base import PixelDetector
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.engine import LocalEngine
from lit_od.images.find_local import find
from lit_od.images.identity import fingerprint
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Scorer
from lit_od.types import Scores

PERCENTILES = (50, 75, 90, 95, 97.5, 99, 99.5, 99.9, 100)
RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.001)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--value", metavar="X", type=float, help="the threshold itself")
    source.add_argument("--rule", choices=[rule for rule in RULES if rule != "value"], help="take it from calibration")
    parser.add_argument("--n", type=float, help="mean_std: standard deviations above the mean (2)")
    parser.add_argument("--q", type=float, help="percentile: the percentile (99)")
    parser.add_argument("--rate", type=float, help="fpr: share of inliers flagged, in expectation and at most (0.01)")
    add_outliers_argument(parser)
    add_json_argument(parser)
    add_note_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Show the rates, or write the bundle anew with another threshold.

    Raises:
        ConfigError: If options do not go together.
    """
    no_overrides(overrides)
    bundle = read_bundle(args.bundle, args)
    since = since_accepted(bundle.manifest)
    options = {name: getattr(args, name) for name in ("n", "q", "rate") if getattr(args, name) is not None}
    if args.value is not None:
        rule = {"rule": "value", "value": args.value, **options}
    elif args.rule is not None:
        rule = {"rule": args.rule, **options}
    elif options:
        name = next(iter(options))
        raise ConfigError(f"--{name} needs --rule {next(rule for rule, known in RULES.items() if name in known)}")
    else:
        outliers = _scores(bundle, find(args.outliers), args) if args.outliers else None
        if args.json:
            rows, _ = rate_rows(bundle.calibration, outliers)
            print_json({"calibration_inliers": bundle.calibration.scores.size, "thresholds": rows})
        else:
            print(rates(bundle.calibration, outliers) + (f"\nrates: those{since}" if since else ""))
        return DONE
    sources = find(args.outliers) if args.outliers else []
    images = {"outliers": fingerprint(sources)} if sources else {}
    require_applicable(rule, inliers=bundle.calibration.scores.size, outliers=len(sources))
    calibration = bundle.calibration.with_rule(rule, outliers=_scores(bundle, sources, args) if sources else None)
    _write(bundle, calibration, Change(command="threshold", images=images, note=args.note))
    if args.json:
        print_json({"threshold": calibration.threshold, "before": bundle.calibration.threshold, "rule": rule})
        return DONE
    print(
        f"{args.bundle}: threshold {bundle.calibration.threshold:.6g} -> {calibration.threshold:.6g}, "
        f"{calibration.flagged_share():.2%} of {calibration.scores.size:,} calibration inliers above, "
        f"{false_positives(calibration)}\n{method(calibration)}; {supported_rate(calibration)}{since}"
    )
    if line := shortfall(calibration.rule, calibration.scores.size, calibration.folds):
        print(f"lit-od: {line}", file=sys.stderr)
    return DONE


def _write(bundle: Bundle, calibration: Calibration, change: Change) -> None:
    """Write the bundle or the model file again with another threshold.

    A model file keeps no history.
    """
    if MODEL in bundle.files:
        if change.note is not None:
            raise ConfigError("a model file keeps no history: leave --note out")
        with_threshold(bundle, calibration)
        return
    entry = msgspec.structs.replace(
        bundle.manifest.calibration,
        threshold=calibration.threshold,
        rule=calibration.rule,
        pixel_threshold=_pixel_threshold(bundle, calibration),
    )
    manifest = msgspec.structs.replace(bundle.manifest, calibration=entry)
    bundles.rewrite(bundle, manifest, calibration, change=change)


def _pixel_threshold(bundle: Bundle, calibration: Calibration) -> float | None:
    """Return the threshold for pixels.

    It moves along where an image's score is the peak of its map; else a rule of inliers takes it from their peaks.
    """
    if isinstance(bundle.detector, PixelDetector) and bundle.detector.score_is_peak:
        return calibration.threshold
    if calibration.peaks is not None and calibration.rule["rule"] not in ("value", "max_f1"):
        return calibration.of_peaks()
    return bundle.manifest.calibration.pixel_threshold


def rate_rows(calibration: Calibration, outliers: Scores | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return thresholds with the rates of images above each, and notes.

    Args:
        calibration: Calibration scores and the rule in force.
        outliers: Scores of labelled outliers, shape (m,); None leaves their share out.

    Returns:
        Rows by threshold, ascending: `name`, `threshold`, `flagged`, the share of inliers, `low` and `high`, the
        interval of that rate, and `found`, the share of outliers. The notes are for the text.
    """
    scores = calibration.scores
    rows = [(f"percentile {q:g}", float(np.percentile(scores, q))) for q in PERCENTILES]
    possible = [rate for rate in RATES if inliers_needed(rate) <= scores.size]
    rows += [(f"fpr {rate:g}", calibration.with_rule({"rule": "fpr", "rate": rate}).threshold) for rate in possible]
    about = "" if calibration.folds is None else ", approximate: the calibration is cross"
    notes = [
        f"flagged: share of the {scores.size:,} calibration inliers above the threshold",
        f"95 % interval: of the false-positive rate on new inliers (Clopper-Pearson{about})",
        f"supported: {supported_rate(calibration)}",
    ]
    if missing := [rate for rate in RATES if rate not in possible]:
        needed = ", ".join(f"{rate:g} needs {inliers_needed(rate):,}" for rate in missing)
        notes.append(f"fpr {needed} calibration inliers")
    if outliers is not None:
        notes.append(f"found: share of the {outliers.size:,} outliers above the threshold")
        try:
            rows.append(("max_f1", calibration.with_rule({"rule": "max_f1"}, outliers=outliers).threshold))
        except DataError as error:
            notes.append(f"max_f1: {error}")
    rows.append((f"in force ({calibration.rule['rule']})", calibration.threshold))
    table = []
    for name, threshold in sorted(rows, key=lambda pair: pair[1]):
        low, high = calibration.fpr_interval(threshold)
        row: dict[str, Any] = {"name": name, "threshold": threshold, "flagged": calibration.flagged_share(threshold)}
        found = {} if outliers is None else {"found": float(np.mean(outliers > threshold))}
        table.append({**row, "low": low, "high": high, **found})
    return table, notes


def rates(calibration: Calibration, outliers: Scores | None = None) -> str:
    """Format the table and the notes of `rate_rows`."""
    table, notes = rate_rows(calibration, outliers)
    header = f"{'':24}{'threshold':>14}{'flagged':>10}{'95 % interval':>20}"
    lines = [f"{header}{'found':>10}" if "found" in table[0] else header]
    for row in table:
        found = f"{row['found']:>10.2%}" if "found" in row else ""
        interval = f"{row['low']:.2%} to {row['high']:.2%}"
        lines.append(f"{row['name']:24}{row['threshold']:>14.6g}{row['flagged']:>10.2%}{interval:>20}{found}")
    return "\n".join([*lines, *notes])


def _scores(bundle: Bundle, sources: Sequence[Source], args: argparse.Namespace) -> Scores:
    """Score images that must all be readable, shape (n,)."""
    scorer = Scorer.of(bundle, **session_options(args))
    return LocalEngine(scorer.extractor).score(scorer.detector, sources, task="scoring")
