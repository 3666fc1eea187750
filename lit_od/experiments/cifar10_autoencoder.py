"""The CIFAR-10 notebook: an autoencoder of photographs, and scores under noise.

Scores rise with the size of a block of noise. Network, loss and optimiser are the source's. Of its 50,000
training images the set at hand may hold fewer; three tenths of them calibrate, so that the 99 % threshold
is not a matter of luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import MAPS, Bundle
from lit_od.evaluation import plots
from lit_od.evaluation.image_sets import ImageSet, score_set
from lit_od.evaluation.intervals import Interval
from lit_od.evaluation.perturbation import NoiseBlock, Sensitivity, apply_mask, sensitivity
from lit_od.evaluation.plots.reconstructions import reconstruction_grid, sensitivity_curves
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, over_seeds, share_of
from lit_od.experiments.resumable_runs import budget_line, export, recipes_of, train_staged
from lit_od.images.batching import load
from lit_od.recipes.schema import Recipe
from lit_od.scoring.scorer import Scorer
from lit_od.types import Images

EPOCHS = {"small": 8, "full": 50}
IMAGES = 50
"""Test images that are masked."""

SHOWN = 5
PUBLISHED_THRESHOLD = 0.015


def run(options: ExperimentOptions) -> ExperimentResult:
    """Train once a seed, export, mask and draw."""
    epochs = 1 if options.quick else EPOCHS[options.budget]
    recipes = recipes_of("cifar10-autoencoder", options, quick=["--data.limit=1000"])
    runs = [_one_seed(recipe, options, epochs) for recipe in recipes]
    texts = [budget_line(options, epochs, full=EPOCHS["full"]), *(text for text, _ in runs)]
    figures = [each for _, each in runs]
    return ExperimentResult("\n\n".join(texts), {"budget": options.budget, "runs": figures}, _rows(figures, epochs))


def _rows(runs: Sequence[Mapping[str, Any]], epochs: int) -> tuple[ResultRow, ...]:
    flagged = [Interval(**{end: each["flagged"][end] for end in ("value", "low", "high")}) for each in runs]
    steps = [np.diff(row) > 0 for each in runs for row in each["means"].values()]
    differs = f"{runs[0]['training_images']:,} training images instead of 50,000; {epochs} epochs"
    return (
        ResultRow("mean score against the size of a patch of noise", "rises (a plot)",
            f"rises in {sum(map(np.count_nonzero, steps))} of {sum(map(np.size, steps))} steps", differs),
        ResultRow("share of test images above the 99 % threshold, %", "1 (inferred from the images that were fitted)",
            over_seeds(flagged), differs + ", held-out calibration"),
    )  # fmt: skip


def _one_seed(recipe: Recipe, options: ExperimentOptions, epochs: int) -> tuple[str, dict[str, Any]]:
    out = options.out / f"seed-{recipe.seed}"
    staged = train_staged(recipe, out / "run", epochs=epochs)
    bundle = export(staged, staged.recipe, out / "bundle", options)
    scorer = Scorer.of(bundle, threads=options.threads)
    test = ImageSet("test", staged.data.sources("test"), recipe.data.prepare)
    scores = score_set(scorer, test)
    images = load(test.sources[: SHOWN if options.quick else IMAGES], recipe.data.prepare, threads=options.threads)
    found = sensitivity(scorer.backbone, images, seed=recipe.seed)
    threshold = bundle.calibration.threshold
    _draw(bundle, images[:SHOWN], found, recipe.seed, out)
    plots.save(plots.score_against_index({"test": scores}, threshold), out / "scores.png")
    figures = {
        "seed": recipe.seed,
        "epochs": epochs,
        "training_images": len(staged.data.sources("train")),
        "threshold": threshold,
        "flagged": asdict(share_of(scores > threshold)) | {"n": scores.size},
        "sizes": list(found.sizes),
        "means": {f"{key:g}": row.tolist() for key, row in zip(found.percentages, found.means(), strict=True)},
        "rises": found.rises(),
    }
    return _text(found, figures), figures


def _draw(bundle: Bundle, images: Images, found: Sensitivity, seed: int, out: Path) -> None:
    plots.save(sensitivity_curves(found), out / "sensitivity.png")
    graph = MapGraph.load(bundle.files[MAPS])
    patch = NoiseBlock(noise="normal")
    masked = apply_mask(images, size=(10, 10), rng=np.random.default_rng(seed), patch=patch).images
    for name, each in (("images", images), ("masked", masked)):
        errors, reconstructed = graph(each)
        plots.save(reconstruction_grid(each, reconstructed, errors), out / f"{name}.png")


def _text(found: Sensitivity, figures: Mapping[str, Any]) -> str:
    flagged = figures["flagged"]
    return "\n".join(
        [
            f"seed {figures['seed']}: 99 % threshold {figures['threshold']:.6f} (published {PUBLISHED_THRESHOLD:g}), "
            f"flags {100 * flagged['value']:.2f} % [{100 * flagged['low']:.2f}, {100 * flagged['high']:.2f}] of "
            f"{flagged['n']:,} test images",
            f"mean score of {found.scores.shape[2]} test images by patch of noise and outlier_perc:",
            found.table(),
            "the mean rises with every step" if figures["rises"] else "the mean does not rise with every step",
        ]
    )
