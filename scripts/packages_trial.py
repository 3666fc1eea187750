"""Run the commands of an installed lit-od, and check that none loads torch.

    python scripts/packages_trial.py FOLDER cpu|evaluate,cpu

The images, which ship with the package, are written into FOLDER first. `scripts/packages` runs it.
"""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lit_od
from lit_od.cli import main

HEAVY = frozenset({"torch", "torchvision", "lightning", "timm", "torchmetrics", "onnx"})
SETS = ("--inliers", "good", "--outliers", "garments=garments")
SIDE = 112
"""Pixels a side of the defective images."""


def write_images(folder: Path) -> None:
    """Write images of normal ones, of garments and of defects.

    The defects are ones with inverted spots, in the layout of a category.
    """
    digits = np.load(Path(lit_od.__file__).parent / "assets" / "digits.npz")
    ones = digits["train_images"][digits["train_labels"] == 1]
    _write(folder / "normal", ones[:120])
    _write(folder / "good", ones[120:160])
    _write(folder / "garments", np.load(Path(lit_od.__file__).parent / "assets" / "garments.npz")["images"][:40])
    large = np.kron(ones[160:230], np.ones((1, SIDE // 28, SIDE // 28), np.uint8))
    one, random = folder / "categories" / "one", np.random.default_rng(0)
    _write(one / "train" / "good", large[:40])
    _write(one / "test" / "good", large[40:55])
    spots, masks = large[55:].copy(), np.zeros_like(large[55:])
    for image, mask, (row, column) in zip(spots, masks, random.integers(10, 80, (len(spots), 2)), strict=True):
        image[row : row + 16, column : column + 16] ^= 255
        mask[row : row + 16, column : column + 16] = 255
    _write(one / "test" / "spot", spots)
    _write(one / "ground_truth" / "spot", masks, "_mask")


def _write(folder: Path, images: NDArray[np.uint8], ending: str = "") -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}{ending}.png")


def run(*words: str, wanted: tuple[int, ...] = (0,)) -> None:
    """Run a command in this process.

    Raises:
        SystemExit: If its status is another, or torch was loaded.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(list(words))
    first = printed.getvalue().strip().partition("\n")[0]
    print(f"lit-od {' '.join(words)}\n    {status}: {first}", flush=True)
    if status not in wanted or (heavy := HEAVY & sys.modules.keys()):
        raise SystemExit(f"status {status}, loaded {heavy if status in wanted else ''}\n{printed.getvalue()}")


def try_scorer() -> None:
    """Make a bundle of a folder, score with it, prove it."""
    run("fit", "folder", "--data.root", "normal", "--out", "mine")
    run("score", "mine", "good", "garments", "--out", "rows.csv", "--statistics")
    run("verify", "mine")


def try_evaluation() -> None:
    """Run all that measures and draws.

    Raises:
        SystemExit: If a command failed, or a file is empty.
    """
    mixture = ("--detector.kind", "gmm", "--detector.components", "2", "--detector.covariance", "diag")
    run("fit", "folder", "--data.root", "normal", "--out", "mixture", *mixture)
    run("evaluate", "mine", *SETS, "--out", "figures")
    run("report", "mine", *SETS, "--out", "report.html")
    run("compare", "mine", "mixture", *SETS, "--out", "comparison")
    run("monitor", "mine", "rows.csv", "--burn-in", "20", "--out", "drift.png", wanted=(0, 3))
    size = ("--data.prepare.size", f"[{SIDE}, {SIDE}]")
    run("benchmark", "categories", "--recipe", "defects", "--out", "table", *size)
    written = ("figures/histogram.png", "report.html", "comparison/comparison.html", "drift.png", "table/benchmark.md")
    if missing := [name for name in written if not Path(name).stat().st_size]:
        raise SystemExit(f"empty: {missing}")


if __name__ == "__main__":
    images, extras = Path(sys.argv[1]).resolve(), sys.argv[2]
    if not images.is_dir():
        write_images(images)
    with contextlib.chdir(images):
        if "evaluate" in extras:
            try_evaluation()
        else:
            try_scorer()
    print(f"lit-od[{extras}] from {Path(lit_od.__file__).parent}: done, without {', '.join(sorted(HEAVY))}")
