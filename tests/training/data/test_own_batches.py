"""A LightningDataModule of the user's own in a recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from lit_od.errors import ConfigError
from lit_od.recipes.load import to_tree
from lit_od.training import fit
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.own_batches import batches_of
from lit_od.training.loop.train import train
from tests.support.small_training import demo

SHORT = ("--data.limit=120", "--data.batch_size=16", "--trainer.max_epochs=1", "--data.augment=null")


class Noise(LightningDataModule):
    """Images of noise, of as many classes as the recipe's own."""

    drawn = 0

    def __init__(self, count: int, images: ImageData | None = None) -> None:
        super().__init__()
        self.count, self.images = count, images

    def _loader(self) -> DataLoader[Any]:
        assert self.images is not None
        height, width, channels = self.images.prepare.shape
        pixels = torch.randint(0, 256, (self.count, height, width, channels), dtype=torch.uint8)
        return DataLoader(TensorDataset(pixels, torch.arange(self.count) % len(self.images.class_names)), batch_size=8)

    def train_dataloader(self) -> DataLoader[Any]:
        type(self).drawn += 1
        return self._loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader()


OWN = (f"{__name__}:Noise",)


def recipe(**init_args: object) -> Any:
    own = (f"--data.class_path={OWN[0]}", f"--data.init_args={init_args}", "--data.split.validation=0")
    return demo(*SHORT, *own)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_its_batches_train_and_the_recipes_images_fit_the_detector(tmp_path: Path) -> None:
    before = Noise.drawn
    bundle = fit(recipe(count=24), tmp_path / "bundle", trust=OWN)
    assert Noise.drawn == before + 1
    assert bundle.manifest.provenance.recipe is not None
    assert bundle.manifest.provenance.recipe["data"]["class_path"] == OWN[0]
    assert bundle.calibration.scores.size == len(ImageData(recipe(count=24).data).sources("calibration"))


def test_it_is_the_images_themselves_where_none_is_named() -> None:
    data = ImageData(demo(*SHORT).data)
    assert batches_of(data, ()) is data


def test_what_is_no_data_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.class_path: .*:Noise runs code from outside lit_od .* add --trust"):
        train(recipe(count=24), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"data\.init_args\.cuont does not exist; did you mean count"):
        train(recipe(cuont=24), tmp_path / "run", trust=OWN)
    with pytest.raises(ConfigError, match=r"data\.init_args: Noise: .* missing 1 required .* 'count'"):
        train(recipe(), tmp_path / "run", trust=OWN)
    with pytest.raises(ConfigError, match=r"data\.init_args are those of data\.class_path"):
        demo("--data.init_args={count: 3}")
    assert to_tree(demo())["data"]["class_path"] is None
