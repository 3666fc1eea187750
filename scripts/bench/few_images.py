"""Measure image AUROC from few normal images, alone and in several views.

    python scripts/bench/few_images.py DATA [CATEGORY ...] [--recipe defects-few] [--counts 1 2 4 8 16] [--draws 5]
        [--calibrate] [--threads 2]

DATA holds categories in MVTec AD's layout. A draw takes as many of a category's training images at random as the
largest count says, and each smaller count the first of these; they fit the recipe's detector once alone and once in the
views of its `data.augment`. All test images are scored; the backbone runs over them once. Prints for each category and
count the mean and the standard deviation of the AUROC in percent over the draws, and the seconds of a fit; the means
over categories with a 95 % interval over draws (Student's t); and a JSON line. With --calibrate cross calibration is
run as well, and the share of normal test images above the threshold of the recipe's rule is printed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lit_od.calibration.method import CalibrationOptions
from lit_od.calibration.p_values import Calibration
from lit_od.detectors.spec import DetectorSpec
from lit_od.evaluation.metrics import auroc
from lit_od.fitting.cross import Scoring, fold_count, folds_of
from lit_od.fitting.engine import LocalEngine
from lit_od.fitting.from_recipe import onnx_backbone
from lit_od.fitting.process_group import open_engine
from lit_od.images.layouts import Category, read_category
from lit_od.images.views import Views
from lit_od.recipes.load import read
from lit_od.recipes.schema import Recipe
from lit_od.runtime.threads import available_threads, limited
from lit_od.types import Outputs, Scores

Figures = dict[tuple[int, bool], list[dict[str, float]]]
"""Figures of each draw, by number of images, and whether views of them fit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("categories", nargs="*", metavar="CATEGORY")
    parser.add_argument("--recipe", default="defects-few")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--threads", type=int, default=available_threads())
    args, overrides = parser.parse_known_args()
    recipe = read(args.recipe, overrides)
    model, _ = onnx_backbone(recipe)
    engine = open_engine(model, recipe.data.prepare, threads=args.threads)
    assert isinstance(engine, LocalEngine)
    found = {}
    for name in args.categories or sorted(each.name for each in args.data.iterdir() if (each / "train").is_dir()):
        category = read_category(args.data / name)
        assert category is not None
        found[name] = measured(engine, recipe, category, args.counts, draws=args.draws, calibrate=args.calibrate)
        for (count, in_views), draws in found[name].items():
            show(name, count, in_views, draws)
    for key in next(iter(found.values())):
        show_mean(key, [[draw["auroc"] for draw in of[key]] for of in found.values()])
    rows = [
        {"category": name, "images": count, "views": in_views, "draws": draws}
        for name, of in found.items()
        for (count, in_views), draws in of.items()
    ]
    print(json.dumps({"recipe": args.recipe, "overrides": overrides, "rows": rows}))


def measured(
    engine: LocalEngine, recipe: Recipe, category: Category, counts: Sequence[int], *, draws: int, calibrate: bool
) -> Figures:
    """Measure all counts and draws of a category.

    Args:
        engine: The recipe's backbone.
        recipe: Detector, views and rule.
        category: The category.
        counts: Numbers of images.
        draws: Draws of training images.
        calibrate: Run cross calibration too.
    """
    outliers = [each for images in category.defects.values() for each in images]
    test, good = engine.outputs([*category.good, *outliers]), len(category.good)
    found: Figures = {(count, in_views): [] for count in sorted(counts) for in_views in (False, True)}
    assert recipe.data.augment is not None
    for draw in range(draws):
        chosen = np.random.default_rng([recipe.seed, draw]).permutation(len(category.train))[: max(counts)]
        views = Views.of([category.train[row] for row in chosen], recipe.data.augment, seed=draw)
        every, each = engine.outputs(views), recipe.data.augment.count
        for count, in_views in found:
            rows = every[: count * each] if in_views else every[: count * each : each]
            figures = one(recipe, rows, each if in_views else 1, test, good)
            if calibrate and (count > 1 or in_views):
                figures["flagged"] = flagged(recipe, rows, each if in_views else 1, test[:good])
            found[count, in_views].append(figures)
            done = f"{category.name} draw {draw}, {count} {'in views' if in_views else 'alone'}: {figures}"
            print(done, file=sys.stderr, flush=True)
    return found


def one(recipe: Recipe, rows: Outputs, views: int, test: Outputs, good: int) -> dict[str, float]:
    """Fit, and score the test images.

    Args:
        recipe: The recipe.
        rows: Outputs of the images, or of their views.
        views: Views of an image.
        test: Outputs of the test images.
        good: Number of normal ones, which come first.
    """
    started = time.perf_counter()
    with limited(available_threads()):
        detector = spec_of(recipe, views).fit(rows)
        seconds = time.perf_counter() - started
        scores = scored(detector, test)
    return {"auroc": 100 * auroc(scores[:good], scores[good:]), "seconds": seconds}


def flagged(recipe: Recipe, rows: Outputs, views: int, good: Outputs) -> float:
    """Return the percentage of normal test images above the threshold.

    Args:
        recipe: The recipe.
        rows: Outputs of the images, or of their views.
        views: Views of an image.
        good: Outputs of the normal test images.
    """
    count, spec = len(rows) // views, spec_of(recipe, views)
    scoring = Scoring(spec, rows, None, 1, views)
    folds = [np.array([0])] if count == 1 else folds_of(count, fold_count(spec, count), seed=recipe.seed)
    held_out = np.empty(count)
    for fold in folds:
        held_out[fold], _ = scoring.score(fold)
    calibration = Calibration.from_inliers(held_out, CalibrationOptions.parse(recipe.calibration).rule)
    return float(100 * calibration.is_outlier(scored(spec.fit(rows), good)).mean())


def spec_of(recipe: Recipe, views: int) -> DetectorSpec:
    """Return the recipe's detector for so many views of an image."""
    return DetectorSpec.parse(recipe.detector).with_map_size(*recipe.data.prepare.size).with_views(views)


def scored(detector: Any, outputs: Outputs) -> Scores:
    """Score images a few at a time."""
    return np.concatenate([detector.score(outputs[start : start + 16]) for start in range(0, len(outputs), 16)])


def show(name: str, count: int, in_views: bool, draws: Sequence[dict[str, float]]) -> None:
    """Print the figures of a category and count.

    Args:
        name: The category.
        count: Number of images.
        in_views: True if views of them fit.
        draws: Figures of each draw.
    """
    values = [draw["auroc"] for draw in draws]
    spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    text = f"{name:8} {count:3} images, {'views' if in_views else 'alone'}: {np.mean(values):5.1f} +- {spread:.1f}"
    text += f" ({min(values):.1f} to {max(values):.1f}), fit {np.mean([draw['seconds'] for draw in draws]):.1f} s"
    if rates := [draw["flagged"] for draw in draws if "flagged" in draw]:
        text += f", flagged {np.mean(rates):.1f} % of normal test images"
    print(text, flush=True)


def show_mean(key: tuple[int, bool], values: Sequence[Sequence[float]]) -> None:
    """Print the mean over categories, with an interval over draws."""
    means = np.mean(values, axis=0)
    text = f"mean     {key[0]:3} images, {'views' if key[1] else 'alone'}: {means.mean():5.1f}"
    if len(means) > 1:
        reach = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
        text += f" [{means.mean() - reach:.1f}, {means.mean() + reach:.1f}]"
    print(text, flush=True)


if __name__ == "__main__":
    main()
