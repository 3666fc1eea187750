"""The sets that a bundle is evaluated on, and their scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from lit_od.bundle.folder import Bundle
from lit_od.errors import ConfigError, DataError, LitODError
from lit_od.fitting.engine import LocalEngine
from lit_od.images.find_local import find
from lit_od.images.identity import fingerprint
from lit_od.images.preparation import Preparation
from lit_od.images.sources import SetOpener, Source
from lit_od.recipes.load import from_tree, override
from lit_od.recipes.partition import divided, find_parts
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import EvaluationSet, Recipe
from lit_od.scoring.scorer import Scorer
from lit_od.types import Scores

OpenSets: TypeAlias = Callable[[Path], SetOpener]
"""Takes a data root; returns an opener of the sets by name that lie below it."""

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
    """Inliers, and outliers by set.

    Raises:
        ConfigError: If a set of outliers has the inliers' name.
    """

    inliers: ImageSet
    outliers: Sequence[ImageSet]

    def __post_init__(self) -> None:
        if self.inliers.name in {each.name for each in self.outliers}:
            raise ConfigError(f"a set of outliers cannot be called {self.inliers.name!r}: give it another name")


def recipe_of(bundle: Bundle) -> Recipe:
    """The recipe that a bundle was made by. Raises ConfigError if it carries none."""
    tree = bundle.manifest.provenance.recipe
    if tree is None:
        raise ConfigError(f"{bundle.path} carries no recipe: name the sets with --inliers and --outliers NAME=PATH")
    return from_tree(tree, f"of {bundle.path}")


def sets_of_recipe(recipe: Recipe, preparation: Preparation, *, sets: OpenSets, of: Bundle | None = None) -> ImageSets:
    """The sets that a recipe names: its own test part, or what `evaluation` says.

    Args:
        recipe: What names them.
        preparation: Of the inliers, and of the outliers where they have none of their own.
        sets: Opens sets by name.
        of: The bundle that is to be evaluated, if there is one. A test part that is drawn from the training
            source is unseen by it only where that source is divided as it was then.

    Raises:
        ConfigError: If it names no outliers.
        DataError: If images are missing, or a test part may hold images that the bundle was fitted on.
    """
    if not recipe.evaluation.outliers:
        raise ConfigError(f"recipe {recipe.name} names no evaluation.outliers: give --inliers and --outliers NAME=PATH")
    if recipe.evaluation.inliers is not None:
        inliers = _named("inliers", recipe.evaluation.inliers, recipe, preparation, sets)
    else:
        parts = find_parts(recipe.data, seed=recipe.seed, sets=sets(data_root(recipe.data.root)))
        inliers = ImageSet("inliers", parts.test, preparation)
        if recipe.data.test is None and of is not None and not _calibrated(of, parts.calibration):
            raise DataError(
                f"{recipe.data.train} holds other images than {of.path} was fitted on, and some of those would be "
                "taken for unseen ones: give them as they were (--data.root DIR), or name the sets with --inliers "
                "and --outliers NAME=PATH"
            )
    outliers = [_named(name, each, recipe, preparation, sets) for name, each in recipe.evaluation.outliers.items()]
    return ImageSets(inliers, outliers)


def fitted_images(bundle: Bundle, overrides: Sequence[str], *, sets: OpenSets) -> ImageSet | None:
    """The images that a bundle was fitted on, where its recipe names them and they are at hand as they were."""
    try:
        recipe = override(recipe_of(bundle), overrides)
        opener = sets(data_root(recipe.data.root))
        if recipe.backbone is None:
            parts = find_parts(recipe.data, seed=recipe.seed, sets=opener)
            fit, calibration = parts.train, parts.calibration
        else:
            fit, calibration = divided(recipe.data, seed=recipe.seed, sets=opener)
    except LitODError:
        return None
    return ImageSet(FITTED, fit, bundle.manifest.preparation) if _calibrated(bundle, calibration) else None


def _calibrated(bundle: Bundle, sources: Sequence[Source]) -> bool:
    """Whether these images calibrated a bundle: then the images are those that it was made of, divided alike."""
    return bundle.manifest.provenance.data.get("calibration") == fingerprint(sources)


def sets_of_paths(
    inliers: Sequence[str], outliers: Mapping[str, Sequence[str]], preparation: Preparation, *, opener: SetOpener
) -> ImageSets:
    """The sets that a command line names by PATHs."""
    return ImageSets(
        ImageSet("inliers", find(inliers, sets=opener), preparation),
        [ImageSet(name, find(paths, sets=opener), preparation) for name, paths in outliers.items()],
    )


def score_set(scorer: Scorer, images: ImageSet) -> Scores:
    """Scores of a set's images, shape (n,). Raises DataError if one cannot be read."""
    extractor = replace(scorer.extractor, preparation=images.preparation)
    return LocalEngine(extractor).score(scorer.detector, images.sources, task=images.name)


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
