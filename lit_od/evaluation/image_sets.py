"""The sets of images that a bundle is evaluated on, and their scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from lit_od.bundle.folder import Bundle
from lit_od.calibration.method import Method
from lit_od.errors import ConfigError, DataError, LitODError
from lit_od.fitting.engine import LocalEngine
from lit_od.formats.text import one_line
from lit_od.images.find_local import find, only_inliers
from lit_od.images.ground_truth import GroundTruth, has_defect, match_masks
from lit_od.images.identity import fingerprint, require_apart, tell_copies
from lit_od.images.layouts import GOOD, read_category, require_masks, require_no_categories
from lit_od.images.preparation import Preparation
from lit_od.images.sources import SetOpener, Source
from lit_od.recipes.load import from_tree, override
from lit_od.recipes.onnx_images import divided, found_tests, inliers_to_fit
from lit_od.recipes.partition import Parts, find_parts, frozen_parts
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import EvaluationSet, Recipe
from lit_od.scoring.scorer import Scorer
from lit_od.types import Scores

OpenSets: TypeAlias = Callable[[Path], SetOpener]
"""Function from a data root to an opener of the sets by name below it."""

FITTED = "fitted"
"""Name of the set of images that fitted a bundle."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images to evaluate on, with their own preparation."""

    name: str
    sources: Sequence[Source]
    preparation: Preparation


@dataclass(frozen=True, slots=True)
class ImageSets:
    """Sets of images for an evaluation: inliers, and outliers by set.

    Attributes:
        inliers: Normal images.
        outliers: Outliers by set; of a category of defects by kind.
        layout: Layout and name of a category of defects; None for other sets.
        truth: Masks of the outliers, where there are any.
        unlabelled: Images that are scored alone, since nothing is known of them.

    Raises:
        ConfigError: If a set of outliers has the inliers' name.
    """

    inliers: ImageSet
    outliers: Sequence[ImageSet]
    layout: str | None = None
    truth: GroundTruth | None = None
    unlabelled: Sequence[ImageSet] = ()

    def __post_init__(self) -> None:
        if self.inliers.name in {each.name for each in self.outliers}:
            raise ConfigError(f"a set of outliers cannot be called {self.inliers.name!r}: give it another name")


def recipe_of(bundle: Bundle) -> Recipe:
    """Return the recipe that made a bundle.

    Raises:
        ConfigError: If the bundle carries none.
    """
    tree = bundle.manifest.provenance.recipe
    if tree is None:
        raise ConfigError(f"{bundle.path} carries no recipe: name the sets with --inliers and --outliers NAME=PATH")
    return from_tree(tree, f"of {bundle.path}")


def sets_of_recipe(recipe: Recipe, preparation: Preparation, *, sets: OpenSets, of: Bundle | None = None) -> ImageSets:
    """Find the sets that a recipe names: those of `evaluation`, or its test part.

    Args:
        recipe: The recipe.
        preparation: Preparation of the inliers, and of sets of outliers that name none.
        sets: Opens sets by name.
        of: The bundle to evaluate, if there is one. A test part that is drawn from the training source is
            unseen by it only if that source is divided as it was then.

    Raises:
        ConfigError: If the recipe names no outliers.
        DataError: If images are missing, or a test part may hold images that the bundle was fitted on.
    """
    if not recipe.evaluation.outliers:
        raise ConfigError(f"recipe {recipe.name} names no evaluation.outliers: give --inliers and --outliers NAME=PATH")
    if recipe.evaluation.inliers is not None:
        inliers = _named("inliers", recipe.evaluation.inliers, recipe, preparation, sets)
    elif recipe.backbone is not None:
        inliers = ImageSet("inliers", found_tests(recipe.data, sets(data_root(recipe.data.root))), preparation)
    else:
        parts = find_parts(recipe.data, seed=recipe.seed, sets=sets(data_root(recipe.data.root)), tell=False)
        inliers = ImageSet("inliers", parts.test, preparation)
        if recipe.data.test is None and of is not None and not _calibrated(of, _parts_of(of, recipe, parts)[1]):
            raise DataError(
                f"{recipe.data.train} holds other images than {of.path} was fitted on, and some of those would be "
                "taken for unseen ones: give them as they were (--data.root DIR), or name the sets with --inliers "
                "and --outliers NAME=PATH"
            )
    outliers = [_named(name, each, recipe, preparation, sets) for name, each in recipe.evaluation.outliers.items()]
    return _apart(inliers, outliers)


