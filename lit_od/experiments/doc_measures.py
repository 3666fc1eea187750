"""Measurements of the DOC experiment: features, detectors, templates and times."""

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
from lit_od.types import Features, Scores

DETECTORS: dict[str, dict[str, Any]] = {
    "kNN": {"kind": "knn"},
    "LOF": {"kind": "lof"},
    "hull": {"kind": "local_residual"},
}
"""Detectors of the features: the paper's, the source's, and the distance to the hull of the neighbours."""

TEMPLATES = (10, 40, 160, 640)
"""Sizes of a smaller bank; the paper takes 40."""

WARM_UP = 20


def detectors_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the detectors by name, the one of the recipe's kind with its options.

    The others have their defaults.
    """
    own = recipe.detector
    return {name: (own if own["kind"] == each["kind"] else each) for name, each in DETECTORS.items()}


def features_by_part(module: LitDOC, data: ImageData, recipe: Recipe, cache: TrunkCache) -> dict[str, Features]:
    """Compute features of the training, calibration and test images and outliers.

    Args:
        module: The trained module, with a trunk.
        data: The images of the training.
        recipe: The recipe, with one set of outliers.
        cache: Activations of the trunk.

    Returns:
        Features (n, k) under "train", "calibration", "inliers" and "outliers".

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
            places = torch.split(torch.arange(len(sources)), evaluation_batch(recipe.data.prepare.shape))
            found[name] = torch.cat([module.trunk.tail(rows.index_select(0, each)).float() for each in places]).numpy()
    return found


def fitted(options: Mapping[str, Any], features: Features) -> Detector:
    """Fit a detector of a recipe's kind and options."""
    return DetectorSpec.parse(options).fit(features)


def quality(options: Mapping[str, Any], features: Mapping[str, Features], rule: Mapping[str, Any]) -> dict[str, float]:
    """Measure a detector: AUROC and balanced accuracy.

    The balanced accuracy is given at the calibrated threshold and at the best one for these test images.

    Args:
        options: The detector's `kind` and options.
        features: As of `features_by_part`.
        rule: Threshold rule and its options.
    """
    detector = fitted(options, features["train"])
    inliers, outliers = detector.score(features["inliers"]), detector.score(features["outliers"])
    area = delong(inliers, outliers)
    threshold = Calibration.from_inliers(detector.score(features["calibration"]), rule).threshold
    return {"auroc_low": area.low, "auroc_high": area.high, **figures_at(threshold, inliers, outliers)}


def figures_at(threshold: float, inliers: Scores, outliers: Scores) -> dict[str, float]:
    """Measure AUROC, the rates at a threshold, and the best balanced accuracy.

    Args:
        threshold: Scores above it are called outliers.
        inliers: Scores of test inliers, shape (n,).
        outliers: Scores of outliers, shape (m,).
    """
    at = rates(inliers, outliers, threshold)
    return {
        "auroc": auroc(inliers, outliers),
        "balanced_accuracy": at.balanced_accuracy,
        "false_positive_rate": at.fpr,
        "best_balanced_accuracy": best_balanced_accuracy(inliers, outliers).balanced_accuracy,
    }


def templates(features: Mapping[str, Features], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure AUROC and time of kNN with banks of few rows, then with all.

    The few rows are a seeded sample, or rows that cover the others.
    """
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
    """Measure the milliseconds of a decision from a PNG file's bytes.

    One image at a time; medians of each part and of all.

    Args:
        bundle: The bundle.
        sources: Images; the first `WARM_UP` are left out of the medians.
        threads: Threads of the scorer; None is one a core.
    """
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
    """Plot l_D and l_C of training and validation against steps, a colour a run.

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
