"""The sets that a bundle is evaluated on, and their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lit_od.bundle import Bundle
from lit_od.errors import ConfigError, LitODError
from lit_od.fit import score_all
from lit_od.images import Preparation
from lit_od.recipe import EvaluationSet, Recipe, from_tree, override
from lit_od.roots import data_root
from lit_od.scorer import Scorer
from lit_od.sources import Source, find
from lit_od.training.data import ImageData
from lit_od.training.sets import open_set
from lit_od.types import Scores


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


def sets_of_recipe(recipe: Recipe, preparation: Preparation) -> ImageSets:
    """The sets that a recipe names: its own test part, or what `evaluation` says.

    Raises:
        ConfigError: If it names no outliers.
        DataError: If images are missing.
    """
    if not recipe.evaluation.outliers:
        raise ConfigError(f"recipe {recipe.name} names no evaluation.outliers: give --inliers and --outliers NAME=PATH")
    if recipe.evaluation.inliers is not None:
        inliers = _named("inliers", recipe.evaluation.inliers, recipe, preparation)
    else:
        data = ImageData(recipe.data, seed=recipe.seed)
        inliers = ImageSet("inliers", data.sources("test"), preparation)
    outliers = [_named(name, each, recipe, preparation) for name, each in recipe.evaluation.outliers.items()]
    return ImageSets(inliers, outliers)


def fitted_images(bundle: Bundle, overrides: Sequence[str]) -> ImageSet | None:
    """The images that a bundle was fitted on, where its recipe names them and they are at hand."""
    try:
        recipe = override(recipe_of(bundle), overrides)
        sources = ImageData(recipe.data, seed=recipe.seed).sources("train")
    except LitODError:
        return None
    return ImageSet("fitted", sources, bundle.manifest.preparation)


def sets_of_paths(
    inliers: Sequence[str], outliers: Mapping[str, Sequence[str]], root: Path, preparation: Preparation
) -> ImageSets:
    """The sets that a command line names by PATHs."""
    opener = open_set(root)
    return ImageSets(
        ImageSet("inliers", find(inliers, sets=opener), preparation),
        [ImageSet(name, find(paths, sets=opener), preparation) for name, paths in outliers.items()],
    )


def score_set(scorer: Scorer, images: ImageSet) -> Scores:
    """Scores of a set's images, shape (n,). Raises DataError if one cannot be read."""
    return score_all(
        scorer.backbone, images.preparation, scorer.detector, images.sources, threads=scorer.threads, what=images.name
    )


def _named(name: str, each: EvaluationSet, recipe: Recipe, preparation: Preparation) -> ImageSet:
    root = data_root(recipe.data.root)
    sources = find([each.path], root=root, sets=open_set(root))
    return ImageSet(name, sources, _overridden(preparation, each.prepare, name))


def _overridden(preparation: Preparation, fields: Mapping[str, Any], name: str) -> Preparation:
    tree = {**msgspec.to_builtins(preparation), **fields}
    try:
        return msgspec.convert(tree, Preparation, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"evaluation set {name}: prepare: {error}") from None
