"""Measure false alarms and delays of the drift alarm on real scores.

    python scripts/bench/drift.py BUNDLE --inliers PATH --outliers PATH [--streams 1000] [--rows 10000]

BUNDLE scores both PATHs; the inliers are images that neither fitted nor calibrated it. Streams draw with replacement
from these scores, after a burn-in of 100 rows, all streams at once; one of them is read by `DriftMonitor` too, and has
to agree. Level 0.01 and a standing watch of 10,000 rows, unless they are given.

- false alarms: exchangeable streams of inliers whose evidence reaches 1 / level, with Clopper and Pearson's bounds
- rows between false alarms of the standing watch, and rows of its statistic, which adds 1 a row on average
- delays in rows, medians over a fifth of the streams that alarm within 3,000 rows after a change; a share is that of
  streams that do: by evidence, by the standing watch, and by that of the jumper and of the mixture alone
- real changes of --images inliers: brightness, blur, JPEG quality, a smudge on the lens; and the statistic of the
  images that moves most

Beside it alibi-detect's KS and MMD detectors on windows of 100 rows, where it is installed. Prints a table and a JSON
line.
"""

import argparse
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from lit_od import Result, Scorer
from lit_od.calibration.binomial import clopper_pearson
from lit_od.images.find_local import find
from lit_od.images.preparation import prepare
from lit_od.images.statistics import STATISTICS, image_statistics
from lit_od.operations.bets import JUMP, POWERS, SLOPES
from lit_od.operations.drift import BURN_IN, DriftMonitor, DriftOptions, draws
from lit_od.operations.ranks import bin_of
from lit_od.types import Scores, Stats

AFTER = 3000
READINGS = ("evidence", "standing", "jumper", "mixture")
"""Readings: both of the alarm, and the standing watch of each of its two bets alone."""


