"""Measure false-positive rates of split and cross calibration on few images.

    python scripts/bench/coverage.py [--data.root DATA] [--splits 200] [--threads 2] [--picture FILE.png]

DATA (or LIT_OD_DATA) holds cats_dogs, MNIST as torchvision lays it out, and defects with the categories bottle, pill
and screw. Normal images: 1,200 cats; 1,100 images of each of the digits 2, 5 and 8; train/good of each category. The
packaged EfficientNet-Lite0 runs once over each. kNN takes its 1,280 features, Mahalanobis (shrinkage 0.3) the means of
the 176 channels that the recipe `defects` takes. A random split takes n images; `split` fits on four fifths and
calibrates on one, `cross` does both on all, by the code that `lit-od fit` runs. Rule fpr sets the threshold, and of the
other images at most 500 are scored. Splits take the digits, and the categories, in turn.

Prints a row a set, detector, n and rate: the rate promised (p-values up to it are flagged), that which is proven, and
the realised one, its mean over the splits with a 95 % interval of the mean; where no rate so low is supported, the
least that is. Splits share images, so that the intervals are of these sets and not of all such sets. Ends with a JSON
line.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lit_od.backbone.packaged import backbone_file, read_patches
from lit_od.calibration.method import Folds, Method
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import inliers_needed
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.cross import Scoring, fold_count, folds_of
from lit_od.fitting.process_group import open_engine
from lit_od.images.find_local import find
from lit_od.images.layouts import normal_images
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.images.split import fit_and_calibration, held_out_images
from lit_od.recipes.load import read
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import PatchBackbone
from lit_od.runtime.threads import available_threads
from lit_od.training.data.torchvision_sets import open_set
from lit_od.types import Features

IMAGES, RATES, TESTED = (10, 20, 50, 100, 500), (0.01, 0.05, 0.10), 500
SPECS = {"knn": DetectorSpec("knn", {"k": 5}), "mahalanobis": DetectorSpec("mahalanobis", {"shrinkage": 0.3})}
METHODS: tuple[Method, ...] = ("split", "cross")
Sets = dict[str, list[dict[str, Features]]]
"""Features by detector, of each class of a set, by set."""


@dataclass(frozen=True)
class Row:
    """Rates of one cell of the table, by method; None where there are none."""

    name: str
    detector: str
    images: int
    rate: float
    least: dict[str, float]
    promised: dict[str, float | None]
    proven: dict[str, float | None]
    realised: dict[str, tuple[float, float, float] | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", metavar="DATA")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--picture", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    sets = _features(data_root(args.root), args.threads)
    rows = [row for name in sets for detector in SPECS for row in _rows(sets, name, detector, args)]
    print(json.dumps({"splits": args.splits, "rows": [vars(row) for row in rows]}))
    if args.picture:
        _draw(rows, args.picture)


def _features(root: Path, threads: int) -> Sets:
    recipe, layers = read("folder"), read("defects").backbone
    assert isinstance(layers, PatchBackbone)
    sets = open_set(root)
    images: dict[str, list[Sequence[Source]]] = {
        "cats": [find(["cats_dogs/train/cats"], root=root)[:1200]],
        "digits": [find([f"mnist:train:{digit}"], root=root, sets=sets)[:1100] for digit in (2, 5, 8)],
        "defects": [normal_images(root / "defects" / name) or [] for name in ("bottle", "pill", "screw")],
    }
    found: Sets = {}
    for name, classes in images.items():
        side = 64 if name == "digits" else 224
        prepare = Preparation(size=(side, side), mode="rgb", resize="bilinear")
        plain = open_engine(backbone_file(str(recipe.backbone)), prepare, threads=threads)
        cut = read_patches(layers.file, layers.layers, layers.patch_grid(), prepare.shape)[0]
        patches = open_engine(cut, prepare, threads=threads)
        found[name] = [
            {
                "knn": plain.outputs(each),
                "mahalanobis": np.concatenate(
                    [patches.outputs(each[row : row + 100]).mean(axis=(1, 2)) for row in range(0, len(each), 100)]
                ),
            }
            for each in classes
        ]
    return found


def _rows(sets: Sets, name: str, detector: str, args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for images in IMAGES:
        classes = [each[detector] for each in sets[name] if len(each[detector]) >= images + 100]
        if not classes:
            continue
        work = partial(_realised, SPECS[detector], classes, images)
        with ProcessPoolExecutor(args.threads) as pool:
            found = list(pool.map(work, range(args.splits), chunksize=5))
        for rate in RATES:
            rows.append(_row(name, detector, images, rate, [each[rate] for each in found]))
            print(_line(rows[-1]), flush=True)
    return rows


def _realised(spec: DetectorSpec, classes: list[Features], images: int, seed: int) -> dict[float, dict[str, Any]]:
    """Return promised, proven and realised rates of one split, by rate and method."""
    os.environ["OMP_NUM_THREADS"] = "1"
    whole = classes[seed % len(classes)]
    order = np.random.default_rng(seed).permutation(len(whole))
    rows, others = whole[order[:images]], whole[order[images : images + TESTED]]
    found: dict[float, dict[str, Any]] = {rate: {} for rate in RATES}
    for method in METHODS:
        scores, tested, folds = _split(spec, rows, others) if method == "split" else _cross(spec, rows, others)
        for rate in RATES:
            if scores.size < inliers_needed(rate):
                continue
            fitted = Calibration.from_inliers(scores, {"rule": "fpr", "rate": rate}, folds=folds)
            promised = fitted.promised()
            assert promised is not None
            proven = promised if folds is None else folds.proven(promised, images)
            found[rate][method] = promised, proven, float(fitted.is_outlier(tested).mean())
    return found


def _split(spec: DetectorSpec, rows: Features, others: Features) -> tuple[Any, Any, Folds | None]:
    fit, calibration = (np.array(part) for part in fit_and_calibration(range(len(rows)), seed=0))
    detector = spec.fit(rows, rows=fit)
    return detector.score(rows[calibration]), detector.score(others), None


def _cross(spec: DetectorSpec, rows: Features, others: Features) -> tuple[Any, Any, Folds | None]:
    detector = spec.fit(rows)
    if spec.leaves_out:
        scores, count = detector.score_left_out(rows), len(rows)
    else:
        count, scores = fold_count(spec, len(rows)), np.empty(len(rows))
        scoring = Scoring(spec, rows, None, 1)
        for fold in folds_of(len(rows), count, seed=0):
            scores[fold] = scoring.score(fold)[0]
    return scores, detector.score(others), Folds(count, detector.falls_with_rows)


def _row(name: str, detector: str, images: int, rate: float, found: list[dict[str, Any]]) -> Row:
    sizes = {"split": held_out_images(images), "cross": images}
    promised: dict[str, float | None] = dict.fromkeys(METHODS)
    proven: dict[str, float | None] = dict.fromkeys(METHODS)
    realised: dict[str, tuple[float, float, float] | None] = dict.fromkeys(METHODS)
    for method in METHODS:
        if method in found[0]:
            promised[method], proven[method] = found[0][method][:2]
            rates = np.array([each[method][2] for each in found])
            mean, error = float(rates.mean()), 1.96 * float(rates.std(ddof=1)) / np.sqrt(len(rates))
            realised[method] = mean, max(0.0, mean - error), mean + error
    least = {method: 1 / (size + 1) for method, size in sizes.items()}
    return Row(name, detector, images, rate, least, promised, proven, realised)


def _line(row: Row) -> str:
    parts = [f"{row.name:8} {row.detector:12} {row.images:>4} {row.rate:>5.0%}"]
    for method in METHODS:
        came, promised, proven = row.realised[method], row.promised[method], row.proven[method]
        if came is None or promised is None:
            parts.append(f"{method}: at the least {row.least[method]:.1%}".ljust(58))
            continue
        bound = "nothing" if proven is None else f"{proven:.1%}"
        mean, low, high = came
        text = f"{method}: promised {promised:.1%}, proven {bound:>7}, came {mean:.2%} [{low:.2%}, {high:.2%}]"
        parts.append(text.ljust(58))
    return "  ".join(parts).rstrip()


def _draw(rows: list[Row], picture: Path) -> None:
    """Draw realised over promised rates against the number of images."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.name for row in rows))
    figure = Figure(figsize=(10, 3 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(SPECS), sharex=True, sharey=True, squeeze=False)
    for (down, name), (across, detector) in ((one, two) for one in enumerate(names) for two in enumerate(SPECS)):
        axis = axes[down, across]
        for method, shift, marker in (("split", 0.94, "o"), ("cross", 1.06, "s")):
            for rate, colour in zip(RATES, ("tab:blue", "tab:orange", "tab:green"), strict=True):
                shown = [each for each in rows if (each.name, each.detector, each.rate) == (name, detector, rate)]
                points = [(each.images * shift, *each.realised[method]) for each in shown if each.realised[method]]
                if not points:
                    continue
                place, mean, low, high = np.array(points).T * np.array([[1], [100], [100], [100]])
                axis.errorbar(
                    place,
                    mean,
                    [mean - low, high - mean],
                    color=colour,
                    marker=marker,
                    linestyle="--" if method == "split" else "-",
                    markerfacecolor="white" if method == "split" else colour,
                    capsize=2,
                    label=f"{method}, {rate:.0%}",
                )
        for rate in RATES:
            axis.axhline(100 * rate, color="0.7", linewidth=0.8, zorder=0)
        axis.set(xscale="log", title=f"{name}, {detector}")
        axis.set_xticks(IMAGES, [str(each) for each in IMAGES])
        axis.minorticks_off()
    for axis in axes[-1]:
        axis.set_xlabel("normal images")
    for axis in axes[:, 0]:
        axis.set_ylabel("false positives, %")
    named = [axis.get_legend_handles_labels() for axis in axes.flat]
    handles = {label: handle for each in named for handle, label in zip(*each, strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=6)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
