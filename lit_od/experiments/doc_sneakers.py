"""DOC on Fashion-MNIST: sneakers as target class, ankle boots as outliers.

Eight other garments are the reference set. The source trains MobileNetV2 at 96x96 and scores with LOF: AUROC
0.90, accuracy about 83 %, 140 ms an image on a GPU. Here g is EfficientNet-Lite0, and both losses are minimised
in one step, as in the paper. The recipe's options were chosen on other target classes (dresses, pullovers and
T-shirts), with reference sets without the target, and without any image of a sneaker or a boot.

Each seed draws its own reference images, division and head. The joint training is compared with the frozen
network and with trainings by one loss alone; and, with the same options, on the recipe's other pairs.
"""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from lit_od.bundle.folder import Bundle
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.evaluation import plots
from lit_od.evaluation.image_sets import ImageSets, score_set, sets_of_recipe
from lit_od.evaluation.intervals import Interval
from lit_od.evaluation.plots.embeddings import embedding_maps
from lit_od.evaluation.plots.galleries import gallery
from lit_od.experiments.doc_measures import (
    DETECTORS,
    decision_times,
    detectors_of,
    features_by_part,
    figures_at,
    loss_curves,
    quality,
    templates,
)
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, over_seeds
from lit_od.experiments.resumable_runs import export, recipes_of, train_or_resume
from lit_od.images.batching import load
from lit_od.images.sources import Source
from lit_od.recipes.load import override, portable_tree
from lit_od.recipes.schema import EvaluationConfig, EvaluationSet, Pair, Recipe
from lit_od.scoring.drawing import in_colour
from lit_od.scoring.maps import heat_maps
from lit_od.scoring.scorer import Scorer
from lit_od.training.data.torchvision_sets import open_set
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.data.twin_data import TwinData
from lit_od.training.doc import LitDOC
from lit_od.training.explain.gradients import gradient_maps, overlays
from lit_od.training.loop.checkpoints import read_checkpoint
from lit_od.training.loop.epoch_log import EpochLog
from lit_od.training.loop.train import LAST, TrainingRun
from lit_od.training.loop.trainer import make_module, module_arguments, seeded
from lit_od.types import Features

PUBLISHED = {"LOF": 0.90}
"""The source's AUROC, by detector."""

PUBLISHED_ACCURACY, PUBLISHED_MS = 0.83, 140

