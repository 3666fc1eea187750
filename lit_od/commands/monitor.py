"""Raise an alarm when the scores of rows drift, with a bound on false alarms.

ROWS are what lit-od score writes, CSV or JSON lines; - is standard input. Of each row the column score is read, and
error, path, detector, brightness, sharpness and saturation where they are there (score --statistics). Rows with an
error or without a finite score are counted and left out.

  lit-od monitor BUNDLE monday.csv tuesday.csv          one stream; exit status 3 if there was an alarm
  lit-od monitor BUNDLE rows.jsonl --follow             a file that grows, until Ctrl-C
  lit-od monitor BUNDLE rows.csv --out drift.png        the course as a picture (.png, .svg, .pdf)
  lit-od monitor BUNDLE rows.csv --standing 100000      a watch for years, see below
  lit-od monitor BUNDLE rows.csv --calibration normal/  begin with the scores of these images

A row's p-value is its rank among all scores so far; a martingale bets against these p-values (a conformal test
martingale). Two readings:

  evidence since the start   alarm at 1 / level: P(a false alarm, ever) <= level, for each bag of scores
  --standing N               alarm by the Shiryaev-Roberts statistic instead: N rows or more to a false alarm on
                             average, and the delay after a change does not grow with the age of the bag

The bound holds while rows are exchangeable: independent images of one kind. Successive frames of one scene are
not; give --every N, so that one row an object is taken. What image statistics moved is shown, not tested.

The bag begins with the calibration scores of the bundle, unless they are of a cross calibration (lit-od inspect) or
images were accepted since: such scores are not exchangeable with new ones. Then, after each alarm, where rows carry
another detector, and with --burn-in N, it begins with N rows that are not tested. --calibration PATH begins it with
the scores of a file of rows (.jsonl, or .csv with a column score) or of images that this bundle scores; they must be
normal, and used for nothing else. Rows without the column detector are taken for this bundle's.

Exit status: 3 if there was an alarm, else 0; also where --follow was ended by Ctrl-C.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

from lit_od.bundle.folder import Bundle
from lit_od.bundle.manifest import detector_hash
from lit_od.commands._arguments import (
    add_json_argument,
    add_session_arguments,
    extra,
    no_overrides,
    positive,
    read_bundle,
    session_options,
)
from lit_od.commands._status import ALARM, DONE
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.evaluate import columns
from lit_od.formats.atomic import require_writable
from lit_od.formats.text import printable
from lit_od.operations.drift import BURN_IN, LEVEL, DriftOptions
from lit_od.operations.drift_watch import Drift, DriftWatch, calibration_start, require_tested
from lit_od.operations.scored_rows import has_scores, read_rows
from lit_od.types import Scores

ENDINGS = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("rows", metavar="ROWS", nargs="+", help="rows of scores, in their order")
    parser.add_argument("--follow", action="store_true", help="go on reading the last file as it grows")
    parser.add_argument("--burn-in", metavar="N", type=positive, help=f"begin the bag with N rows ({BURN_IN})")
    parser.add_argument("--calibration", metavar="PATH", help="begin the bag with these rows' or images' scores")
    parser.add_argument("--every", metavar="N", type=positive, default=1, help="take one row of N")
    parser.add_argument("--level", metavar="P", type=float, default=LEVEL, help=f"bound on false alarms ({LEVEL:g})")
    parser.add_argument("--standing", metavar="N", type=float, help="standing watch: mean rows to a false alarm")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the draws that part equal scores (0)")
    add_json_argument(parser)
    parser.add_argument("--out", metavar="FILE", help="write the course as a picture there")
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Read the rows; return 3 if they raised an alarm.

    Raises:
        ConfigError: If options do not fit together.
        DataError: If no row could be tested.
    """
    no_overrides(overrides)
    if args.burn_in and args.calibration:
        raise ConfigError("--burn-in and --calibration both say what the bag begins with: give one of them")
    if args.out:
        _require_picture(Path(args.out))
    burn_in = BURN_IN if args.burn_in is None else args.burn_in
    options = DriftOptions(level=args.level, standing=args.standing, burn_in=burn_in, seed=args.seed)
    bundle = read_bundle(args.bundle, args)
    start, words = _start(args, bundle)
    watch = DriftWatch(options, detector=detector_hash(bundle.manifest), start=start, every=args.every)
    stopped = False
    try:
        for row in read_rows(args.rows, follow=args.follow):
            drift = watch.take(row)
            if drift is not None and args.follow:
                print(printable(f"lit-od: {_sentence(drift)}"), file=sys.stderr, flush=True)
            if row.restarted:
                print("lit-od: the file was truncated or replaced: it is read anew, with a new bag", file=sys.stderr)
    except KeyboardInterrupt:
        if not args.follow:
            raise
        stopped = True
    if not stopped:
        require_tested(watch, options)
    print(
        json.dumps({"begins_with": words, **watch.to_json()}, indent=2) if args.json else _table(watch, words, options)
    )
    if args.out and watch.course:
        _draw(watch, options, Path(args.out))
    return ALARM if watch.alarms else DONE


def _require_picture(out: Path) -> None:
    if out.suffix not in ENDINGS or out.is_dir():
        raise ConfigError(f"--out names a picture that ends in {', '.join(ENDINGS)}, got {str(out)!r}")
    require_writable(out.parent)
    with extra("evaluate,cpu"):
        from lit_od.evaluation import plots  # noqa: F401  # what is missing is said before the rows are read


