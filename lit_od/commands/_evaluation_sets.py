"""Arguments that name the sets of evaluate and report."""

import argparse
from pathlib import Path

from lit_od.bundle.folder import Bundle
from lit_od.commands._arguments import add_label_argument, extra, no_overrides, only_overrides
from lit_od.errors import ConfigError
from lit_od.evaluation import image_sets as sets
from lit_od.evaluation.image_sets import ImageSets
from lit_od.images.find_local import find, is_on_disk
from lit_od.images.layouts import layout_of
from lit_od.images.sources import SetOpener, Source
from lit_od.recipes.load import override
from lit_od.recipes.onnx_images import NAMED_SETS
from lit_od.recipes.overrides import parse_overrides
from lit_od.recipes.roots import data_root

SET_KEYS = ("data.root", "data.test", "data.classes", "data.outlier_classes", "evaluation")
"""Keys of a recipe that choose the images by which a bundle is evaluated."""


AGAINST = "against "
"""Prefix of the names of recorded figures, by set of outliers."""


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the bundle and the sets by which it is evaluated."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    add_named_set_arguments(parser)
    parser.add_argument(
        "--masks",
        metavar="DIR",
        help="masks of defects, by the stems of images: those of --outliers, or of --data.root",
    )


def add_named_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inliers, and sets of outliers by name."""
    parser.add_argument("--inliers", metavar="PATH", action="append", default=[], help="inliers; may be repeated")
    add_label_argument(parser)
    parser.add_argument(
        "--outliers", metavar="NAME=PATH", action="append", default=[], help="outliers under a name; may be repeated"
    )


def chosen_sets(args: argparse.Namespace, overrides: list[str], bundle: Bundle) -> ImageSets:
    """Find the sets that the arguments name, or those of the bundle's recipe.

    Args:
        args: The command's arguments.
        overrides: Overrides of the bundle's recipe.
        bundle: The bundle.

    Raises:
        ConfigError: If only one kind of set is named, or an override has no place.
        DataError: If images are missing.
    """
    if bool(args.inliers) != bool(args.outliers):
        raise ConfigError("--inliers and --outliers go together: give both, or neither for the recipe's own sets")
    preparation = bundle.manifest.preparation
    if args.label and not args.inliers:
        raise ConfigError("--label goes with --inliers: give both, or --data.classes for the recipe's own sets")
    masks = _folder(args.masks, "--masks") if args.masks else None
    if not args.inliers:
        given = dict(parse_overrides(overrides)).get("data.root")
        if masks is not None and not given:
            raise ConfigError("--masks goes with --data.root FOLDER, or with --inliers and --outliers: give either")
        if given and (defects := _of_defects(data_root(given), masks, bundle)) is not None:
            only_overrides(overrides, "data.root", why="chooses nothing of a category of defects")
            return defects
        only_overrides(overrides, *SET_KEYS, why="changes nothing of a finished bundle")
        recipe = override(sets.recipe_of(bundle), overrides)
        return sets.sets_of_recipe(recipe, preparation, sets=torchvision_sets, of=bundle)
    no_overrides([f"--{path}" for path, _ in parse_overrides(overrides) if path != "data.root"])
    opener = torchvision_sets(sets_root(overrides))
    outliers = by_name(args.outliers)
    found = sets.sets_of_paths(args.inliers, outliers, preparation, opener=opener, labels=args.label)
    return found if masks is None else sets.with_masks(found, masks)


def _of_defects(folder: Path, masks: Path | None, bundle: Bundle) -> ImageSets | None:
    """Find the sets of a category of defects, or of a folder with masks.

    Returns:
        None where the folder is neither, but the data root of the recipe's own sets.
    """
    preparation = bundle.manifest.preparation
    if (layout := layout_of(folder)) and masks is not None:
        raise ConfigError(f"{folder} is in the layout of {layout}, which has its masks: leave out --masks")
    if masks is not None:
        return sets.sets_of_masks(folder, masks, preparation)
    tree = bundle.manifest.provenance.recipe or {}
    if layout is None and tree.get("evaluation", {}).get("outliers"):
        return None
    return sets.sets_of_category(folder, preparation)


def _folder(word: str, option: str) -> Path:
    if not Path(word).is_dir():
        raise ConfigError(f"{option} {word} is not a folder")
    return Path(word)


def torchvision_sets(root: Path, *, download: bool = True) -> SetOpener:
    """Return an opener of torchvision's sets.

    It imports torch only if one of them is named. A file or folder of that name below the root is taken instead.

    Args:
        root: Folder that torchvision's classes read.
        download: Download into it where the files are missing.
    """

    def opener(path: str) -> list[Source] | None:
        if path.partition(":")[0] not in NAMED_SETS:
            return None
        if is_on_disk(root / path):
            return find([root / path])
        with extra():
            from lit_od.training.data.torchvision_sets import open_set
        return open_set(root, download=download)(path)

    return opener


def sets_root(overrides: list[str]) -> Path:
    """Return --data.root, else LIT_OD_DATA, else the working folder."""
    return data_root(dict(parse_overrides(overrides)).get("data.root"))


def by_name(words: list[str]) -> dict[str, list[str]]:
    """Return the PATHs of each name, of words NAME=PATH.

    Raises:
        ConfigError: If a word has another form.
    """
    sets: dict[str, list[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--outliers takes NAME=PATH, got {word!r}")
        sets.setdefault(name, []).append(path)
    return sets
