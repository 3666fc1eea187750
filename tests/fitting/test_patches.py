"""Recipes of patches over the backbone that ships: images to bundle without torch."""

from pathlib import Path

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.cli import main
from lit_od.errors import BackboneError, ConfigError
from lit_od.fitting.from_recipe import fit_onnx
from lit_od.recipes.load import override, portable_tree, read
from lit_od.recipes.schema import Recipe
from tests.support.images import ASSETS

SHIPPED = "lit_od:tf_efficientnet_lite0"
PATCHES = {"kind": "tests.support.patch_detectors:PatchDeviation"}


@pytest.fixture
def patch_recipe() -> Recipe:
    """The shipped recipe over digits as colour images of 32x32 pixels: a grid of 4x4 patches."""
    data = ["--data.root=lit_od:assets", "--data.train=digits.npz:train_images", "--data.limit=40"]
    return read("defects", [*data, "--data.prepare.size=[32, 32]", f"--detector={{kind: '{PATCHES['kind']}'}}"])


def test_a_bundle_over_patches(patch_recipe: Recipe, tmp_path: Path):
    bundle = fit_onnx(patch_recipe, tmp_path / "bundle", threads=1, trust=[PATCHES["kind"]])
    model = bundle.manifest.model
    assert (model.input_shape, model.output, model.output_shape) == ([None, 32, 32, 3], "patches", [None, 4, 4, 176])
    assert bundle.manifest.provenance.recipe["backbone"]["grid"] is None  # type: ignore[index]  # it has one
    assert main(["verify", str(tmp_path / "bundle"), "--trust", PATCHES["kind"]]) == 0
    with np.load(ASSETS / "digits.npz") as digits:
        grey = digits["train_images"][:5]
    scorer = Scorer.load(tmp_path / "bundle", threads=1, trust=[PATCHES["kind"]])
    coloured = scorer.score([*np.stack([grey] * 3, axis=3)]).score
    np.testing.assert_allclose(scorer.score([*grey]).score, coloured, rtol=1e-5)
    assert override(patch_recipe, ["--backbone.grid=8"]).backbone.patch_grid().size == 8  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ["--backbone.grid=9"],
            ConfigError,
            r"a grid of 9x9 is finer than the finest layer, blocks\.1 with 8x8 pl",
        ),
        (["--backbone.grid=0"], ConfigError, "grid must be a number of places or"),
        (["--backbone.neighbourhood=2"], ConfigError, "neighbourhood must be an odd number"),
        (
            ["--backbone.output=features"],
            ConfigError,
            r"backbone\.layers and grid are those of patches.* - at `backbone`",
        ),
        (["--backbone.layers=[blocks.8]"], ConfigError, r"no layer 'blocks\.8': there are blocks\.0"),
        (["--backbone.file=gone.onnx"], ConfigError, r"backbone gone\.onnx is no file"),
        (["--data.prepare.mode=grey"], BackboneError, r"prepared to \(32, 32, 1\).*Change data\.prepare"),
        (
            ["--backbone=lit_od:tf_efficientnet_lite0"],
            ConfigError,
            "the graph gives features, and .* reads pat",
        ),
        (["--detector.kind=knn"], ConfigError, "the graph gives patches, and detector knn reads features"),
    ],
)
def test_recipes_of_patches_that_cannot_be_carried_out_are_refused(
    patch_recipe: Recipe, words: list[str], error: type[Exception], message: str, tmp_path: Path
):
    with pytest.raises(error, match=message) as caught:
        fit_onnx(override(patch_recipe, words), tmp_path / "bundle", threads=1, trust=[PATCHES["kind"]])
    assert "\n" not in str(caught.value)


def test_options_of_an_export_go_with_a_training(patch_recipe: Recipe):
    with pytest.raises(ConfigError, match=r"export\.patches is for a training, .* write backbone: \{file: FILE"):
        override(patch_recipe, ["--export.patches.layers=[blocks.1]"])


def test_a_portable_recipe_of_patches_names_no_folder_of_this_machine(patch_recipe: Recipe):
    tree = portable_tree(override(patch_recipe, ["--backbone.file=/nets/mine.onnx"]))
    assert tree["backbone"]["file"] == "mine.onnx"
    assert portable_tree(patch_recipe)["backbone"]["file"] == SHIPPED
