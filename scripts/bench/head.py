"""Measure a trained head beside the recipe without one.

    python scripts/bench/head.py DATA [CATEGORY ...] [--recipe defects-trained] [--shipped defects] [--seeds 0 1 2]
        [--test] [--threads 1]

DATA holds categories in MVTec AD's layout. For each category and seed the recipe's head is trained, and both detectors
are fitted: the shipped one on the images that the head trains on and validates with, the recipe's own on the former.
Both score the images that calibrate, which neither has seen, and the same with one defect each, made by other means
than those that the head learns from: the choice of a head looks at these alone. With --test both score the category's
test images too. Prints image AUROC in percent, the seconds of the training and those of its processor, and a JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.detectors.spec import DetectorSpec
from lit_od.evaluation.metrics import auroc
from lit_od.fitting.engine import LocalEngine
from lit_od.fitting.from_recipe import onnx_backbone
from lit_od.images.batching import load
from lit_od.images.layouts import read_category
from lit_od.recipes.load import read
from lit_od.runtime.threads import limited
from lit_od.training.loop.train import train

Image = NDArray[np.uint8]
Weights = NDArray[np.float32]

PER_IMAGE = 2
"""Synthetic defects of each kind made of a held-out image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("categories", nargs="*", metavar="CATEGORY")
    parser.add_argument("--recipe", default="defects-trained")
    parser.add_argument("--shipped", default="defects")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.categories or sorted(each.name for each in args.data.iterdir() if (each / "train").is_dir()):
        for seed in args.seeds:
            with limited(args.threads):
                figures = measure(args.data / name, seed, args)
            rows.append({"category": name, "seed": seed, **figures})
            print(f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
            print(json.dumps(rows[-1]), flush=True)
    means = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key not in ("category", "seed")}
    print("mean: " + ", ".join(f"{key} {value:.4g}" for key, value in means.items()))
    print(json.dumps({"category": "mean", **means}))


def measure(folder: Path, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one category and seed.

    Args:
        folder: The category.
        seed: Seed of the division, the training and the detectors.
        args: Recipes and threads.
    """
    words = [f"--data.root={folder}", f"--seed={seed}"]
    recipe, shipped = read(args.recipe, words), read(args.shipped, words)
    began, processor = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as place:
        run = train(recipe, Path(place) / "run")
    seconds = {"training s": time.perf_counter() - began, "of the processor": time.process_time() - processor}
    head = run.module.eval().head
    backbone = Backbone.load(onnx_backbone(shipped)[0], threads=args.threads, providers=["cpu"])
    engine = LocalEngine(Extractor(backbone, run.data.prepare, args.threads))
    parts = {part: engine.outputs(run.data.sources(part)) for part in ("train", "validation", "calibration")}
    height, width = recipe.data.prepare.size
    with_head = DetectorSpec.parse(recipe.detector).with_map_size(height, width).fit(headed(head, parts["train"]))
    known = np.concatenate([parts["train"], parts["validation"]])
    without = DetectorSpec.parse(shipped.detector).with_map_size(height, width).fit(known)

    def both(inliers: NDArray[np.float32], outliers: NDArray[np.float32], of: str) -> dict[str, float]:
        return {
            f"{args.shipped}, {of}": 100 * auroc(without.score(inliers), without.score(outliers)),
            f"{args.recipe}, {of}": 100
            * auroc(with_head.score(headed(head, inliers)), with_head.score(headed(head, outliers))),
        }

    figures = dict(seconds)
    images = load(run.data.sources("calibration"), run.data.prepare, threads=args.threads)
    for kind, made in synthetic(images, np.random.default_rng(seed)).items():
        figures |= both(parts["calibration"], np.concatenate([backbone(each[None]) for each in made]), kind)
    for side in (args.shipped, args.recipe):
        figures[f"{side}, synthetic"] = statistics.mean(figures[f"{side}, {kind}"] for kind in KINDS)
    if args.test:
        category = read_category(folder)
        assert category is not None
        defective = [each for sources in category.defects.values() for each in sources]
        figures |= both(engine.outputs(category.good), engine.outputs(defective), "test")
    return figures


def headed(head: torch.nn.Module, patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return patches with the head's channel."""
    with torch.no_grad():
        return np.concatenate([head(each).numpy() for each in torch.from_numpy(patches).split(16)])


def synthetic(images: Image, rng: np.random.Generator) -> dict[str, Image]:
    """Return images with one defect each, by kind."""
    shown = [(image, object_of(image)) for image in images for _ in range(PER_IMAGE)]
    return {kind: np.stack([make(image, whole, rng) for image, whole in shown]) for kind, make in KINDS.items()}


def object_of(image: Image) -> NDArray[np.bool_]:
    """Return True for the pixels that differ from the border's median colour."""
    border = np.concatenate([image[:4], image[-4:]], axis=1).reshape(-1, 3)
    differs = np.abs(image.astype(int) - np.median(border, axis=0)).max(-1) > 24
    found = ndimage.binary_fill_holes(ndimage.binary_opening(differs, iterations=2))
    return np.asarray(found if found.any() else np.ones(differs.shape), bool)


def _place(whole: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int]:
    rows, columns = np.nonzero(whole)
    chosen = rng.integers(len(rows))
    return int(rows[chosen]), int(columns[chosen])


def _blob(whole: NDArray[np.bool_], rng: np.random.Generator, least: float, most: float) -> Weights:
    """Return the weights of an irregular spot on the object, (h, w, 1).

    Args:
        whole: The object's pixels.
        rng: Draws place, size and outline.
        least: Least radius.
        most: Largest radius.
    """
    row, column = _place(whole, rng)
    radius, angle = rng.uniform(least, most), rng.uniform(0, np.pi)
    across, down = np.meshgrid(np.arange(whole.shape[1]) - column, np.arange(whole.shape[0]) - row)
    turned = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    distance = (turned[0] / (radius * rng.uniform(0.8, 1.6))) ** 2 + (turned[1] / (radius * rng.uniform(0.6, 1))) ** 2
    rough = ndimage.gaussian_filter(rng.standard_normal(whole.shape), 6)
    weights = np.clip((1.15 - distance - 0.4 * rough / rough.std()) / 0.3, 0, 1) * (distance < 9)
    return weights.astype(np.float32)[..., None]


def _pixels(values: NDArray[Any]) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)


