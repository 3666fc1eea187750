"""Divide images into training, validation, calibration, test and outliers.

The division is a function of the seed and of the order of the sources alone; images keep that order
within their part.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_od.calibration.method import Method
from lit_od.errors import ConfigError, DataError
from lit_od.images.find_local import find
from lit_od.images.identity import tell_copies
from lit_od.images.normal_folders import find_normal, require_normal
from lit_od.images.parquet import fetched
from lit_od.images.sources import ImageFile, SetOpener, Source
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import DataConfig, Recipe, Split

UNLABELLED = "inlier"
"""Name of the one class of images that come without labels."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Images of a recipe by part.

    Attributes:
        train: Fit weights and detectors.
        validation: For every choice.
        calibration: Thresholds and p-values, and nothing else.
        test: Inliers for evaluation; may be empty.
        outliers: Images of the classes held out, those of the training source first.
        watched: Number of outliers that come from the training source.
        class_names: Classes of the inliers; numbers in ascending order, then names in alphabetical order.
    """

    train: list[Source]
    validation: list[Source]
    calibration: list[Source]
    test: list[Source]
    outliers: list[Source]
    watched: int
    class_names: list[str]


def find_parts(config: DataConfig, *, seed: int, sets: SetOpener | None = None, tell: bool = True) -> Parts:
    """Find the images of a recipe that trains, and divide them.

    Args:
        config: The recipe's `data`.
        seed: Seed of the division.
        sets: Opens torchvision's sets by name, if the caller may import torch.
        tell: Log what was read and left out.

    Raises:
        ConfigError: If the shares are invalid.
        DataError: If images or classes are missing, a class has too few images, or some look like no normal ones.
    """
    root = data_root(config.root)
    tests = find([config.test], root=root, sets=sets) if config.test else None
    images = [fetched(each) for each in find_normal(config.train, root=root, sets=sets, tell=tell)]  # in their order
    _require_full_classes(root / config.train, images, config)
    parts = divide(images, tests, config, seed=seed)
    inliers = parts.train + parts.validation + parts.calibration
    require_normal(inliers, [root / config.train], take_all=config.take_all)
    if tell:
        tell_copies(parts.train + parts.validation, parts.calibration, "training and calibration image")
        tell_copies(inliers, parts.test, "training and test image")
    return parts


def _require_full_classes(folder: Path, images: Sequence[Source], config: DataConfig) -> None:
    """Raise DataError for a class folder without images, which the search leaves out."""
    labels = {image.label for image in images if isinstance(image, ImageFile)} - {None}
    if not labels or not folder.is_dir():
        return
    for each in sorted(folder.iterdir()):
        wanted = config.classes is None or each.name in config.classes
        if wanted and each.name not in labels and each.is_dir() and not each.name.startswith("."):
            raise DataError(f"the class folder {each} holds no image: add some, remove it, or choose with data.classes")


def divide(sources: Sequence[Source], tests: Sequence[Source] | None, config: DataConfig, *, seed: int) -> Parts:
    """Divide the images of `data.train`, and those of `data.test` if there is one.

    Args:
        sources: Images of `data.train`.
        tests: Images of `data.test`; None leaves them to `data.split.test`.
        config: The recipe's `data`.
        seed: Seed of the division.

    Raises:
        ConfigError: If the shares are invalid.
        DataError: If a class is missing or has too few images, or labels are missing.
    """
    check_shares(config.split)
    if tests is not None and config.split.test > 0:
        raise ConfigError("data.test and data.split.test exclude each other: drop one of them")
    everything = [*sources, *(tests or [])]
    _check_present("outlier_classes", config.outlier_classes, everything)
    _check_present("classes", config.classes or [], sources)
    inliers, outliers = _by_class(sources, config)
    class_names = _class_names(inliers, config)
    chosen = _divide_rows([source.label for source in inliers], config, class_names, seed)
    test = [inliers[row] for row in chosen["test"]]
    test_outliers: list[Source] = []
    if tests is not None:
        test, test_outliers = _by_class(tests, config)
        _check_known(test, class_names)
    return Parts(
        train=[inliers[row] for row in chosen["train"]],
        validation=[inliers[row] for row in chosen["validation"]],
        calibration=[inliers[row] for row in chosen["calibration"]],
        test=test,
        outliers=outliers + test_outliers,
        watched=len(outliers),
        class_names=class_names,
    )


def check_shares(split: Split) -> None:
    """Check that shares are in [0, 1) and leave training images.

    Raises:
        ConfigError: If they do not.
    """
    shares = {"validation": split.validation, "calibration": split.calibration, "test": split.test}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"split.{name} must be a share in [0, 1), got {share:g}")
    if sum(shares.values()) >= 1:
        raise ConfigError(f"the shares of split add up to {sum(shares.values()):g}, which leaves no training images")


def _check_present(key: str, classes: Sequence[str], sources: Sequence[Source]) -> None:
    known = {source.label for source in sources}
    for name in classes:
        if name not in known:
            labels = ", ".join(_sorted({label for label in known if label is not None})) or "none at all"
            raise DataError(f"data.{key}: no image of class {name!r}; the classes here are {labels}")


def _by_class(sources: Sequence[Source], config: DataConfig) -> tuple[list[Source], list[Source]]:
    """Return inliers and outliers, each in order, without the classes not used."""
    held_out, used = set(config.outlier_classes), None if config.classes is None else set(config.classes)
    outliers = [source for source in sources if source.label in held_out]
    inliers = [source for source in sources if source.label not in held_out and (used is None or source.label in used)]
    return inliers, outliers


def _class_names(inliers: Sequence[Source], config: DataConfig) -> list[str]:
    if not inliers:
        raise DataError(f"{config.train}: every class is in data.outlier_classes, which leaves no inlier")
    labels = {source.label for source in inliers}
    if labels == {None}:
        return [UNLABELLED]
    if None in labels:
        bare = next(source.name for source in inliers if source.label is None)
        count = sum(source.label is None for source in inliers)
        raise DataError(
            f"{count} of {len(inliers)} images have no class, the first is {bare}: "
            "put each into the folder of its class, or choose classes with data.classes"
        )
    return _sorted({label for label in labels if label is not None})


def _sorted(labels: set[str]) -> list[str]:
    return sorted(labels, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))


def _check_known(test: Sequence[Source], class_names: list[str]) -> None:
    if class_names == [UNLABELLED]:
        return
    for source in test:
        if source.label not in class_names:
            label = "no class" if source.label is None else f"the class {source.label!r}"
            raise DataError(
                f"{source.name} of data.test has {label}, which the training images do not know: "
                f"they are of {', '.join(class_names)}. Choose classes with data.classes"
            )


def _divide_rows(
    labels: Sequence[str | None], config: DataConfig, class_names: list[str], seed: int
) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each part, ascending, each class by the same shares."""
    names = [label or UNLABELLED for label in labels]
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    by_class: dict[str, list[int]] = {name: [] for name in class_names}
    for row in order.tolist():
        by_class[names[row]].append(row)
    if config.limit is not None:
        by_class = _limited(by_class, config.limit)
    parts: dict[str, list[int]] = {"validation": [], "calibration": [], "test": [], "train": []}
    shares = {"validation": config.split.validation, "calibration": config.split.calibration}
    shares |= {"test": config.split.test}
    for name, rows in by_class.items():
        counts = {part: max(1, round(share * len(rows))) if share else 0 for part, share in shares.items()}
        needed = 1 + sum(share > 0 for share in shares.values())
        if len(rows) < max(needed, 1 + sum(counts.values())):
            raise DataError(
                f"class {name!r} has {len(rows)} images, training needs at least {needed}: one for each part. "
                "Add images, or leave the class out with data.classes"
            )
        start = 0
        for part, count in counts.items():
            parts[part] += rows[start : start + count]
            start += count
        parts["train"] += rows[start:]
    return {part: np.sort(np.array(rows, dtype=np.intp)) for part, rows in parts.items()}


