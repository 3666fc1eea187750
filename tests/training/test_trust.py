"""Modules and networks outside lit_od, timm and torchvision are imported where they are trusted, and nowhere else."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_od.bundle.folder import Bundle
from lit_od.errors import ConfigError, DataError
from lit_od.recipes.load import from_tree, read
from lit_od.recipes.schema import Recipe
from lit_od.training import export_bundle, fit
from lit_od.training.data.image_data import ImageData
from lit_od.training.loop.checkpoints import load_module, read_checkpoint
from lit_od.training.loop.train import TrainingRun, train
from lit_od.training.networks.pretrained import trusted_class
from tests.support.small_training import AUTOENCODER, TRUST

OTHERS = """
from lit_od.training import LitClassifier
from tests.support.small_training import Squeeze, Stretch

class Mine(LitClassifier):
    pass
"""
Command = Callable[..., Any]
FROZEN = "lit_od.training.FrozenBackbone"


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of somebody in the working folder, which Python would find there."""
    (tmp_path / "strange_module.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "strange_module"
    sys.modules.pop("strange_module", None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    recipe = read("demo", [*AUTOENCODER, "--trainer.max_epochs=1"])
    return train(recipe, tmp_path_factory.mktemp("run") / "run", trust=TRUST)


def recipe_of(class_path: str, **init_args: object) -> Recipe:
    tree = yaml.safe_load(yaml.safe_dump({"class_path": class_path, "init_args": init_args}))
    return from_tree({"name": "r", "data": {"train": "x", "prepare": {"size": [28, 28]}}, "model": tree}, "here")


@pytest.mark.parametrize(
    ("class_path", "arguments", "key", "path"),
    [
        ("{}.Mine", {}, "class_path", "{}.Mine"),
        ("{}:Mine", {}, "class_path", "{}:Mine"),
        (FROZEN, {"network": "{}:Squeeze", "layers": ["0"]}, "init_args.network", "{}:Squeeze"),
        (FROZEN, {"network": "{}.Squeeze", "layers": ["0"]}, "init_args.network", "{}.Squeeze"),
        ("lit_od.training.LitAutoencoder", {"encoder": "{}:Squeeze"}, "init_args.encoder", "{}:Squeeze"),
        ("lit_od.training.LitAutoencoder", {"decoder": "{}.Stretch"}, "init_args.decoder", "{}.Stretch"),
        ("{}.Mine", {"network": "{}.Squeeze"}, "class_path", "{}.Mine"),
        (FROZEN, {"network": {"class_path": "{}.Squeeze"}, "layers": ["0"]}, "init_args.network", "{}.Squeeze"),
        (
            "lit_od.training.LitAutoencoder",
            {"encoder": {"class_path": "{}:Squeeze"}},
            "init_args.encoder",
            "{}:Squeeze",
        ),
    ],
)
def test_nothing_is_imported_that_is_not_trusted(
    class_path: str, arguments: dict[str, Any], key: str, path: str, strange: str, tmp_path: Path
) -> None:
    given = json.loads(json.dumps(arguments).replace("{}.", f"{strange}.").replace("{}:", f"{strange}:"))
    recipe, path = recipe_of(class_path.format(strange), **given), path.format(strange)
    message = rf"model\.{key}: {path} runs code from outside lit_od when it is imported: add --trust {path}$"
    for trust in ([], [strange], ["strange"]):
        with pytest.raises(ConfigError, match=message):
            train(recipe, tmp_path / "run", trust=trust)
        with pytest.raises(ConfigError, match=message):
            fit(recipe, tmp_path / "bundle", trust=trust)
    assert strange not in sys.modules


@pytest.mark.parametrize("name", ["hf-hub:somebody/net", "hf_hub:somebody/net", "local-dir:/somewhere"])
def test_a_network_of_a_hub_is_trusted_by_its_name(name: str) -> None:
    for trust in ([], ["hf-hub:somebody/other"], ["somebody/net"]):
        with pytest.raises(ConfigError, match=rf"network: {name} is a network that others have published: add --trust"):
            trusted_class(FROZEN, {"network": name}, trust)
    assert trusted_class(FROZEN, {"network": name}, [name]).__name__ == "FrozenBackbone"
    by_timm = {"class_path": "timm.create_model", "init_args": {"model_name": name}}
    with pytest.raises(ConfigError, match=rf"network: {name} is a network that others have published: add --trust"):
        trusted_class(FROZEN, {"network": by_timm}, [])


def test_a_network_of_lit_od_imports_no_other_one() -> None:
    nested = {"class_path": FROZEN, "init_args": {"network": "somewhere:Net", "layers": ["0"]}}
    with pytest.raises(
        ConfigError, match=r"network: lit_od\.training\.FrozenBackbone is given a network, and a network"
    ):
        trusted_class("lit_od.training.LitClassifier", {"network": nested}, [])


@pytest.mark.parametrize(
    "name",
    ["small-cnn", "resnet18", "test_resnet.r160_in1k", "torchvision:resnet18", "timm.models.resnet:ResNet"],
)
def test_networks_of_timm_and_torchvision_need_no_trust(name: str) -> None:
    assert trusted_class(FROZEN, {"network": name}, []).__name__ == "FrozenBackbone"


def test_a_checkpoint_names_what_it_imports(run: TrainingRun, strange: str, tmp_path: Path) -> None:
    stored = torch.load(run.checkpoint, weights_only=True)
    with pytest.raises(ConfigError, match=rf"init_args\.encoder: {TRUST[0]} runs code from outside lit_od"):
        load_module(run.checkpoint)
    with pytest.raises(ConfigError, match=rf"init_args\.decoder: {TRUST[1]} runs code from outside lit_od"):
        load_module(run.checkpoint, TRUST[:1])
    changed = tmp_path / "changed.ckpt"
    torch.save(stored | {"lit_od": stored["lit_od"] | {"class_path": f"{strange}.Mine"}}, changed)
    with pytest.raises(ConfigError, match=f"class_path: {strange}.Mine runs code from outside lit_od"):
        load_module(changed, TRUST)
    assert strange not in sys.modules
    lacking = [{key: stored["lit_od"][key] for key in stored["lit_od"] if key != name} for name in ("schema", "recipe")]
    wrong = [stored["lit_od"] | each for each in ({"class_path": 5}, {"init_args": [1]}, {"figures": 5})]
    for about in (*lacking, *wrong):
        torch.save(stored | {"lit_od": about}, changed)
        with pytest.raises(DataError, match="was not written by lit-od train"):
            read_checkpoint(changed)


def test_the_commands_take_and_say_it(run: TrainingRun, tmp_path: Path, command: Command) -> None:
    words = ["export", run.checkpoint, "--out", tmp_path / "bundle", "--threads", 1]
    refused = command(*words)
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert refused.err.endswith(f"add --trust {TRUST[0]}\n")
    assert not (tmp_path / "bundle").exists()
    came = command(*words, *(f"--trust={name}" for name in TRUST))
    assert came.status == 0, came.err
    assert came.err == "".join(f"lit-od: {name} is imported, which --trust allows\n" for name in TRUST)


def test_a_module_at_hand_is_exported_without_trust(run: TrainingRun, tmp_path: Path) -> None:
    recipe = read_checkpoint(run.checkpoint).recipe
    data = ImageData(recipe.data, seed=recipe.seed)
    assert export_bundle(run.module, data, recipe, tmp_path / "bundle", threads=1).detector.kind == "reconstruction"


BESIDE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels, width=4):
        super().__init__(nn.Conv2d(channels, width, 7, stride=7))
"""

RECIPE = """
name: beside
data: {root: "lit_od:assets", train: "digits.npz:train_images:0,1", prepare: {size: [28, 28], mode: grey}, limit: 60}
model:
  class_path: lit_od.training.FrozenBackbone
  init_args: {layers: ["0"], pretrained: false}
  network: {class_path: net_beside_recipe.Net, init_args: {width: 6}}
detector: {kind: knn}
calibration: {rule: percentile, q: 90}
"""


def test_a_module_beside_the_recipe_is_imported_where_it_is_trusted(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net_beside_recipe.py").write_text(BESIDE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = ("fit", tmp_path / "recipe.yaml", "--out", tmp_path / "bundle", "--threads", 1)
    status, _, err = command(*words)
    assert (status, "add --trust net_beside_recipe.Net" in err) == (2, True)
    assert "net_beside_recipe" not in sys.modules
    status, _, err = command(*words, "--trust", "net_beside_recipe.Net")
    assert (status, "net_beside_recipe.Net is imported, which --trust allows" in err) == (0, True), err
    assert Bundle.read(tmp_path / "bundle").detector.input_shape == (6,)
    sys.modules.pop("net_beside_recipe")