def _start(args: argparse.Namespace, bundle: Bundle) -> tuple[Scores | None, str]:
    """Return the scores that begin the bag, or None, and words for what begins it."""
    if args.burn_in:
        return None, f"burn-in: the first {args.burn_in:,} rows, as --burn-in says"
    if not args.calibration:
        return calibration_start(bundle)
    name, path = args.calibration, Path(args.calibration)
    if has_scores(path):
        scores = [row.score for row in read_rows([name]) if _is_own(row.detector, bundle, name)]
    else:
        from lit_od.scoring.scorer import Scorer

        found = list(Scorer.of(bundle, **session_options(args)).stream(name))
        scores = [score for result in found for score in result.score.tolist()]
    known = np.array([each for each in scores if each is not None and math.isfinite(each)])
    if not known.size:
        raise DataError(f"--calibration {name} gives no score: name rows with scores, or images that can be read")
    return known, f"{known.size:,} scores of {name}"


def _is_own(detector: str | None, bundle: Bundle, name: str) -> bool:
    """Return True for a row of the bundle's own detector, or of an unnamed one.

    Raises:
        DataError: If it is of another detector.
    """
    own = detector_hash(bundle.manifest)
    if detector not in (None, own):
        raise DataError(
            f"--calibration {name} holds scores of the detector {detector}, {bundle.path} has {own}: "
            "score the images again"
        )
    return True


def _table(watch: DriftWatch, words: str, options: DriftOptions) -> str:
    """Format what was read, what it says now, and the alarms."""
    left_out = [f"{count:,} {fault}" for fault, count in watch.left_out.items()]
    if watch.skipped:
        left_out.append(f"{watch.skipped:,} not taken (--every)")
    limit = (
        f"1 / {options.level:g} of evidence: P(a false alarm) <= {options.level:g} for each bag"
        if options.standing is None
        else f"{options.standing:,.6g} of the standing watch: as many rows to a false alarm on average, or more"
    )
    lines = [
        f"rows    {watch.rows:,}, {watch.tested:,} tested" + "".join(f", {each}" for each in left_out),
        f"bag     {words}",
        f"alarm   at {limit}",
    ]
    if watch.now is not None:
        lines.append(f"now     evidence {_power(watch.now.evidence)}, standing watch {_power(watch.now.standing)}")
    else:
        lines.append("now     no row was tested yet")
    if watch.frames:
        lines.append(
            "note    these are frames of a stream: successive ones are not exchangeable, and no bound holds for them. "
            "Give --every N, one row an object"
        )
    for bag in watch.latest_bags:
        if bag.reason not in ("first row", "alarm"):
            lines.append(f"note    a new bag begins at row {bag.row:,}: {bag.reason}")
    lines.append(
        f"alarms  {watch.alarms:,}" + (f", the last {len(watch.latest)}" if watch.alarms > len(watch.latest) else "")
    )
    rows = []
    for drift in watch.latest:
        alarm = drift.alarm
        readings = (_power(alarm.evidence), _power(alarm.standing))
        rows.append([drift.path or "-", f"{alarm.row:,}", f"{alarm.start:,}", *readings])
    if rows:
        lines += ["", *columns(["image", "at row", "likely from row", "evidence", "standing"], rows)]
    for drift in watch.latest:
        if drift.moved:
            alarm = drift.alarm
            lines += ["", f"Images from row {alarm.start:,} to {alarm.row:,}, and before (shown, not tested)"]
            cells = [
                [each.name, f"{each.before:.4f}", f"{each.after:.4f}", _signed(each.deviations)] for each in drift.moved
            ]
            lines += columns(["statistic", "before", "since", "in standard deviations"], cells)
    return "\n".join(printable(line, keep="\n") for line in lines)


def _sentence(drift: Drift) -> str:
    alarm = drift.alarm
    return (
        f"alarm at row {alarm.row:,} ({drift.path or 'no path'}): likely changed from row {alarm.start:,}, evidence "
        f"{_power(alarm.evidence)}, standing watch {_power(alarm.standing)}; a new bag begins"
    )


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _power(log10: float) -> str:
    """Format a number that is given by its decimal logarithm."""
    return f"{10**log10:.3g}" if abs(log10) < 6 else f"10^{log10:.1f}"


def _draw(watch: DriftWatch, options: DriftOptions, out: Path) -> None:
    """Write the course as a picture."""
    from lit_od.evaluation import plots
    from lit_od.evaluation.plots.drift import DriftCourse, drift_course

    limit = -math.log10(options.level) if options.standing is None else math.log10(options.standing)
    course = DriftCourse(
        rows=np.array([point.row for point in watch.course], dtype=np.float64),
        evidence=np.array([point.evidence for point in watch.course]),
        standing=np.array([point.standing for point in watch.course]),
        limit=limit,
        by_standing=options.standing is not None,
        windows=np.array([(window.first + window.last) / 2 for window in watch.windows]),
        distances=np.array([window.distance for window in watch.windows]),
        alarms=[(each.alarm.row, each.alarm.start) for each in watch.latest],
        bags=[each.row for each in watch.latest_bags],
    )
    plots.save(drift_course(course), out)