def _limited(by_class: dict[str, list[int]], limit: int) -> dict[str, list[int]]:
    """Return the first rows of each class, in proportion, `limit` in total."""
    if limit < len(by_class):
        raise ConfigError(f"data.limit must leave an image a class, wanted at least {len(by_class)}, got {limit}")
    places = sorted(((rank + 0.5) / len(rows), name) for name, rows in by_class.items() for rank in range(len(rows)))
    taken = Counter(name for _, name in places[:limit])
    return {name: rows[: taken[name]] for name, rows in by_class.items()}


def frozen_parts(parts: Parts, recipe: Recipe, method: Method) -> tuple[list[Source], list[Source], list[Source]]:
    """Divide the images of a recipe whose module is not trained.

    Nothing is validated, and the validation part fits the detector too, unless a smaller bank is measured by it or an
    int8 graph is chosen.

    Args:
        parts: The images by part.
        recipe: The recipe.
        method: Method of calibration; with cross all of those images fit and calibrate.

    Returns:
        The images that fit, validate and calibrate.
    """
    validates = any(recipe.detector.get(key) is not None for key in ("coreset", "memory_budget"))
    validates = validates or recipe.export.precision == "int8"
    fit, validation = (parts.train, parts.validation) if validates else (parts.train + parts.validation, [])
    if method == "split":
        return fit, validation, parts.calibration
    return fit + parts.calibration, validation, fit + parts.calibration