def fitted_images(bundle: Bundle, overrides: Sequence[str], *, sets: OpenSets) -> ImageSet | None:
    """Find the images that a bundle was fitted on.

    Args:
        bundle: The bundle.
        overrides: Overrides of its recipe, such as `--data.root=DIR`.
        sets: Opens sets by name.

    Returns:
        None if the recipe does not name them, or they are missing or were changed.
    """
    found = _images_of(bundle, overrides, sets)
    return ImageSet(FITTED, found[0], bundle.manifest.preparation) if found else None


def tell_of_seen(bundle: Bundle, overrides: Sequence[str], images: ImageSets) -> None:
    """Log a line about images to evaluate on that made the bundle.

    Those are found where the recipe names files that are still there; sets by name are not looked for.

    Args:
        bundle: The bundle.
        overrides: Overrides of its recipe, such as `--data.root=DIR`.
        images: The sets to evaluate on.
    """
    fit, calibration = _images_of(bundle, overrides, lambda root: lambda name: None) or ([], [])
    for own, use in ((fit, "fit"), ([] if _method_of(bundle) == "cross" else calibration, "calibration")):
        for each in (images.inliers, *images.outliers):
            tell_copies(own, each.sources, f"{use} image and image to evaluate on ({one_line(each.name, most=40)})")


def _images_of(bundle: Bundle, overrides: Sequence[str], sets: OpenSets) -> tuple[list[Source], list[Source]] | None:
    """Find the images that made a bundle; None as for `fitted_images`."""
    try:
        recipe = override(recipe_of(bundle), overrides)
        opener = sets(data_root(recipe.data.root))
        if recipe.backbone is None:
            parts = find_parts(recipe.data, seed=recipe.seed, sets=opener, tell=False)
            fit, calibration = _parts_of(bundle, recipe, parts)
        else:
            images = inliers_to_fit(recipe.data, seed=recipe.seed, sets=opener, tell=False)
            fit, calibration = divided(images, recipe.data, seed=recipe.seed, method=_method_of(bundle))
    except LitODError:
        return None
    return (fit, calibration) if _calibrated(bundle, calibration) else None


def _method_of(bundle: Bundle) -> Method:
    """Return the method by which a bundle was calibrated."""
    return "split" if bundle.calibration.folds is None else "cross"


def _parts_of(bundle: Bundle, recipe: Recipe, parts: Parts) -> tuple[list[Source], list[Source]]:
    """Return the images that fitted and calibrated a bundle over a module."""
    if _method_of(bundle) == "split":
        return parts.train, parts.calibration
    fit, _, calibration = frozen_parts(parts, recipe, "cross")  # a trained module takes no cross calibration
    return fit, calibration


def _calibrated(bundle: Bundle, sources: Sequence[Source]) -> bool:
    """Return True if the images match the fingerprint of the calibration images.

    Then the data are those of the fit, divided in the same way.
    """
    return bundle.manifest.provenance.data.get("calibration") == fingerprint(sources)


def sets_of_paths(
    inliers: Sequence[str],
    outliers: Mapping[str, Sequence[str]],
    preparation: Preparation,
    *,
    opener: SetOpener,
    labels: Sequence[str] = (),
) -> ImageSets:
    """Find the sets that a command line names by PATHs.

    Args:
        inliers: PATHs of inliers.
        outliers: PATHs of outliers by name of their set.
        preparation: Preparation of all images.
        opener: Opens sets by name.
        labels: Labels of the inliers among the images of `inliers`; none takes all.

    Raises:
        ConfigError: If a set of outliers has the inliers' name.
        DataError: If a PATH does not exist or holds no image, a list's images have several labels and none is given,
            or an image is inlier and outlier.
    """
    chosen = [each for path in inliers for each in only_inliers(path, find([path], sets=opener), labels)]
    return _apart(
        ImageSet("inliers", chosen, preparation),
        [ImageSet(name, find(paths, sets=opener), preparation) for name, paths in outliers.items()],
    )


