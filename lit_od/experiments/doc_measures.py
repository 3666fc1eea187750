"""What the DOC experiment measures: features, detectors, templates and the time of a decision."""

import io
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from lit_od.bundle.folder import Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import KNN, Detector
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.evaluation.image_sets import sets_of_recipe
from lit_od.evaluation.intervals import delong
from lit_od.evaluation.metrics import auroc
from lit_od.evaluation.plots.style import colour, styled
from lit_od.evaluation.rates import best_balanced_accuracy, rates
from lit_od.images.sources import EncodedImage, Source
from lit_od.recipes.schema import Recipe
from lit_od.scoring.scorer import Scorer
from lit_od.training.data.image_data import ImageData, evaluation_batch
from lit_od.training.data.torchvision_sets import open_set
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.doc import LitDOC
from lit_od.types import Features

DETECTORS: dict[str, dict[str, Any]] = {
    "kNN": {"kind": "knn"},
    "LOF": {"kind": "lof"},
    "hull": {"kind": "local_residual"},
}
"""What reads the features: the paper's detector, the source's, and the distance to the hull of the neighbours."""

TEMPLATES = (10, 40, 160, 640)
"""Sizes of a smaller bank; the paper takes 40."""

WARM_UP = 20


def detectors_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The detectors by name, with their defaults; the one of the recipe's kind with the recipe's options."""
    own = recipe.detector
    return {name: (own if own["kind"] == each["kind"] else each) for name, each in DETECTORS.items()}


def features_by_part(module: LitDOC, data: ImageData, recipe: Recipe, cache: TrunkCache) -> dict[str, Features]:
    """Features of the training, calibration and test images, and of the recipe's outliers, by name, each (n, k).

    Raises:
        ConfigError: If the module keeps no activations.
    """
    if module.trunk is None:
        raise ConfigError("this experiment measures many trainings of one trunk: leave cache_trunk on")
    sets = sets_of_recipe(recipe, recipe.data.prepare, sets=open_set)
    (outliers,) = sets.outliers
    parts: dict[str, Sequence[Source]] = {
        "train": data.sources("train"),
        "calibration": data.sources("calibration"),
        "inliers": sets.inliers.sources,
        "outliers": outliers.sources,
    }
    module.eval()
    found = {}
    for name, sources in parts.items():
        rows = cache.rows(module.trunk, sources, recipe.data.prepare, torch.device("cpu"))
        with torch.inference_mode():
            places = torch.split(torch.arange(len(rows)), evaluation_batch(recipe.data.prepare.shape))
            found[name] = torch.cat([module.trunk.tail(rows[each]).float() for each in places]).numpy()
    return found


def fitted(options: Mapping[str, Any], features: Features) -> Detector:
    """Fit a detector of a recipe's kind and options."""
    gathered = DetectorSpec.parse(options).accumulator()
    gathered.update(features)
    return gathered.finish()


def quality(options: Mapping[str, Any], features: Mapping[str, Features], rule: Mapping[str, Any]) -> dict[str, float]:
    """AUROC, and balanced accuracy at the calibrated threshold and at the one that is best for these test images."""
    detector = fitted(options, features["train"])
    inliers, outliers = detector.score(features["inliers"]), detector.score(features["outliers"])
    threshold = Calibration.from_inliers(detector.score(features["calibration"]), rule).threshold
    at, area = rates(inliers, outliers, threshold), delong(inliers, outliers)
    return {
        "auroc": auroc(inliers, outliers),
        "auroc_low": area.low,
        "auroc_high": area.high,
        "balanced_accuracy": at.balanced_accuracy,
        "false_positive_rate": at.fpr,
        "best_balanced_accuracy": best_balanced_accuracy(inliers, outliers).balanced_accuracy,
    }


def templates(features: Mapping[str, Features], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """AUROC and time of kNN with banks of few rows, a seeded sample or rows that cover the others; then the whole."""
    rest = {key: value for key, value in options.items() if key not in ("kind", "coreset", "coreset_method")}
    banks: list[tuple[str, dict[str, Any]]] = [
        (method, {"coreset": count, "coreset_method": method})
        for count in TEMPLATES
        if count < len(features["train"])
        for method in ("sample", "k-centre")
    ]
    lines = []
    for method, smaller in [*banks, ("all", {})]:
        detector = KNN.fit(features["train"], **rest, **smaller)
        inliers, outliers = detector.score(features["inliers"]), detector.score(features["outliers"])
        times = []
        for row in features["inliers"][:200]:
            started = time.perf_counter()
            detector.score(row[None])
            times.append(time.perf_counter() - started)
        lines.append(
            {
                "templates": len(detector.bank.rows),
                "chosen": method,
                "auroc": auroc(inliers, outliers),
                "ms": 1000 * statistics.median(times),
            }
        )
    return lines


def decision_times(bundle: Bundle, sources: Sequence[Source], *, threads: int | None) -> dict[str, float]:
    """Milliseconds of a decision from the bytes of a PNG file, one image at a time: medians of each part and of all."""
    scorer = Scorer.of(bundle, threads=threads)
    spent: dict[str, list[float]] = {"decode": [], "backbone": [], "neighbours": [], "all": []}
    for source in sources:
        file = io.BytesIO()
        source.decode().save(file, "PNG")
        image = EncodedImage(file.getvalue(), source.name)
        clock = [time.perf_counter()]
        pixels = image.prepare(scorer.preparation)[None]
        clock.append(time.perf_counter())
        features = scorer.backbone(pixels)
        clock.append(time.perf_counter())
        scorer.calibration.is_outlier(scorer.detector.score(features))
        clock.append(time.perf_counter())
        for name, seconds in zip(spent, [*np.diff(clock), clock[-1] - clock[0]], strict=True):
            spent[name].append(1000 * float(seconds))
    return {name: statistics.median(each[WARM_UP:] or each) for name, each in spent.items()}


@styled
def loss_curves(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """l_D and l_C of training and validation against steps, a colour a run.

    Args:
        runs: Columns of each run's log by name, "step" among them, which counts the steps done.
    """
    figure = Figure(figsize=(9, 3.8))
    panels = figure.subplots(1, 2)
    parts = {"loss_descriptiveness": "descriptiveness, $l_D$ (nats)", "loss_compactness": "compactness, $l_C$"}
    for axes, (part, title) in zip(panels, parts.items(), strict=True):
        for number, (name, columns) in enumerate(runs.items()):
            for stage, line in (("train", "-"), ("val", "--")):
                axes.plot(
                    columns["step"],
                    columns[f"{stage}_{part}"],
                    color=colour(number),
                    linestyle=line,
                    marker="o" if len(columns["step"]) < 30 else "",
                    markersize=3,
                    label=f"{name}, {'training' if stage == 'train' else 'validation'}",
                )
        axes.set(xlabel="steps", title=title, ylim=(0, None))
    panels[0].legend()
    return figure
