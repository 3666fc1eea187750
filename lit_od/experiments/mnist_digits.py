"""The Mahalanobis notebook: a small network on digits 0 to 7.

Outliers are 8 and 9, garments and photographs. The network and its training are the notebook's (recipe
mnist-digits-notebook). Three detectors read its features:
- the notebook's: one Gaussian, no shrinkage, fitted on augmented training rows, threshold mean + 2
  standard deviations of the scores of those same rows;
- one Gaussian on the training rows without augmentation, and its class-conditional form, both with
  Ledoit-Wolf shrinkage and calibrated on held-out inliers.
Beside them stands the recipe mnist-digits, which has another network and another detector.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
import torch

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import Detector, Mahalanobis
from lit_od.evaluation import plots
from lit_od.evaluation.image_sets import ImageSet, sets_of_recipe
from lit_od.evaluation.intervals import Interval, delong
from lit_od.evaluation.metrics import auroc
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, over_seeds
from lit_od.experiments.resumable_runs import export, recipes_of, train_or_resume
from lit_od.images.batching import load
from lit_od.recipes.schema import Recipe
from lit_od.training.data.augmentation import augment, step_generator
from lit_od.training.data.image_data import in_batches
from lit_od.training.data.torchvision_sets import open_set
from lit_od.training.loop.epoch_log import EpochLog
from lit_od.training.loop.train import TrainingRun
from lit_od.training.networks.trial import evaluating
from lit_od.types import Features, Scores

DETECTORS: dict[str, dict[str, Any]] = {
    "one Gaussian": {"kind": "mahalanobis"},
    "class-conditional": {"kind": "mahalanobis", "class_conditional": True},
}
NOTEBOOK = "notebook's own"
BEST = "mnist-digits"
"""Name of the recipe with another network and another detector."""

QUICK = ("--trainer.max_epochs=1", "--data.limit=4000")
RULE = {"rule": "mean_std", "n": 2}
BLOCK = 1024
"""Images that are augmented at once."""


def run(options: ExperimentOptions) -> ExperimentResult:
    """Train both networks once a seed, fit the detectors and score all sets."""
    notebooks, best = (recipes_of(name, options, quick=QUICK) for name in ("mnist-digits-notebook", BEST))
    runs = [_one_seed(*recipes, options) for recipes in zip(notebooks, best, strict=True)]
    tables = [_notebook_table(title, runs[0][key]) for title, key in _TABLES]
    rows = _chief_rows(runs, quick=options.quick)
    return ExperimentResult("\n\n".join([_summary(runs), *tables]), {"runs": runs, "median": _median(runs)}, rows)


def _chief_rows(runs: Sequence[dict[str, Any]], *, quick: bool) -> tuple[ResultRow, ...]:
    rows = []
    epoch = "1 epoch" if quick else "best epoch by validation loss instead of the last"
    for detector, differs in _DIFFERS.items():
        for name in runs[0]["auroc"][detector]:
            ours = [Interval(**each["auroc_intervals"][detector][name]) for each in runs]
            what = f"digits 0 to 7 against {name}, {detector}, AUROC %"
            rows.append(ResultRow(what, "a plot", over_seeds(ours), epoch + differs))
    return tuple(rows)


_DIFFERS = {
    NOTEBOOK: "",
    "class-conditional": "; shrinkage, a mean a class, held-out calibration",
    BEST: "; another network, distance to the hull of the nearest inliers, held-out calibration",
}
"""Differences of the chief detectors from the notebook, besides the epoch that is kept."""

_TABLES = (
    ("Notebook's table, its own threshold (mean + 2 sd of the augmented training rows), first seed", "own_threshold"),
    ("The same detector, threshold mean + 2 sd of held-out calibration rows, first seed", "held_out_threshold"),
)


def _one_seed(recipe: Recipe, best: Recipe, options: ExperimentOptions) -> dict[str, Any]:
    """Train both recipes and measure all detectors, `recipe` being the notebook's."""
    out = options.out / f"seed-{recipe.seed}"
    trained = train_or_resume(recipe, out / "run")
    bundles = {
        name: export(trained, msgspec.structs.replace(recipe, detector=detector), out / name.replace(" ", "-"), options)
        for name, detector in DETECTORS.items()
    }
    backbone = Backbone.load(bundles["one Gaussian"].files[BACKBONE], threads=options.threads)
    sets = sets_of_recipe(recipe, recipe.data.prepare, sets=open_set)
    train_set = ImageSet("training", trained.data.sources("train"), recipe.data.prepare)
    held_out = ImageSet("calibration", trained.data.sources("calibration"), recipe.data.prepare)
    features = {
        each.name: _features(backbone, each, options.threads)
        for each in (train_set, held_out, sets.inliers, *sets.outliers)
    }
    augmented = _augmented_features(backbone, train_set, recipe, options.threads)
    own = Mahalanobis.fit(augmented, shrinkage=0.0)
    detectors: dict[str, Detector] = {NOTEBOOK: own}
    detectors |= {name: each.detector for name, each in bundles.items()}
    scores = {
        name: {each: detector.score(rows) for each, rows in features.items()} for name, detector in detectors.items()
    }
    best_run = train_or_resume(best, out / f"{BEST}-run")
    bundles[BEST] = export(best_run, best, out / BEST, options)
    scores[BEST] = _bundle_scores(bundles[BEST], (sets.inliers, *sets.outliers), options.threads)
    plots.save(
        plots.score_histograms(
            {name: each for name, each in scores["class-conditional"].items() if name != "calibration"},
            bundles["class-conditional"].calibration.threshold,
        ),
        out / "histogram.png",
    )
    return {
        "seed": recipe.seed,
        "accuracy": _accuracy(trained),
        "best_accuracy": _accuracy(best_run),
        "epochs": len(EpochLog(out / "run" / "metrics.csv", resume=True).rows),
        "auroc": {
            name: {each.name: auroc(found[sets.inliers.name], found[each.name]) for each in sets.outliers}
            for name, found in scores.items()
        },
        "auroc_intervals": {
            name: {each.name: asdict(delong(found[sets.inliers.name], found[each.name])) for each in sets.outliers}
            for name, found in scores.items()
        },
        "own_threshold": _rows(scores[NOTEBOOK], own.score(augmented)),
        "held_out_threshold": _rows(scores[NOTEBOOK], scores[NOTEBOOK]["calibration"]),
    }