def sets_of_category(folder: Path, preparation: Preparation) -> ImageSets | None:
    """Find the test images of a category of defects, by kind, and their masks.

    Args:
        folder: The category's folder.
        preparation: Preparation of all images, and of their masks.

    Returns:
        None if the folder is in no known layout.

    Raises:
        DataError: If the category lacks normal or defective test images, or a mask; or if the folder holds categories.
    """
    category = read_category(folder)
    if category is None:
        require_no_categories(folder)
        return None
    for images, what in ((category.good, "normal"), (category.defects, "defective")):
        if not images:
            raise DataError(f"{folder} is in the layout of {category.layout} and holds no {what} test image: add some")
    found = _apart(
        ImageSet("normal", category.good, preparation),
        [ImageSet(kind, images, preparation) for kind, images in category.defects.items()],
    )
    return replace(
        found,
        layout=f"{category.layout}, {category.name}",
        truth=category.truth,
        unlabelled=[ImageSet(name, images, preparation) for name, images in category.unlabelled.items()],
    )


def sets_of_masks(folder: Path, masks: Path, preparation: Preparation) -> ImageSets:
    """Divide the images of a folder by their masks.

    A mask that is not empty tells a defect.

    Args:
        folder: Folder of images; the first folder below it is the kind of a defect. An image in a folder called good
            needs no mask.
        masks: Folder of masks, matched by stem.
        preparation: Preparation of all images, and of their masks.

    Raises:
        DataError: If an image has no mask, a mask cannot be read, or there is no normal or no defective image.
    """
    images = find([folder])
    files, without = match_masks(images, masks)
    require_masks([each for each in without if each.label != GOOD], masks)
    defective = {name for name, own in files.items() if any(has_defect(file) for file in own)}
    kinds: dict[str, list[Source]] = {}
    for each in images:
        if each.name in defective:
            kinds.setdefault(each.label or "defective", []).append(each)
    good = [each for each in images if each.name not in defective]
    for found, what in (
        (good, "normal image, with an empty mask or in a folder called good"),
        (kinds, "defective image"),
    ):
        if not found:
            raise DataError(f"{folder} with the masks of {masks} holds no {what}: add some")
    return ImageSets(
        ImageSet("normal", good, preparation),
        [ImageSet(kind, each, preparation) for kind, each in sorted(kinds.items())],
        layout=f"masks, {folder.resolve().name}",
        truth=GroundTruth({name: own for name, own in files.items() if name in defective}),
    )


def with_masks(images: ImageSets, masks: Path) -> ImageSets:
    """Add the masks of all outliers, matched by stem.

    Raises:
        DataError: If an outlier has no mask.
    """
    files, without = match_masks([source for each in images.outliers for source in each.sources], masks)
    require_masks(without, masks)
    return replace(images, layout="masks", truth=GroundTruth(files))


def _apart(inliers: ImageSet, outliers: Sequence[ImageSet]) -> ImageSets:
    """Check that no image is inlier and outlier in the same preparation."""
    for each in outliers:
        if each.preparation == inliers.preparation:
            require_apart(inliers.sources, each.sources, "inlier and outlier")
    return ImageSets(inliers, outliers)


def score_set(scorer: Scorer, images: ImageSet) -> Scores:
    """Score a set's images, shape (n,). Raises DataError if an image cannot be read."""
    extractor = replace(scorer.extractor, preparation=images.preparation)
    return LocalEngine(extractor).score(scorer.detector, images.sources, task=one_line(images.name, most=40))


def _named(name: str, each: EvaluationSet, recipe: Recipe, preparation: Preparation, sets: OpenSets) -> ImageSet:
    root = data_root(recipe.data.root)
    sources = find([each.path], root=root, sets=sets(root))
    return ImageSet(name, sources, _overridden(preparation, each.prepare, name))


def _overridden(preparation: Preparation, fields: Mapping[str, Any], name: str) -> Preparation:
    tree = {**msgspec.to_builtins(preparation), **fields}
    try:
        return msgspec.convert(tree, Preparation, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"evaluation set {name}: prepare: {error}") from None
