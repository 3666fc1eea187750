"""Accept images: cost for a large bank, false alarms in a simulated year.

    python scripts/bench/accept.py [--data.root DIR] [--only bank|year] [--kills 50] [--threads 1] [--out DIR]

DIR (or LIT_OD_DATA) holds FashionMNIST as torchvision lays it out. Features are those of the shipped EfficientNet-Lite0
at 64 x 64, the detector is the distance to the nearest row.

bank: 10 images are accepted into a bank of 5,000, in this process; the time, and by how much the history grows.

year: a bundle is made of 200 shoes (sandals, sneakers, boots), threshold by rule fpr at 0.05. 10,000 later ones come in
52 weeks: as before, then darker week by week, then blurred, then turned as if the camera had been moved. Each
Monday the false alarms of the week are accepted, by lit-od accept in another process; 50 of these are killed at a
random moment, the bundle is read to the last byte, and the command is run again. A second bundle is left as it was
made. Told are the rates of false alarms of both in each part of the year, and how many of 2,000 other garments each
finds at its end. --out writes the picture and the figures.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from lit_od import Bundle, Preparation, Scorer
from lit_od.backbone.packaged import read_packaged
from lit_od.detectors.spec import DetectorSpec
from lit_od.evaluation.intervals import exact_binomial
from lit_od.fitting.engine import LocalEngine
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import open_engine
from lit_od.images.find_local import find
from lit_od.images.sources import ImageArray, Source
from lit_od.images.split import fit_and_calibration
from lit_od.operations.feedback import FeedbackImages, accept
from lit_od.training.data.torchvision_sets import open_set

SEED = 0
WEEKS = 52
SHOES, OTHERS = "fashion-mnist:train:5,7,9", "fashion-mnist:test:0,1,2,3,4,6,8"
MADE_OF, LATER = 200, 10_000
BANK, ADDED = 5_000, 10
PARTS = {"as before": (0, 13), "darker": (13, 26), "blurred": (26, 39), "turned": (39, 52)}
"""First and last week of each part of the year."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="data", type=Path, default=os.environ.get("LIT_OD_DATA"))
    parser.add_argument("--only", choices=("bank", "year"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.data is None:
        parser.error("give --data.root DIR, or set LIT_OD_DATA")
    figures: dict[str, Any] = {"python": sys.version.split()[0], "cores": os.cpu_count(), "seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "year":
            figures["bank"] = _bank(args, Path(folder))
        if args.only != "bank":
            figures["year"] = _year(args, Path(folder))
    print(json.dumps(figures))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "accept.json").write_text(json.dumps(figures, indent=1))


def _found(args: argparse.Namespace, path: str, count: int) -> list[Source]:
    found = find([path], root=args.data, sets=open_set(args.data))
    return [found[row] for row in np.random.default_rng(SEED).permutation(len(found))[:count]]


def _made(args: argparse.Namespace, out: Path, images: FitImages, rule: dict[str, Any]) -> Bundle:
    model, opset = read_packaged("lit_od:tf_efficientnet_lite0")
    engine = open_engine(model, Preparation(size=(64, 64)), threads=args.threads)
    spec = DetectorSpec.parse({"kind": "knn", "k": 1})
    return fit_bundle(out, engine, GraphFile(model, opset), images, spec, rule, Origin(name=out.name, seed=SEED))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _bank(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shoes = _found(args, SHOES, BANK + 100)
    path = folder / "bank"
    _made(args, path, FitImages(shoes[:BANK], shoes[BANK:]), {"rule": "fpr", "rate": 0.05})
    odd = _found(args, OTHERS, 5 * ADDED)
    seconds = []
    for turn in range(5):
        started = time.perf_counter()
        bundle = Bundle.read(path)
        engine = LocalEngine(Scorer.of(bundle, threads=args.threads).extractor, quiet=True)
        accept(bundle, engine, FeedbackImages(accepted=odd[turn * ADDED : (turn + 1) * ADDED]))
        seconds.append(time.perf_counter() - started)
    states = [file.stat().st_size for file in (path / "history").glob("*.state")]
    found = {
        "rows": BANK,
        "accepted": ADDED,
        "seconds": sorted(seconds),
        "bundle_bytes": _size(path),
        "state_bytes": sorted(states),
    }
    print(
        f"{ADDED} images into a bank of {BANK:,} rows: median {np.median(seconds):.2f} s in this process (to read and "
        f"to write the bundle included), a change adds {max(states) / 1000:.1f} kB to the history of a bundle of "
        f"{_size(path) / 1e6:.1f} MB"
    )
    return found


def _as_of(image: Source, week: float) -> ImageArray:
    """Return an image under the conditions of a week."""
    picture = image.decode().convert("L")
    dark = np.clip((week - 13) / 13, 0, 1)
    if week >= 39:
        picture = picture.rotate(4 + 16 * (week - 39) / 13, resample=Image.Resampling.BILINEAR)
    elif week >= 26:
        picture = picture.filter(ImageFilter.GaussianBlur(0.3 + 0.9 * (week - 26) / 13))
        dark = 0
    pixels = np.asarray(picture, np.float64) * (1 - 0.5 * (dark if week < 39 else 0))
    return ImageArray(pixels.round().astype(np.uint8), image.name)


def _year(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shoes = _found(args, SHOES, MADE_OF + LATER)
    fit, calibration = fit_and_calibration(shoes[:MADE_OF], seed=SEED)
    left, fed = folder / "left", folder / "fed"
    _made(args, left, FitImages(fit, calibration), {"rule": "fpr", "rate": 0.05})
    shutil.copytree(left, fed)
    bundle = Bundle.read(left)
    engine = LocalEngine(Scorer.of(bundle, threads=args.threads).extractor, quiet=True)
    draw, kills, killed_new = random.Random(SEED), 0, 0
    weeks: list[dict[str, Any]] = []
    weekly = np.array_split(np.arange(MADE_OF, MADE_OF + LATER), WEEKS)
    span = 0.0
    for week, numbers in enumerate(weekly):
        images = [_as_of(shoes[row], week + each / len(numbers)) for each, row in enumerate(numbers)]
        features = engine.outputs(images)  # once for both
        now = Bundle.read(fed)
        alarms = {
            name: each.calibration.is_outlier(each.detector.score(features))
            for name, each in (("left", bundle), ("fed", now))
        }
        weeks.append({"images": len(images)} | {name: int(each.sum()) for name, each in alarms.items()})
        false = [images[row] for row in np.flatnonzero(alarms["fed"])]
        if not false:
            continue
        archive = folder / "false.npz"
        np.savez(archive, images=np.stack([each.pixels for each in false]))
        words = [sys.executable, "-m", "lit_od.cli", "accept", str(fed), f"{archive}:images", "--threads", "1"]
        before = now.manifest.detector.images
        allowed = {before, before + len(false)}
        for _ in range(0 if span == 0 else 1 + (args.kills - kills) // (WEEKS - week)):
            if kills == args.kills:
                break
            kills += 1
            killed_new += _killed(words, draw.uniform(0.3, 1.05) * span)
            found = Bundle.read(fed, whole=True)
            if found.manifest.detector.images not in allowed:
                raise SystemExit(f"week {week}: {found.manifest.detector.images} images, wanted one of {allowed}")
        started = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        span = span or time.perf_counter() - started
        if Bundle.read(fed, whole=True).manifest.detector.images != before + len(false):
            raise SystemExit(f"week {week}: false alarms were lost")
    others = engine.outputs(_found(args, OTHERS, 2_000))
    end = Bundle.read(fed, whole=True)
    found = {
        "made_of": MADE_OF,
        "later": LATER,
        "kills": kills,
        "kills_after_the_exchange": killed_new,
        "accepted": end.manifest.detector.images - bundle.manifest.detector.images,
        "threshold": [bundle.calibration.threshold, end.calibration.threshold],
        "rates": {name: _rates(weeks, *span_) for name, span_ in {**PARTS, "year": (0, WEEKS)}.items()},
        "found_of_others": {
            name: float(each.calibration.is_outlier(each.detector.score(others)).mean())
            for name, each in (("left", bundle), ("fed", end))
        },
        "history_bytes": _size(fed / "history"),
        "bundle_bytes": _size(fed),
        "weeks": weeks,
    }
    for part, rates in found["rates"].items():
        told = ", ".join(f"{name} {rate:.1%} ({low:.1%} to {high:.1%})" for name, (rate, low, high) in rates.items())
        print(f"{part:10} false alarms: {told}")
    print(
        f"{found['accepted']:,} images accepted in {len(end.changes())} changes, {kills} kills ({killed_new} after the "
        f"exchange), none lost; history {found['history_bytes'] / 1e6:.2f} MB of {found['bundle_bytes'] / 1e6:.1f} MB; "
        f"other garments found: left {found['found_of_others']['left']:.1%}, fed {found['found_of_others']['fed']:.1%}"
    )
    if args.out is not None:
        _draw(weeks, args.out)
    return found


def _killed(words: Sequence[str], seconds: float) -> bool:
    """Start a command, kill it after a time, and tell whether it had ended by itself."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    return process.wait() == 0


def _rates(weeks: Sequence[dict[str, Any]], first: int, last: int) -> dict[str, list[float]]:
    """Return rates of false alarms of some weeks, with their 95 % intervals."""
    images = sum(each["images"] for each in weeks[first:last])
    found = {}
    for name in ("left", "fed"):
        rate = exact_binomial(sum(each[name] for each in weeks[first:last]), images)
        found[name] = [rate.value, rate.low, rate.high]
    return found


def _draw(weeks: Sequence[dict[str, Any]], out: Path) -> None:
    """Draw the weekly rates."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    numbers = np.arange(1, len(weeks) + 1)
    for name, colour, label in (
        ("left", "#b34700", "left as it was made"),
        ("fed", "#00598a", "false alarms accepted weekly"),
    ):
        axes.plot(numbers, [each[name] / each["images"] for each in weeks], color=colour, label=label, linewidth=1.8)
    axes.axhline(0.05, color="#666666", linewidth=1, linestyle="--", label="rate of the rule (5 %)")
    top = max(max(each["left"], each["fed"]) / each["images"] for each in weeks) * 1.15
    for part, (first, last) in PARTS.items():
        axes.axvspan(first + 0.5, last + 0.5, color="#000000", alpha=0.04 if first % 2 else 0.0, linewidth=0)
        axes.text((first + last + 1) / 2, top * 0.96, part, ha="center", va="top", color="#333333")
    axes.set(xlim=(0.5, len(weeks) + 0.5), ylim=(0, top), xlabel="week", ylabel="share of normal images flagged")
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axes.legend(loc="center left", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "accept.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