ABLATION = {
    "l_D alone": ["--model.init_args.compactness=0.0"],
    "l_C alone": ["--model.init_args.descriptiveness=0.0"],
}
QUICK = ["--data.limit=240", "--data.reference.limit=240", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"]
SHOWN, TINY = 400, 40
"""Images of a set in a map, and in that of a smoke run."""

EXPLAINED, INLIERS = 8, 12
"""Numbers of outliers under heat maps, and of calibration images whose maps give the scale."""

TIMED = 220
"""Images on which a decision's time is measured."""


def run(options: ExperimentOptions) -> ExperimentResult:
    """Train, ablate, measure and draw."""
    cache, recipes = TrunkCache(), recipes_of("doc-sneakers", options, quick=QUICK)
    DetectorSpec.parse(recipes[0].detector, options.trust).check()  # before the trainings, not after them
    runs = [_one_seed(recipe, options, cache) for recipe in recipes]
    pairs = {} if options.budget == "small" else _pairs(recipes, options, cache)
    curves = {f"seed {each['seed']}": _log(options.out / f"seed-{each['seed']}" / "run") for each in runs}
    plots.save(loss_curves(curves), options.out / "losses.png")
    figures = {"budget": options.budget, "recipe": portable_tree(recipes[0]), "runs": runs, "pairs": pairs}
    return ExperimentResult("\n\n".join(_tables(runs, pairs, options)), figures, _rows(runs))


def _rows(runs: Sequence[Mapping[str, Any]]) -> tuple[ResultRow, ...]:
    differs = (
        "EfficientNet-Lite0 instead of MobileNetV2; both losses in one step, "
        f"lambda {runs[0]['lambda']:g}; {runs[0]['steps']:,} steps"
    )
    rows = []
    for detector in runs[0]["ablation"]["both"]:
        found = [run["ablation"]["both"][detector] for run in runs]
        ours = [Interval(each["auroc"], each["auroc_low"], each["auroc_high"]) for each in found]
        rows.append(
            ResultRow(
                f"sneakers against ankle boots, {detector}, AUROC %",
                f"{100 * PUBLISHED[detector]:.0f}" if detector in PUBLISHED else "none",
                over_seeds(ours),
                differs,
            )
        )
    return tuple(rows)


def _one_seed(recipe: Recipe, options: ExperimentOptions, cache: TrunkCache) -> dict[str, Any]:
    out = options.out / f"seed-{recipe.seed}"
    both = train_or_resume(recipe, out / "run", cache, trust=options.trust)
    bundle = export(both, recipe, out / recipe.name, options)
    detectors = detectors_of(recipe)
    features = {"frozen": features_by_part(_untrained(recipe, options.trust), both.data, recipe, cache)}
    for name, changes in ABLATION.items():
        folder = out / f"run-{name.replace(' ', '-')}"
        alone = train_or_resume(override(recipe, changes), folder, cache, trust=options.trust)
        features[name] = features_by_part(_doc(alone.module), alone.data, recipe, cache)
    features["both"] = features_by_part(_doc(both.module), both.data, recipe, cache)
    sets = sets_of_recipe(recipe, recipe.data.prepare, sets=open_set)
    (outliers,) = sets.outliers
    if recipe.seed == options.seeds[0]:
        _draw(bundle, sets, features, options, out)
        _explain(both, bundle, outliers.sources, features["both"]["outliers"], options, out)
    return {
        "seed": recipe.seed,
        "lambda": both.module.hparams["compactness"],
        "steps": read_checkpoint(out / "run" / LAST).steps,
        "images": {name: len(rows) for name, rows in features["both"].items()},
        "bundle": _through_bundle(bundle, sets, options, out),
        "ablation": {
            each: {name: quality(detector, rows, recipe.calibration) for name, detector in detectors.items()}
            for each, rows in features.items()
        },
        "templates": templates(features["both"], detectors["kNN"]),
        "decision_ms": decision_times(bundle, sets.inliers.sources[:TIMED], threads=options.threads),
    }


def _draw(
    bundle: Bundle,
    sets: ImageSets,
    features: Mapping[str, Mapping[str, Features]],
    options: ExperimentOptions,
    out: Path,
) -> None:
    """Draw t-SNE of the test images before and after training, and galleries."""
    (outliers,) = sets.outliers
    both = {"inliers": sets.inliers, "outliers": outliers}
    pixels = {name: load(each.sources, each.preparation, threads=options.threads) for name, each in both.items()}
    spaces: dict[str, Mapping[str, NDArray[Any]]] = {
        "pixels": pixels,
        "features before training": features["frozen"],
        "features after training": features["both"],
    }
    shown = {space: {each.name: parts[part] for part, each in both.items()} for space, parts in spaces.items()}
    plots.save(embedding_maps(shown, most=TINY if options.quick else SHOWN, seed=options.seeds[0]), out / "tsne.png")
    images = np.concatenate(list(pixels.values()))
    scores = bundle.detector.score(np.concatenate([features["both"][name] for name in both]))
    names = [both[part].name for part, rows in pixels.items() for _ in range(len(rows))]
    p_values = bundle.calibration.p_values(scores)
    plots.save(gallery(images, scores, p_values, names), out / "most.png")
    plots.save(gallery(images, scores, p_values, names, least=True), out / "least.png")


def _explain(
    trained: TrainingRun,
    bundle: Bundle,
    outliers: Sequence[Source],
    features: Features,
    options: ExperimentOptions,
    out: Path,
) -> None:
    """Draw the most outlying images under heat maps of gradients and hidden parts."""
    recipe = trained.data.config
    rows = np.argsort(-bundle.detector.score(features), kind="stable")[:EXPLAINED]
    images = load([outliers[row] for row in rows], recipe.prepare, threads=options.threads)
    inliers = load(trained.data.sources("calibration")[:INLIERS], recipe.prepare, threads=options.threads)
    scorer = Scorer.of(bundle, threads=options.threads)
    both = np.concatenate([images, inliers])
    shown = [in_colour(images)]
    for maps in (gradient_maps(trained.module, bundle.detector, both), heat_maps(scorer, both)):
        shown.append(overlays(images, maps[: len(images)], maps[len(images) :]))
    title = "most outlying; heat of gradients; heat of hidden parts"
    plots.save(plots.image_grid(np.concatenate(shown), columns=len(images), title=title), out / "overlays.png")


def _through_bundle(bundle: Bundle, sets: ImageSets, options: ExperimentOptions, out: Path) -> dict[str, Any]:
    """Score the test images with the written bundle, and draw the scores."""
    scorer = Scorer.of(bundle, threads=options.threads)
    (outliers,) = sets.outliers
    scores = {each.name: score_set(scorer, each) for each in (sets.inliers, outliers)}
    plots.save(plots.score_histograms(scores, bundle.calibration.threshold), out / "scores.png")
    pair = scores[sets.inliers.name], scores[outliers.name]
    return {"detector": bundle.detector.kind, **figures_at(bundle.calibration.threshold, *pair)}


def _pairs(recipes: Sequence[Recipe], options: ExperimentOptions, cache: TrunkCache) -> dict[str, Any]:
    """Measure AUROC of the recipe's other pairs, frozen and trained, one a seed."""
    found: dict[str, Any] = {}
    for name, pair in recipes[0].evaluation.pairs.items():
        found[name] = {"frozen": {}, "both": {}}
        for recipe in recipes:
            own = _of_pair(recipe, name, pair)
            folder = options.out / "pairs" / f"{name}-{recipe.seed}"
            trained = train_or_resume(own, folder, cache, trust=options.trust)
            for state, module in (("frozen", _untrained(own, options.trust)), ("both", _doc(trained.module))):
                rows = features_by_part(module, trained.data, own, cache)
                for detector, kind in detectors_of(own).items():
                    found[name][state].setdefault(detector, []).append(quality(kind, rows, own.calibration)["auroc"])
    return found


def _of_pair(recipe: Recipe, name: str, pair: Pair) -> Recipe:
    """Return the recipe for the images of a pair, with the same options."""
    data = msgspec.structs.replace(recipe.data, train=pair.train, test=pair.test, reference=pair.reference)
    evaluation = EvaluationConfig(outliers={"outliers": EvaluationSet(path=pair.outliers)})
    return msgspec.structs.replace(recipe, name=name, data=data, evaluation=evaluation)


def _doc(module: nn.Module) -> LitDOC:
    if not isinstance(module, LitDOC):
        raise ConfigError(f"this experiment trains LitDOC, got {type(module).__name__}")
    return module


def _untrained(recipe: Recipe, trust: Collection[str]) -> LitDOC:
    """Return the network without training."""
    if recipe.model is None:
        raise ConfigError("this experiment trains LitDOC, and the recipe's backbone is an ONNX file")
    kind, arguments = module_arguments(recipe.model, TwinData(recipe.data, seed=recipe.seed), trust)
    with seeded(recipe.seed):
        return _doc(make_module(kind, arguments))


def _log(folder: Path) -> dict[str, list[float]]:
    """Return columns of a run's metrics.csv, and the steps done at each row."""
    rows, ended = EpochLog(folder / "metrics.csv", resume=True).rows, read_checkpoint(folder / LAST)
    an_epoch = ended.steps / (ended.epoch + 1)
    columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
    return columns | {"step": [an_epoch * (epoch + 1) for epoch in rows]}


def _tables(runs: Sequence[Mapping[str, Any]], pairs: Mapping[str, Any], options: ExperimentOptions) -> list[str]:
    parts = [_title(runs, options), _seeds_table(runs), _ablation_table(runs), _templates_table(runs)]
    times = {name: statistics.median(each["decision_ms"][name] for each in runs) for name in runs[0]["decision_ms"]}
    parts.append(
        f"A decision from a PNG file through the bundle, one image at a time on the CPU: {times['all']:.1f} ms "
        f"(decode {times['decode']:.2f}, backbone {times['backbone']:.2f}, neighbours {times['neighbours']:.2f}; "
        f"published: {PUBLISHED_MS} ms on a GPU)"
    )
    return parts + ([_pairs_table(pairs)] if pairs else [])


def _title(runs: Sequence[Mapping[str, Any]], options: ExperimentOptions) -> str:
    images = runs[0]["images"]
    line = f"budget {options.budget}, {len(runs)} seed{'s' if len(runs) > 1 else ''}: "
    line += f"{images['train']:,} target images in the bank, {images['inliers']:,} against {images['outliers']:,}"
    if options.quick:
        return f"{line}; a smoke run whose figures prove nothing"
    return f"{line}; left out: all seeds but the first, and the other pairs" if options.budget == "small" else line


def _seeds_table(runs: Sequence[Mapping[str, Any]]) -> str:
    kind = runs[0]["bundle"]["detector"]
    through = next((name for name, each in DETECTORS.items() if each["kind"] == kind), kind) + " through the bundle"
    lines = [
        f"{'':12}{through:>40}{'LOF':>32}",
        f"{'%':12}{'AUROC':>8}{'bal.acc':>10}{'FPR':>8}{'best bal.acc':>14}{'AUROC':>10}{'bal.acc':>10}{'best':>12}",
    ]
    keys = ("auroc", "balanced_accuracy", "false_positive_rate", "best_balanced_accuracy")
    values = [
        [each["bundle"][key] for key in keys]
        + [each["ablation"]["both"]["LOF"][key] for key in (keys[0], keys[1], keys[3])]
        for each in runs
    ]
    rows = {f"seed {each['seed']}": row for each, row in zip(runs, values, strict=True)}
    rows["median"] = np.median(values, axis=0).tolist()
    for name, row in rows.items():
        cells = "".join(
            f"{100 * value:>{width}.2f}" for value, width in zip(row, (8, 10, 8, 14, 10, 10, 12), strict=True)
        )
        lines.append(f"{name:12}{cells}")
    accuracy = f"about {100 * PUBLISHED_ACCURACY:.0f}"
    lines.append(f"{'published':12}{'':40}{100 * PUBLISHED['LOF']:>10.2f}{'':10}{accuracy:>12}")
    return "\n".join(lines)


def _ablation_table(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'AUROC %':12}" + "".join(f"{name:>28}" for name in runs[0]["ablation"]["both"])]
    for state in runs[0]["ablation"]:
        detectors = runs[0]["ablation"][state]
        values = ([each["ablation"][state][name]["auroc"] for each in runs] for name in detectors)
        lines.append(f"{state:12}" + _cells(values))
    return "\n".join([*lines, "the median, and in brackets each seed"])


def _templates_table(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'templates':12}{'chosen':>10}{'AUROC %':>10}{'ms':>8}"]
    for row in range(len(runs[0]["templates"])):
        each = [one["templates"][row] for one in runs]
        value, ms = (statistics.median(one[key] for one in each) for key in ("auroc", "ms"))
        lines.append(f"{each[0]['templates']:<12,}{each[0]['chosen']:>10}{100 * value:>10.2f}{ms:>8.3f}")
    return "\n".join([*lines, "kNN with fewer templates: medians of the seeds; ms: the search for one image"])


def _pairs_table(pairs: Mapping[str, Any]) -> str:
    lines = [f"{'AUROC %, other pairs':22}{'':10}" + "".join(f"{name:>28}" for name in DETECTORS)]
    for name, states in pairs.items():
        for state, detectors in states.items():
            lines.append(f"{name:22}{state:10}" + _cells(detectors[detector] for detector in DETECTORS))
    return "\n".join(lines)


def _cells(shares: Iterable[Sequence[float]]) -> str:
    """Write a column a detector: the seeds' median in percent, in brackets each seed."""
    cells = []
    for each in shares:
        seeds = " ".join(f"{100 * value:.2f}" for value in each)
        cells.append(f"{f'{statistics.median(100 * value for value in each):.2f} ({seeds})':>28}")
    return "".join(cells)