def _pasted(image: Image, whole: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """Paste a rectangle of the object elsewhere on it, turned by quarters."""
    high, wide = rng.integers(8, 24, 2)
    top, left = _place(whole, rng)
    part = np.rot90(image[top : top + high, left : left + wide], rng.integers(4))
    row, column = _place(whole, rng)
    changed = image.copy()
    target = changed[row : row + part.shape[0], column : column + part.shape[1]]
    target[:] = _pixels(part[: target.shape[0], : target.shape[1]] * rng.uniform(0.92, 1.08) + rng.uniform(-8, 8, 3))
    return changed


def _scratched(image: Image, whole: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """Draw a thin curved line, lighter or darker."""
    row, column = _place(whole, rng)
    along = np.linspace(0, rng.uniform(10, 36), 200)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.04, 0.04) * along
    rows, columns = (row + along * np.sin(angle)).astype(int), (column + along * np.cos(angle)).astype(int)
    within = (rows >= 0) & (rows < whole.shape[0]) & (columns >= 0) & (columns < whole.shape[1])
    line = np.zeros(whole.shape, np.float32)
    line[rows[within], columns[within]] = 1
    weights = np.clip(ndimage.gaussian_filter(line, rng.uniform(0.5, 0.9)) * 2.5, 0, 1)
    return _pixels(image + (weights * rng.choice([-1, 1]) * rng.uniform(25, 70))[..., None])


def _covered(image: Image, whole: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """Lay the image itself, inverted and moved, over a spot."""
    other = np.roll(255 - image, rng.integers(0, 256, 2), (0, 1))
    weights = _blob(whole, rng, 5, 12) * rng.uniform(0.3, 0.8)
    return _pixels(image + weights * (other.astype(np.float32) - image))


def _stained(image: Image, whole: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """Stain a spot."""
    tint = rng.uniform(-1, 1, 3) + rng.choice([-1, 1]) * 0.7
    return _pixels(image + _blob(whole, rng, 5, 14) * tint / np.abs(tint).max() * rng.uniform(20, 60))


def _bulged(image: Image, whole: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """Push a part to one side."""
    row, column = _place(whole, rng)
    down, across = np.mgrid[: whole.shape[0], : whole.shape[1]].astype(np.float32)
    push = np.exp(-((down - row) ** 2 + (across - column) ** 2) / (2 * rng.uniform(5, 11) ** 2)) * rng.uniform(3.5, 7)
    angle = rng.uniform(0, 2 * np.pi)
    at = [down + push * np.sin(angle), across + push * np.cos(angle)]
    moved = [ndimage.map_coordinates(image[..., c].astype(np.float32), at, order=1, mode="nearest") for c in range(3)]
    return _pixels(np.stack(moved, -1))


def _erased(image: Image, whole: NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """Blur a spot away."""
    spread = rng.uniform(2, 5)
    blurred = ndimage.gaussian_filter(image.astype(np.float32), (spread, spread, 0))
    return _pixels(image + _blob(whole, rng, 6, 12) * (blurred - image))


KINDS: dict[str, Callable[[Image, NDArray[np.bool_], np.random.Generator], Image]] = {
    "pasted": _pasted,
    "scratched": _scratched,
    "covered": _covered,
    "stained": _stained,
    "bulged": _bulged,
    "erased": _erased,
}

if __name__ == "__main__":
    main()
