"""The cats notebook: an autoencoder of cats, whose error tells dogs.

A second autoencoder learns dogs. Network, loss, optimiser, grey and size are the source's; its 10,000 cats
are 2,500 here, of which a tenth validates and a tenth calibrates, and batches are a quarter of its size, so
that 50 epochs are about as many steps. The two autoencoders together classify, against two baselines;
garments are of neither class.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from lightning import LightningModule
from numpy.typing import NDArray

from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import Bundle
from lit_od.errors import DataError
from lit_od.evaluation import plots
from lit_od.evaluation.effect_size import SampleMoments, difference, effect_interval, normal_ratio
from lit_od.evaluation.image_sets import ImageSet, score_set
from lit_od.evaluation.intervals import Interval
from lit_od.evaluation.metrics import auroc
from lit_od.evaluation.plots.reconstructions import reconstruction_grid
from lit_od.experiments.baselines import by_brightness, by_nearest
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, in_percent, middle, share_of
from lit_od.experiments.resumable_runs import Watch, budget_line, export, recipes_of, train_staged
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import Recipe
from lit_od.scoring.classifier import NONE, classify
from lit_od.scoring.scorer import Scorer
from lit_od.training.data.image_data import in_batches
from lit_od.training.data.torchvision_sets import open_set
from lit_od.types import Images, Scores

EPOCHS = {"small": 12, "full": 50}
SMALL = "--data.batch_size=16"
"""Change of the small budget besides the epochs: more steps in each."""

PUBLISHED = {
    "cats": SampleMoments(2495, 0.035493888, 0.011421803),
    "dogs": SampleMoments(2494, 0.042051364, 0.0155974245),
}
"""RMSE of the source's held-out sets."""

LEVEL = 0.05
SHOWN = 4
QUICK = 40
"""Images of a set in a smoke run."""

STRANGERS = 1000
"""Number of garments that are classified."""

NOTE = """p-value: conformal, and valid: for every t, a cat like those that calibrated has p <= t at most in a share t.
pdf ratio: the source's pdf(error) / pdf(mean) of a fitted normal. It is no probability: it falls below the mean
as above, takes errors for normal, and the share of cats at or below a level is not that level."""


def run(options: ExperimentOptions) -> ExperimentResult:
    """Train an autoencoder of cats and one of dogs a seed; compare, classify, draw."""
    epochs = 1 if options.quick else EPOCHS[options.budget]
    recipes = recipes_of("cats-autoencoder", options, quick=["--data.limit=200"], small=[SMALL])
    runs = [_one_seed(recipe, options, epochs) for recipe in recipes]
    parts = [
        budget_line(options, epochs, full=EPOCHS["full"], changes="batches of 16 instead of 32"),
        *(_table(each) for each in runs),
    ]
    if len(runs) > 1:
        parts.append(f"median d of {len(runs)} seeds: {statistics.median(each['d'] for each in runs):.3f}")
    return ExperimentResult("\n\n".join([*parts, NOTE]), {"budget": options.budget, "runs": runs}, _rows(runs, epochs))


def _rows(runs: Sequence[Mapping[str, Any]], epochs: int) -> tuple[ResultRow, ...]:
    published = difference(PUBLISHED["cats"], PUBLISHED["dogs"])
    d = middle([Interval(**each["d_interval"]) for each in runs])
    return (
        ResultRow(
            "RMSE of dogs against cats, effect size d",
            f"{published.d:.2f}",
            f"{d.value:.2f} [{d.low:.2f}, {d.high:.2f}]" + (f", median of {len(runs)} seeds" if len(runs) > 1 else ""),
            f"{runs[0]['training_images']:,} cats instead of 10,000, resized before; {epochs} of 50 epochs",
        ),
        ResultRow(
            "two autoencoders, cat or dog, accuracy %",
            "none",
            in_percent(middle([Interval(**each["classifier"]["accuracy"]["two autoencoders"]) for each in runs])),
            "ours alone",
        ),
    )