def _features(backbone: Backbone, images: ImageSet, threads: int | None) -> Features:
    chunks = []
    for found in Extractor(backbone, images.preparation, threads).outputs(images.sources, batch_size=256):
        found.batch.require_readable()
        chunks.append(found.outputs)
    return np.concatenate(chunks)


def _bundle_scores(bundle: Bundle, sets: Sequence[ImageSet], threads: int | None) -> dict[str, Scores]:
    backbone = Backbone.load(bundle.files[BACKBONE], threads=threads)
    return {each.name: bundle.detector.score(_features(backbone, each, threads)) for each in sets}


def _augmented_features(backbone: Backbone, images: ImageSet, recipe: Recipe, threads: int | None) -> Features:
    """Compute features of the training images, each augmented once.

    The notebook's generator feeds its detector so.
    """
    pixels = load(images.sources, images.preparation, threads=threads)
    if recipe.data.augment is None:
        return backbone(pixels)
    chunks = []
    for step, start in enumerate(range(0, len(pixels), BLOCK)):
        block = torch.from_numpy(pixels[start : start + BLOCK])
        changed = augment(block, recipe.data.augment, step_generator(recipe.seed, 0, step))
        chunks.append(backbone(changed.numpy()))
    return np.concatenate(chunks)


def _accuracy(trained: TrainingRun) -> float:
    """Return the share of the test part's images that the network classifies right."""
    data = trained.data
    pixels, labels = load(data.sources("test"), data.config.prepare), torch.from_numpy(data.labels("test"))
    with evaluating(trained.module):
        named = in_batches(trained.module, torch.from_numpy(pixels)).argmax(dim=1)
    return float((named == labels).float().mean())


def _rows(scores: Mapping[str, Scores], threshold_from: Scores) -> dict[str, Any]:
    """Return the notebook's last table: n, mean, standard deviation, share flagged."""
    threshold = Calibration.from_inliers(threshold_from, RULE).threshold
    rows = {
        name: {
            "n": len(each),
            "mean": float(each.mean()),
            "sd": float(each.std()),
            "flagged": float((each > threshold).mean()),
        }
        for name, each in scores.items()
    }
    return {"threshold": threshold, "sets": rows}


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **{name: statistics.median(each[name] for each in runs) for name in ("accuracy", "best_accuracy")},
        "auroc": {
            detector: {name: statistics.median(each["auroc"][detector][name] for each in runs) for name in sets}
            for detector, sets in runs[0]["auroc"].items()
        },
    }


def _summary(runs: Sequence[dict[str, Any]]) -> str:
    names = list(next(iter(runs[0]["auroc"].values())))
    lines = [f"{'AUROC %':20}{'seed':>8}" + "".join(f"{name:>15}" for name in names) + f"{'accuracy %':>13}"]
    middle = _median(runs)
    for detector in runs[0]["auroc"]:
        for label, each in (*((str(each["seed"]), each) for each in runs), ("median", middle)):
            figures = "".join(f"{100 * each['auroc'][detector][name]:>15.2f}" for name in names)
            accuracy = each["best_accuracy" if detector == BEST else "accuracy"]
            lines.append(f"{detector:20}{label:>8}{figures}{100 * accuracy:>13.2f}")
    return "\n".join(lines)


def _notebook_table(title: str, table: Mapping[str, Any]) -> str:
    lines = [f"{title}: {table['threshold']:.3f}", f"{'':16}{'n':>8}{'mean':>10}{'sd':>10}{'flagged':>10}"]
    for name, row in table["sets"].items():
        lines.append(f"{name:16}{row['n']:>8,}{row['mean']:>10.3f}{row['sd']:>10.3f}{row['flagged']:>10.2%}")
    return "\n".join(lines)