@dataclass
class _Course:
    """Logarithms of a reading for all streams: shape (rows, streams)."""

    evidence: Stats
    standing: Stats
    jumper: Stats
    mixture: Stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--inliers", required=True)
    parser.add_argument("--outliers", required=True)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--level", type=float, default=0.01)
    parser.add_argument("--standing", type=float, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    scorer = Scorer.load(args.bundle, threads=args.threads)
    inliers, outliers = (_known(list(scorer.stream(path))) for path in (args.inliers, args.outliers))
    rng = np.random.default_rng(args.seed)
    print(f"{inliers.size:,} inliers, {outliers.size:,} outliers; {args.streams:,} streams; seed {args.seed}")
    figures: dict[str, Any] = {"false_alarms": _false_alarms(inliers, rng, args), "delays": []}
    print(f"\n{'change':34}{'at row':>8}" + "".join(f"{name:>18}" for name in READINGS) + "   moved most")
    few, many = (_mixed(inliers, outliers, share, rng) for share in (0.01, 0.06))
    for name, before, after in (
        ("+0.7 standard deviations", inliers, inliers + 0.7 * inliers.std()),
        ("outliers from 1 to 6 %", few, many),
    ):
        for at in (500, 5000):
            figures["delays"].append(_delays(name, at, before, after, rng, args))
    for name, scores, moved in _changed_images(scorer, args):
        figures["delays"].append(_delays(name, 500, inliers, scores, rng, args, moved))
    _beside(inliers, rng, args)
    print(json.dumps(figures))


def _known(results: Sequence[Result]) -> Scores:
    """Return the scores of images that could be read."""
    scores = Result.joined(results).score
    return scores[np.isfinite(scores)]


def _mixed(inliers: Scores, outliers: Scores, share: float, rng: np.random.Generator) -> Scores:
    """Return 20,000 scores, of which a share is the outliers'."""
    count = round(20_000 * share)
    return np.concatenate([rng.choice(inliers, 20_000 - count), rng.choice(outliers, count)])


def _false_alarms(inliers: Scores, rng: np.random.Generator, args: argparse.Namespace) -> dict[str, object]:
    """Count alarms on exchangeable streams."""
    scores = rng.choice(inliers, (args.rows, args.streams))
    course = _run(scores, args.seed, args.standing)
    _agree(scores[:, 0], course, args)
    alarmed = int((course.evidence.max(axis=0) >= -math.log(args.level)).sum())
    low, high = clopper_pearson(alarmed, args.streams)
    reached = int((course.standing >= math.log(args.standing)).sum())
    tested = course.standing.size
    mean = tested / reached if reached else math.inf
    print(
        f"false alarms by evidence, level {args.level:g}: {alarmed} of {args.streams:,} streams of {args.rows:,} rows, "
        f"{100 * alarmed / args.streams:.2f} % [{100 * low:.2f} {100 * high:.2f}]\n"
        f"standing watch of {args.standing:,.0f}: {reached:,} false alarms in {tested:,} rows, {mean:,.0f} rows each"
    )
    return {
        "alarmed": alarmed,
        "streams": args.streams,
        "rows": args.rows,
        "low": low,
        "high": high,
        "rows_between": mean if reached else None,
    }


def _agree(scores: Scores, course: _Course, args: argparse.Namespace) -> None:
    """Check that one stream reads the same by `DriftMonitor`, up to its first alarm."""
    options = DriftOptions(standing=args.standing, burn_in=BURN_IN, seed=args.seed * 1_000_003)
    monitor = DriftMonitor(options)
    for row, score in enumerate(scores.tolist()):
        reading = monitor.update(score)
        if reading.p_value is not None:
            want = [course.evidence[row - BURN_IN, 0], course.standing[row - BURN_IN, 0]]
            np.testing.assert_allclose([reading.evidence, reading.standing], np.array(want) / math.log(10), atol=1e-6)
        if reading.alarm is not None:
            return


def _delays(
    name: str,
    at: int,
    before: Scores,
    after: Scores,
    rng: np.random.Generator,
    args: argparse.Namespace,
    moved: str = "",
) -> dict[str, object]:
    """Measure rows from a change to the alarm by each reading."""
    streams = max(args.streams // 5, 2)
    scores = np.concatenate([rng.choice(before, (at, streams)), rng.choice(after, (AFTER, streams))])
    course = _run(scores, args.seed + 1, math.inf)
    found: dict[str, object] = {"change": name, "at": at, "moved": moved}
    cells = []
    for reading in READINGS:
        limit = -math.log(args.level) if reading == "evidence" else math.log(args.standing)
        late = getattr(course, reading)[at - BURN_IN :] >= limit
        caught = late.any(axis=0)
        delay = float(np.median(late.argmax(axis=0)[caught] + 1)) if caught.any() else math.nan
        found[reading] = {"caught": float(caught.mean()), "delay": None if math.isnan(delay) else delay}
        cells.append(f"{'-' if math.isnan(delay) else f'{delay:,.0f}'} ({100 * caught.mean():.0f} %)")
    print(f"{name:34}{at:8,}" + "".join(f"{cell:>18}" for cell in cells) + f"   {moved}", flush=True)
    return found


def _run(scores: Scores, seed: int, standing: float) -> _Course:
    """Bet on streams, shape (rows, streams), all at once.

    A standing watch begins anew where it reaches its limit.
    """
    p_values = _ranked(scores, seed)
    rows, streams = p_values.shape
    course = _Course(*(np.empty((rows, streams)) for _ in READINGS))
    slopes, powers = np.array(SLOPES)[:, None], np.array(POWERS)[:, None]
    fresh = np.concatenate([np.full((3, 1), -math.log(3)), np.full((4, 1), -math.log(4))])
    capital, watch = np.repeat(fresh, streams, axis=1), np.full((7, streams), -np.inf)
    for row, p in enumerate(p_values):
        factors = np.concatenate([np.log1p(slopes * (p - 0.5)), np.log(powers) + (powers - 1) * np.log(p)])
        capital[:3], watch[:3] = _jumped(capital[:3]), _jumped(watch[:3])
        capital += factors
        watch = np.logaddexp(watch, fresh) + factors
        course.jumper[row], course.mixture[row] = _summed(watch[:3]), _summed(watch[3:])
        course.evidence[row] = _summed(capital) - math.log(2)
        course.standing[row] = _summed(watch) - math.log(2)
        watch[:, course.standing[row] >= math.log(standing)] = -np.inf
    return course


def _jumped(logs: Stats) -> Stats:
    """Divide a share of the jumper's capital anew."""
    return np.logaddexp(logs + math.log1p(-JUMP), _summed(logs) + math.log(JUMP / 3))


def _summed(logs: Stats) -> Stats:
    """Return log(sum(exp(logs))) of the rows, shape (streams,)."""
    largest = logs.max(axis=0)
    safe = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.exp(logs - safe).sum(axis=0))


def _ranked(scores: Scores, seed: int) -> Stats:
    """Return the online p-values behind the burn-in, shape (rows, streams).

    Each stream has a Fenwick tree over the bins that occur.
    """
    values, places = np.unique(scores, return_inverse=True)
    _, bins = np.unique([bin_of(value) for value in values.tolist()], return_inverse=True)
    places = bins[places.reshape(scores.shape)]
    rows, streams = scores.shape
    size = 1 << int(bins.max() + 1).bit_length()
    tree = np.zeros((size + 2, streams), np.int32)
    blocks = [
        [draws(seed * 1_000_003 + stream, block) for block in range(-(-rows // 4096))] for stream in range(streams)
    ]
    theta = np.array(blocks).reshape(streams, -1)[:, :rows].T
    each = np.arange(streams)
    found = np.empty((rows - BURN_IN, streams))
    for row, place in enumerate(places):
        node = place + 1
        while (node <= size).any():
            tree[np.minimum(node, size + 1), each] += 1
            node = node + (node & -node)
        if row >= BURN_IN:
            up_to, below = _prefix(tree, place + 1, each), _prefix(tree, place, each)
            found[row - BURN_IN] = (row + 1 - up_to + theta[row] * (up_to - below)) / (row + 1)
    return found


def _prefix(tree: NDArray[np.int32], node: NDArray[np.intp], each: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the counts up to a node, for all streams."""
    total = np.zeros(len(each), np.int64)
    while node.any():
        total += tree[node, each] * (node > 0)
        node = node & (node - 1) & -(node > 0).astype(node.dtype)
    return total


def _changed_images(scorer: Scorer, args: argparse.Namespace) -> Sequence[tuple[str, Scores, str]]:
    """Score changed inliers; return name, scores, and the statistic that moves most."""
    images = [source.decode().convert("RGB") for source in find([args.inliers])[: args.images]]
    changes = {
        "brightness 0.9": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        "brightness 0.6": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
        "blur, radius 0.5": lambda image: image.filter(ImageFilter.GaussianBlur(0.5)),
        "blur, radius 1.5": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
        "JPEG quality 40": lambda image: _jpeg(image, 40),
        "JPEG quality 15": lambda image: _jpeg(image, 15),
        "smudge, faint": lambda image: _smudged(image, 0.35),
        "smudge, strong": lambda image: _smudged(image, 0.8),
    }
    usual = _statistics(images, scorer)
    found = []
    for name, change in changes.items():
        changed = [change(image) for image in images]
        shift = (_statistics(changed, scorer).mean(axis=0) - usual.mean(axis=0)) / usual.std(axis=0)
        most = int(np.abs(shift).argmax())
        found.append((name, _known([scorer.score(changed)]), f"{STATISTICS[most]} {shift[most]:+.2f} sd"))
    return found


def _statistics(images: Sequence[Image.Image], scorer: Scorer) -> Stats:
    """Return the statistics of prepared images, shape (n, 3)."""
    return image_statistics(np.stack([prepare(image, scorer.preparation) for image in images]))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image and read it again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _smudged(image: Image.Image, strength: float) -> Image.Image:
    """Lay a grey smudge over a quarter of an image, and blur what lies below."""
    width, height = image.size
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse((0.5 * width, 0.05 * height, 0.95 * width, 0.5 * height), fill=round(255 * strength))
    mask = mask.filter(ImageFilter.GaussianBlur(width / 20))
    below = Image.blend(
        image.filter(ImageFilter.GaussianBlur(width / 40)), Image.new("RGB", image.size, "#b4aaa0"), 0.5
    )
    return Image.composite(below, image, mask)


def _beside(inliers: Scores, rng: np.random.Generator, args: argparse.Namespace) -> None:
    """Count windows in which alibi-detect's detectors alarm, where it is installed."""
    if find_spec("alibi_detect") is None:
        print("\nalibi-detect is not installed: its MMD and KS detectors are left out")
        return
    from alibi_detect.cd import KSDrift, MMDDrift

    reference = rng.choice(inliers, (500, 1)).astype(np.float32)
    detectors = {
        "KS": KSDrift(reference, p_val=args.level),
        "MMD": MMDDrift(reference, backend="pytorch", p_val=args.level),
    }
    windows = min(args.rows // 100, 100)
    for name, detector in detectors.items():
        same, moved = (
            np.mean(
                [
                    detector.predict((rng.choice(inliers, (100, 1)) + shift).astype(np.float32))["data"]["is_drift"]
                    for _ in range(windows)
                ]
            )
            for shift in (0.0, 0.7 * inliers.std())
        )
        print(f"alibi-detect {name}, windows of 100 rows: alarms in {same:.1%} of normal, {moved:.1%} of shifted ones")


if __name__ == "__main__":
    main()
