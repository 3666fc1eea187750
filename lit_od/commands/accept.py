"""Accept images that were called outliers and are normal, in place.

They join the bank or the sums of the detector; centre, scale and projections stay. Where that can only lower scores
(the distance to the nearest rows of an exact bank, PatchCore without re-weighting, sums of such), the calibration and
the threshold stay as they are and hold. Otherwise --calibration PATH takes a new threshold from normal images newer
than the accepted ones, or the rate is no longer guaranteed until lit-od refit. A bank of patches takes of each image
only what brings its score to the threshold. Gaussians need the sums that fit --keep-accumulator keeps, or with
--normal PATH the images that they were fitted on. An image that was accepted before changes nothing. lit-od rollback
undoes it.

  lit-od accept BUNDLE false-alarm.png --note 'dust on the lens'
  lit-od accept BUNDLE false-alarms/ --dry-run --on photos/    what would it change?
"""

import argparse
from pathlib import Path

import numpy as np

from lit_od.commands._arguments import (
    add_note_argument,
    add_session_arguments,
    add_take_all_argument,
    no_overrides,
    read_bundle_folder,
    session_options,
)
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError
from lit_od.fitting.engine import LocalEngine
from lit_od.formats.text import printable
from lit_od.images.find_local import find
from lit_od.images.normal_folders import find_all_normal, require_normal
from lit_od.images.sources import Source
from lit_od.operations.feedback import Feedback, FeedbackImages, accept
from lit_od.scoring.scorer import Scorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle, which is changed in its place")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images that are normal")
    for name, text in (
        ("calibration", "newer normal images, for a new threshold; may be repeated"),
        ("normal", "the images that it was fitted on, where it lacks their sums; may be repeated"),
        ("on", "--dry-run: images whose verdicts are compared; may be repeated"),
    ):
        parser.add_argument(f"--{name}", metavar="PATH", action="extend", nargs="+", default=[], help=text)
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    add_take_all_argument(parser)
    add_note_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Accept the images, and print what that changes.

    Raises:
        ConfigError: If options do not go together.
    """
    no_overrides(overrides)
    if args.on and not args.dry_run:
        raise ConfigError("--on goes with --dry-run: leave it out, or give both")
    bundle = read_bundle_folder(args.bundle, args)
    engine = LocalEngine(Scorer.of(bundle, **session_options(args)).extractor)
    images = FeedbackImages(
        accepted=_normal(args, args.paths),
        calibration=_normal(args, args.calibration),
        normal=_normal(args, args.normal),
        on=find(args.on) if args.on else [],
    )
    found = accept(bundle, engine, images, dry_run=args.dry_run, note=args.note)
    for line in _lines(found, images, dry_run=args.dry_run):
        print(printable(f"{args.bundle}: {line}"))
    return DONE


def _normal(args: argparse.Namespace, paths: list[str]) -> list[Source]:
    images = find_all_normal(paths)
    require_normal(images, map(Path, paths), take_all=args.take_all)
    return images


def _lines(found: Feedback, images: FeedbackImages, *, dry_run: bool) -> list[str]:
    """Describe a feedback."""
    count, known = len(found.images), len(images.accepted) - len(found.images)
    lines = [
        f"{count:,} images {'would be ' if dry_run else ''}accepted"
        + (f", {known:,} left out: accepted before, or given twice" if known else "")
    ]
    limit, old = found.calibration.threshold, found.old.threshold
    if count:
        lines.append(
            f"their scores: median {np.median(found.before):.6g} -> {np.median(found.after):.6g}, "
            f"above the threshold {np.count_nonzero(found.before > old):,} -> {np.count_nonzero(found.after > limit):,}"
        )
    if found.other_normal:
        lines.append("the normal images are not those that it was fitted on, and replace them")
    lines.append(f"threshold {old:.6g} " + ("stays" if limit == old else f"-> {limit:.6g}") + f": {_reason(found)}")
    if images.on:
        before, after = found.on[0] > old, found.on[1] > limit
        gaps = found.on[1] - found.on[0]
        lines.append(
            f"on {len(images.on):,} images: outliers {np.count_nonzero(before):,} -> {np.count_nonzero(after):,}; "
            f"scores change by {gaps.min():.6g} to {gaps.max():.6g}, median {np.median(gaps):.6g}"
        )
        for row in np.flatnonzero(before != after).tolist():
            verdict = "outlier -> inlier" if before[row] else "inlier -> outlier"
            lines.append(f"{images.on[row].name}: {found.on[0][row]:.6g} -> {found.on[1][row]:.6g}, {verdict}")
    return lines


def _reason(found: Feedback) -> str:
    """Say on what grounds the threshold stands."""
    if not found.holds:
        return "scores may rise, and its rate is no longer guaranteed until lit-od refit (or give --calibration PATH)"
    if found.calibration is not found.old:
        return f"taken from {found.calibration.scores.size:,} newer normal images"
    return (
        "scores can only fall, so images like the calibration images are flagged no more often"
        if found.falls
        else ("nothing has changed")
    )