def _one_seed(recipe: Recipe, options: ExperimentOptions, epochs: int) -> dict[str, Any]:
    out = options.out / f"seed-{recipe.seed}"
    root = data_root(recipe.data.root)
    of_dogs = _for_dogs(recipe)
    validation = {
        name: _pixels(recipe, _some(f"cats_dogs/validation/{name}", root, options), options) for name in PUBLISHED
    }
    bundles, watched = {}, {}
    for name, each in (("cats", recipe), ("dogs", of_dogs)):
        own, other = validation[name], validation["dogs" if name == "cats" else "cats"]
        staged = train_staged(each, out / f"run-{name}", epochs=epochs, watch=_effect(own, other))
        watched[name] = staged.watched
        bundles[name] = export(staged, staged.recipe, out / f"{name}-autoencoder", options)
    sources = {name: _some(f"cats_dogs/test/{name}", root, options) for name in PUBLISHED}
    scorers = {name: Scorer.of(bundle, threads=options.threads) for name, bundle in bundles.items()}
    sets = {name: ImageSet(name, each, recipe.data.prepare) for name, each in sources.items()}
    scores = {name: score_set(scorers["cats"], each) for name, each in sets.items()}
    _draw(bundles["cats"], scores, _pixels(recipe, evenly(sources["dogs"], SHOWN), options), out)
    return {
        "seed": recipe.seed,
        "epochs": epochs,
        "training_images": bundles["cats"].manifest.detector.images,
        **_compared(scores, scorers["cats"]),
        "d_by_epoch": {str(key): value for key, value in watched["cats"].items()},
        "classifier": _classified(scorers, sources, recipe, root, options),
    }


def _for_dogs(recipe: Recipe) -> Recipe:
    data = msgspec.structs.replace(recipe.data, train="cats_dogs/train/dogs", test="cats_dogs/test/dogs")
    return msgspec.structs.replace(recipe, name="dogs-autoencoder", data=data)


def _pixels(recipe: Recipe, sources: Sequence[Source], options: ExperimentOptions) -> Images:
    return load(sources, recipe.data.prepare, threads=options.threads)


def _some(path: str, root: Path, options: ExperimentOptions) -> Sequence[Source]:
    """Find the images of a folder; few of them for a smoke run."""
    found = find([path], root=root)
    return evenly(found, QUICK) if options.quick else found


def _effect(own: Images, other: Images) -> Watch:
    """Return a watch of Cohen's d of the RMSE of two sets of validation images."""

    def watch(module: LightningModule) -> float:
        errors = module.eval().backbone()  # type: ignore[operator]  # an autoencoder has one
        found = [
            in_batches(lambda batch: errors(batch).mean(dim=(1, 2, 3)), torch.from_numpy(images))
            .sqrt()
            .double()
            .numpy()
            for images in (own, other)
        ]
        return difference(SampleMoments.of(found[0]), SampleMoments.of(found[1])).d

    return watch


def _compared(scores: Mapping[str, Scores], scorer: Scorer) -> dict[str, Any]:
    moments = {name: SampleMoments.of(each) for name, each in scores.items()}
    apart = difference(moments["cats"], moments["dogs"])
    fitted = SampleMoments.of(scorer.calibration.scores)
    shares = {
        name: {
            "p_value": float((scorer.calibration.p_values(each) <= LEVEL).mean()),
            "pdf_ratio": float((normal_ratio(fitted, each) <= LEVEL).mean()),
        }
        for name, each in scores.items()
    }
    return {
        "rmse": {name: {"n": each.n, "mean": each.mean, "sd": each.sd} for name, each in moments.items()},
        "d": apart.d,
        "d_interval": asdict(effect_interval(moments["cats"], moments["dogs"])),
        "t": apart.t,
        "t_p_value": apart.p_value,
        "auroc": auroc(scores["cats"], scores["dogs"]),
        "at_or_below_level": shares,
    }


def _draw(bundle: Bundle, scores: Mapping[str, Scores], images: Images, out: Path) -> None:
    plots.save(plots.score_histograms(scores, bundle.calibration.threshold), out / "rmse.png")
    plots.save(plots.score_against_index(scores, bundle.calibration.threshold), out / "scores.png")
    errors, reconstructed = MapGraph.load(bundle.files["maps.onnx"])(images)
    plots.save(reconstruction_grid(images, reconstructed, errors), out / "dogs.png")


