"""A recipe over an ONNX backbone, carried out without torch: images to bundle, nothing trained."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_od.backbone.packaged import read_packaged
from lit_od.bundle import Bundle, require_replaceable
from lit_od.calibration.rules import rule_and_outliers
from lit_od.detectors.registry import accumulator
from lit_od.errors import ConfigError, DataError
from lit_od.fit import Origin, fit_bundle
from lit_od.images.find_local import find, of_classes
from lit_od.images.sources import SetOpener, Source
from lit_od.images.split import fit_and_calibration
from lit_od.recipe import DataConfig, Recipe, portable_tree, without_training
from lit_od.roots import data_root
from lit_od.runtime.processes import ALONE, Group

NAMED_SETS = ("cifar10", "fashion-mnist", "mnist")
"""Sets that only torchvision reads."""


def fit_onnx(
    recipe: Recipe,
    out: Path,
    *,
    sets: SetOpener | None = None,
    threads: int | None = None,
    group: Group = ALONE,
) -> Bundle:
    """Fit the recipe's detector on what its ONNX file computes, calibrate, prove and write the bundle.

    Args:
        recipe: What to do; it has a `backbone`.
        out: The bundle's folder; free, empty, or a bundle to replace.
        sets: Opens torchvision's sets by name, where the caller may import torch.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
        group: The processes that do this together.

    Raises:
        BackboneError: If the file is no backbone, or does not take such images.
        ConfigError: If the recipe cannot be carried out, or `out` is not free.
        DataError: If the images do not suffice.
    """
    if group.rank == 0:
        require_replaceable(out)
    if recipe.backbone is None:
        raise ConfigError("the recipe has a `model`, not an ONNX backbone: carry it out with lit_od.training.fit")
    recipe = without_training(recipe, "over an ONNX backbone nothing is trained")
    accumulator(str(recipe.detector["kind"]), {key: each for key, each in recipe.detector.items() if key != "kind"})
    rule, outliers = rule_and_outliers(recipe.calibration)
    model, opset = read_packaged(str(recipe.backbone))
    fit, calibration = divided(recipe.data, seed=recipe.seed, sets=sets)
    return fit_bundle(
        out,
        model=model,
        preparation=recipe.data.prepare,
        fit=fit,
        calibration=calibration,
        outliers=_found(outliers, recipe.data, sets) if outliers else [],
        detector=recipe.detector,
        rule=rule,
        origin=Origin(name=out.name, recipe=portable_tree(recipe), seed=recipe.seed),
        opset=opset,
        threads=threads,
        group=group,
    )


def require_no_run(run: Path | None) -> None:
    """Raise ConfigError where a folder is named for the files of a training that does not take place."""
    if run is not None:
        raise ConfigError(f"the recipe trains nothing that {run} could keep: leave out --run")


def divided(config: DataConfig, *, seed: int, sets: SetOpener | None = None) -> tuple[list[Source], list[Source]]:
    """The images that fit the detector and those that calibrate it, each in the order in which they were found.

    Which is which, and which are left out by `limit`, is a function of the seed and of the number of
    images. Classes play no part in it: a folder of images need not have any.

    Raises:
        ConfigError: If an option cannot be.
        DataError: If images are missing, or there are too few.
    """
    if config.split.test:
        raise ConfigError(
            "data.split.test goes with a `model`: over an ONNX backbone, keep images for evaluation apart and name "
            "them in data.test or evaluation.inliers"
        )
    sources = _found([config.train], config, sets)
    held_out = {id(source) for source in of_classes(sources, config.outlier_classes)}
    chosen = sources if config.classes is None else of_classes(sources, config.classes)
    inliers = [source for source in chosen if id(source) not in held_out]
    if not inliers:
        raise DataError(f"{config.train}: every class is in data.outlier_classes, which leaves no inlier")
    return fit_and_calibration(_limited(inliers, config.limit, seed), seed=seed, share=config.split.calibration)


def _found(paths: Sequence[str], config: DataConfig, sets: SetOpener | None) -> list[Source]:
    root = data_root(config.root)
    found: list[Source] = []
    for path in paths:
        if path in ("", ".") and not config.root:
            raise ConfigError("which folder of images? Give --data.root FOLDER")
        name = path.partition(":")[0]
        if sets is None and name in NAMED_SETS and not (root / path).exists():
            raise ConfigError(
                f"{path}: torchvision's sets are read only for a recipe with a `model`, which may import torch: name "
                "a folder, a list or an .npz"
            )
        found += find([root]) if path in ("", ".") else find([path], root=root, sets=sets)
    return found


def _limited(sources: list[Source], limit: int | None, seed: int) -> list[Source]:
    if limit is None or limit >= len(sources):
        return sources
    if limit < 1:
        raise ConfigError(f"data.limit must be at least 1, got {limit}")
    rows = np.random.default_rng([seed, len(sources)]).permutation(len(sources))[:limit]
    return [sources[row] for row in np.sort(rows)]
