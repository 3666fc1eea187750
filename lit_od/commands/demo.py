"""Take a quick tour, offline: train on digits, then score digits and garments.

It trains on packaged digits 0 to 7, then scores digits 8 and 9 and garments without torch.

  lit-od demo
  lit-od demo --out tour --seed 1
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from lit_od.bundle.folder import Bundle
from lit_od.commands._arguments import add_trust_argument, extra, say_imported
from lit_od.commands._status import DONE, written
from lit_od.errors import ConfigError, LitODError
from lit_od.import_paths import trust_option
from lit_od.recipes.load import read
from lit_od.recipes.roots import data_root
from lit_od.types import Scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="folder for all that it makes (runs/demo)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed (0)")
    add_trust_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Train, export, score in another process, print the table, write the histogram."""
    with extra():
        from lit_od.evaluation import plots
        from lit_od.evaluation.evaluate import evaluate
        from lit_od.training.pipeline import fit
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    recipe = read("demo", [*overrides, f"--seed={args.seed}"])
    print("1. Train a small network on real digits 0 to 7, export it, fit a detector, write a bundle")
    started = time.perf_counter()
    _clear(out / "run", sign=out / "digits-0-7.csv")
    bundle = fit(recipe, out / "bundle", run=out / "run", trust=args.trust)
    say_imported(args, bundle.detector.kind)
    print(f"   {written(bundle, time.perf_counter() - started).splitlines()[0]}")
    print("2. Score digits and garments in a process that has no torch")
    assets = data_root(recipe.data.root)
    paths = {
        "digits 0-7": f"{assets}/digits.npz:test_images:0,1,2,3,4,5,6,7",
        **{name: f"{assets}/{each.path}" for name, each in recipe.evaluation.outliers.items()},
    }
    scores = {name: _score(bundle, path, out / f"{name.replace(' ', '-')}.csv") for name, path in paths.items()}
    inliers = scores["digits 0-7"]
    outliers = {name: each for name, each in scores.items() if name != "digits 0-7"}
    print("3. How well the scores tell them apart")
    print(evaluate(inliers, outliers, threshold=bundle.calibration.threshold).table())
    picture = out / "histogram.png"
    plots.save(plots.score_histograms(scores, bundle.calibration.threshold), picture)
    look = f"lit-od inspect {bundle.path}{trust_option(bundle.detector.kind)}"
    print(f"Histogram with the threshold: {picture}\nThe bundle: {bundle.path} ({look})")
    return DONE


def _clear(run: Path, *, sign: Path) -> None:
    """Remove the run of an earlier tour, known by its rows, and mark this one.

    Raises:
        ConfigError: If the folder is another run's.
    """
    if run.exists():
        if not sign.exists():
            raise ConfigError(f"{run} is not of an earlier tour, and would be replaced: give another --out")
        shutil.rmtree(run)
    sign.touch()


def _score(bundle: Bundle, path: str, rows: Path) -> Scores:
    """Score a PATH by `lit-od score` in another process, which must not load torch."""
    code = (
        "import sys; from lit_od.cli import main; status = main(sys.argv[1:]);"
        "sys.exit('torch was loaded' if 'torch' in sys.modules else status)"
    )
    words = [sys.executable, "-c", code, "score", str(bundle.path), path, "--out", str(rows)]
    words += trust_option(bundle.detector.kind).split()
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LitODError(f"scoring {path} failed: {done.stderr.strip()}")
    with rows.open(encoding="utf-8", newline="") as table:
        scores = np.array([float(row["score"]) for row in csv.DictReader(table)])
    print(f"   {rows}: {len(scores):,} images, {time.perf_counter() - started:.1f} s from start to end")
    return scores