def _classified(
    scorers: Mapping[str, Scorer],
    sources: Mapping[str, Sequence[Source]],
    recipe: Recipe,
    root: Path,
    options: ExperimentOptions,
) -> dict[str, Any]:
    """Measure accuracy on the test images, against the baselines.

    Garments show how often images of neither class are called none.
    """
    tests = [source for name in scorers for source in sources[name]]
    truth = np.array([name for name in scorers for _ in sources[name]])
    named, strict = _labels(scorers, tests)
    garments = find(["fashion-mnist:test"], root=root, sets=open_set(root))
    strangers = evenly(garments, QUICK if options.quick else STRANGERS)
    _, of_strangers = _labels(scorers, strangers)
    seen = [_pixels(recipe, _some(f"cats_dogs/train/{name}", root, options), options) for name in scorers]
    train, labels = np.concatenate(seen), np.repeat([0, 1], [len(each) for each in seen])
    test, dogs = _pixels(recipe, tests, options), truth == "dogs"
    baselines = {
        "mean brightness": by_brightness(train, labels, test),
        "nearest image": by_nearest(train, labels, test),
    }
    return {
        "n": len(tests),
        "accuracy": {
            "two autoencoders": asdict(share_of(named == truth)),
            **{name: asdict(share_of(found == dogs)) for name, found in baselines.items()},
        },
        "none_at_level": {
            "cats and dogs": asdict(share_of(strict == NONE)),
            "garments": asdict(share_of(of_strangers == NONE)),
        },
    }


def _labels(scorers: Mapping[str, Scorer], sources: Sequence[Source]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return the class of each image, and the class or `NONE`, (n,) each.

    `NONE` stands where the p-value is below the level.
    """
    named: list[str] = []
    strict: list[str] = []
    for classes in classify(scorers, sources, level=0.0):
        for row, label in enumerate(classes.label):
            if label is None:
                raise DataError(f"{classes.name[row]}: {classes.error[row]}")
            named.append(label)
            strict.append(label if classes.p_values[label][row] >= LEVEL else NONE)
    return np.array(named), np.array(strict)


def _table(found: Mapping[str, Any]) -> str:
    published, apart = difference(PUBLISHED["cats"], PUBLISHED["dogs"]), found["d_interval"]
    lines = [f"seed {found['seed']}{'':10}{'n':>8}{'mean RMSE':>12}{'sd':>10}{'published':>12}{'sd':>10}"]
    for name, row in found["rmse"].items():
        theirs = PUBLISHED[name]
        lines.append(
            f"{name:16}{row['n']:>8,}{row['mean']:>12.5f}{row['sd']:>10.5f}{theirs.mean:>12.5f}{theirs.sd:>10.5f}"
        )
    lines += [
        "(RMSE are not comparable: these images were resized before)",
        f"effect size d {found['d']:.3f} [{apart['low']:.3f}, {apart['high']:.3f}] "
        f"(published {published.d:.2f}), Welch's t {found['t']:.2f} "
        f"(published {published.t:.2f}), p {found['t_p_value']:.2g}, AUROC {100 * found['auroc']:.2f} %",
        "d of validation images by epoch: "
        + ", ".join(f"{epoch}: {value:.3f}" for epoch, value in found["d_by_epoch"].items()),
        f"share at or below {LEVEL:g}:"
        + "".join(
            f"  {name} {100 * each['p_value']:.1f} % by p-value, {100 * each['pdf_ratio']:.1f} % by pdf ratio;"
            for name, each in found["at_or_below_level"].items()
        ),
        f"cats or dogs, {found['classifier']['n']:,} test images, accuracy:",
        *_rates(found["classifier"]["accuracy"]),
        f"called none at level {LEVEL:g}:",
        *_rates(found["classifier"]["none_at_level"]),
    ]
    return "\n".join(lines)


def _rates(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"  {name:18}{100 * each['value']:>7.2f} %  [{100 * each['low']:.2f}, {100 * each['high']:.2f}]"
        for name, each in rates.items()
    ]
