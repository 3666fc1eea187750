"""Recipes that train in a second or two on the packaged digits, and a stand-in for Lightning's trainer."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from lit_od.recipes.load import read
from lit_od.recipes.schema import Recipe

CLASSIFIER = ["--data.limit=200", "--trainer.accelerator=cpu", "--model.init_args.network=small-cnn"]
"""Changes that make `demo` a small classifier."""
AUTOENCODER = [
    "--data.limit=300",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--data.batch_size=32",
    "--data.augment=null",
    "--model.class_path=lit_od.training.LitAutoencoder",
    f"--model.init_args={{encoder: '{__name__}:Squeeze', decoder: '{__name__}:Stretch', "
    "optimizer: adam, learning_rate: 0.01}",
    "--detector={kind: reconstruction, outlier_perc: 50}",
]
"""Changes that make `demo` a small autoencoder; the last one is its detector."""
TRUST = (f"{__name__}:Squeeze", f"{__name__}:Stretch")
"""Import paths of its halves."""


class Squeeze(nn.Sequential):
    """Half of a small autoencoder: pixels (n, channels, h, w) to a code (n, 8, h / 4, w / 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 8, 4, stride=4), nn.ReLU(inplace=True))


class Stretch(nn.Sequential):
    """The other half."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.ConvTranspose2d(8, channels, 4, stride=4), nn.Sigmoid())


def demo(*overrides: str) -> Recipe:
    """Return the recipe `demo` with the small classifier and further changes."""
    return read("demo", [*CLASSIFIER, *overrides])


def rows_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv."""
    with (run / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def trainer(**state: Any) -> Any:
    """Return the part of a trainer that callbacks ask, at its first step, with changes."""
    first = {"sanity_checking": False, "global_step": 0, "current_epoch": 0, "global_rank": 0, "is_global_zero": True}
    return SimpleNamespace(**first | state)
