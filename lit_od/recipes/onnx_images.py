"""Find and divide the images of a recipe over an ONNX file, which trains nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lit_od.calibration.method import Method
from lit_od.errors import ConfigError, DataError
from lit_od.images.find_local import find, of_classes, only_inliers
from lit_od.images.identity import require_apart, require_once
from lit_od.images.normal_folders import find_normal, require_normal
from lit_od.images.sources import SetOpener, Source
from lit_od.images.split import fit_and_calibration
from lit_od.recipes.roots import VARIABLE, data_root
from lit_od.recipes.schema import DataConfig

NAMED_SETS = ("cifar10", "fashion-mnist", "mnist")
"""Sets that only torchvision reads."""


def inliers_to_fit(config: DataConfig, *, seed: int, sets: SetOpener | None = None, tell: bool = True) -> list[Source]:
    """Find the images of a recipe over an ONNX file that fit and calibrate.

    The choice of images under `limit` is a function of the seed and of the number of images. Classes play no part in
    it: a folder of images need not have any.

    Args:
        config: The recipe's `data`.
        seed: Seed of the choice.
        sets: Opens torchvision's sets by name, if the caller may import torch.
        tell: Log what was read and left out.

    Returns:
        The images in the order found.

    Raises:
        ConfigError: If an option is invalid.
        DataError: If images are missing, or some look like no normal ones.
    """
    if config.split.test:
        raise ConfigError(
            "data.split.test goes with a `model`: over an ONNX backbone, keep images for evaluation apart and name "
            "them in data.test or evaluation.inliers"
        )
    place, root = _place(config.train, config, sets)
    sources = find_normal(place, root=root, sets=sets, tell=tell)
    inliers = _of_chosen_classes(config.train, sources, config)
    require_normal(inliers, [data_root(config.root) / config.train], take_all=config.take_all)
    return _drawn(inliers, config.limit, seed)


def divided(
    images: Sequence[Source], config: DataConfig, *, seed: int, method: Method = "split"
) -> tuple[list[Source], list[Source]]:
    """Divide the images of a recipe over an ONNX file.

    Args:
        images: The images, as `inliers_to_fit` finds them; seed and number decide the division.
        config: The recipe's `data`.
        seed: Seed of the division.
        method: Method of calibration; with cross all images fit and calibrate.

    Returns:
        The images that fit the detector and those that calibrate it, each in the order found.

    Raises:
        ConfigError: If the share is invalid.
        DataError: If there are too few images, or one is named twice.
    """
    if method == "cross":
        require_once(images)
        return list(images), list(images)
    fit, calibration = fit_and_calibration(images, seed=seed, share=config.split.calibration)
    require_apart(fit, calibration, "fit and calibration image")
    return fit, calibration


def found_tests(config: DataConfig, sets: SetOpener | None = None) -> list[Source]:
    """Find the test inliers of a recipe over an ONNX file; they need no classes.

    Args:
        config: The recipe's `data`.
        sets: Opens torchvision's sets by name; None refuses them.

    Raises:
        ConfigError: If the recipe names no test images.
        DataError: If images or classes are missing.
    """
    if config.test is None:
        raise ConfigError(
            "the recipe names no test images: give --data.test PATH, or --inliers and --outliers NAME=PATH"
        )
    return _of_chosen_classes(config.test, found_images([config.test], config, sets), config)


def _of_chosen_classes(path: str, sources: list[Source], config: DataConfig) -> list[Source]:
    """Return the images of a PATH, without the classes that are held out or not used."""
    held_out = {id(source) for source in of_classes(sources, config.outlier_classes)}
    chosen: Sequence[Source] = sources
    if config.classes is not None or not config.outlier_classes:
        chosen = only_inliers(path, sources, config.classes or ())
    inliers = [source for source in chosen if id(source) not in held_out]
    if not inliers:
        raise DataError(f"{path}: every class is in data.outlier_classes, which leaves no inlier")
    return inliers


def found_images(paths: Sequence[str], config: DataConfig, sets: SetOpener | None) -> list[Source]:
    """Find the images that a recipe's PATHs name below its data root.

    Args:
        paths: PATHs as in the recipe.
        config: The recipe's `data`.
        sets: Opens torchvision's sets by name; None refuses them.

    Raises:
        ConfigError: If no folder is given, or a set by name is refused.
        DataError: If images are missing.
    """
    return [
        each
        for path in paths
        for place, root in [_place(path, config, sets)]
        for each in find([place], root=root, sets=sets)
    ]


def _place(path: str, config: DataConfig, sets: SetOpener | None) -> tuple[str | Path, Path | None]:
    """Return a recipe's PATH, and the folder that it starts from.

    Raises:
        ConfigError: If no folder is given, or a set by name is refused.
    """
    root = data_root(config.root)
    if path in ("", "."):
        if not config.root and not os.environ.get(VARIABLE):
            raise ConfigError(f"which folder of images? Give --data.root FOLDER, or set {VARIABLE}")
        return root, None
    if sets is None and path.partition(":")[0] in NAMED_SETS and not (root / path).exists():
        raise ConfigError(
            f"{path}: torchvision's sets are read only for a recipe with a `model`, which may import torch: name "
            "a folder, a list or an .npz"
        )
    return path, root


def _drawn(sources: list[Source], limit: int | None, seed: int) -> list[Source]:
    if limit is None or limit >= len(sources):
        return sources
    if limit < 1:
        raise ConfigError(f"data.limit must be at least 1, got {limit}")
    rows = np.random.default_rng([seed, len(sources)]).permutation(len(sources))[:limit]
    return [sources[row] for row in np.sort(rows)]
