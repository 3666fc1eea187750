"""Mistaken arguments of the Python interface of training and export."""

from pathlib import Path
from typing import Any

import pytest
from lightning import LightningDataModule
from torch import nn

from lit_od.errors import ConfigError
from lit_od.images.preparation import Preparation
from lit_od.recipes.load import override
from lit_od.recipes.schema import DataConfig, Recipe
from lit_od.training import ImageData, export_bundle, fit
from tests.support.small_training import demo


class Own(LightningDataModule):
    """Images of somebody's own."""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return override(demo(), ["--data.limit=40"])


def test_other_data_and_recipes_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    data: Any = Own()
    with pytest.raises(
        ConfigError, match=r"export_bundle wants lit_od\.training\.data\.image_data\.ImageData, got Own"
    ):
        export_bundle(nn.Flatten(), data, recipe, tmp_path / "out")
    tree: Any = {"name": "r"}
    with pytest.raises(ConfigError, match=r"export_bundle wants lit_od\.recipes\.schema\.Recipe, got dict"):
        export_bundle(nn.Flatten(), ImageData(recipe.data), tree, tmp_path / "out")


def test_a_folder_may_be_text(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out: Any = str(tmp_path / "file")
    with pytest.raises(ConfigError, match="file is a file: name a folder"):
        export_bundle(nn.Flatten(), ImageData(recipe.data), recipe, out)


def test_a_trained_backbone_takes_no_cross_calibration(recipe: Recipe, tmp_path: Path) -> None:
    """Its folds are no unseen images, and by default few images are held out as many are."""
    with pytest.raises(ConfigError, match=r"calibration\.method cross: the images that fit the detector have trained"):
        fit(override(recipe, ["--calibration.method=cross"]), tmp_path / "out")
    crossed = override(recipe, ["--calibration.method=cross"])
    with pytest.raises(ConfigError, match=r"calibration\.method cross: the images that fit the detector have trained"):
        export_bundle(Digits(), ImageData(recipe.data), crossed, tmp_path / "out")


class Digits(nn.Module):
    """A module that somebody has trained."""

    def backbone(self) -> nn.Module:
        return nn.Flatten()


@pytest.mark.parametrize(
    ("config", "got"),
    [
        ({"train": "x", "prepare": {"size": [28, 28]}}, "got dict as DataConfig: "),
        (DataConfig(train="x", prepare={"size": [28, 28]}), "got dict as Preparation: "),  # type: ignore[arg-type]
    ],
)
def test_a_preparation_as_a_tree_is_refused(config: Any, got: str) -> None:
    with pytest.raises(ConfigError, match=f"wanted the images as lit_od.*, {got}make one, or read a recipe"):
        ImageData(config)
    assert DataConfig(train="x", prepare=Preparation(size=(28, 28))).prepare.size == (28, 28)
