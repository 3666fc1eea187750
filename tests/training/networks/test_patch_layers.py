"""Patches of torch networks, against torch's own pooling and timm's own maps."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_od.backbone.patches import PatchGrid
from lit_od.errors import ConfigError
from lit_od.training import FrozenBackbone
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.networks.feature_network import build_network
from lit_od.training.networks.layer_features import CutNetwork
from lit_od.training.networks.patch_layers import patches_of
from lit_od.training.networks.pooling import Pooling
from tests.support.transformers import TinyDino

TINY = "tests.support.transformers:TinyDino"
RESNET = ["layer1", "layer2", "layer3"]
RANDOM = {"output": "patches", "pretrained": False}


def noise(*size: int, channels: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *size, channels), dtype=np.uint8))


def pooled(maps: Tensor, side: int = 3) -> Tensor:
    """Average maps (n, c, h, w) over neighbours, (n, h, w, c)."""
    return F.avg_pool2d(maps, side, 1, side // 2, count_include_pad=False).permute(0, 2, 3, 1)


class Last(nn.Module):
    """A convolution whose maps are (n, h, w, c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 5, 3, stride=2, padding=1)
        self.turned = nn.Identity()
        self.flat = nn.Flatten()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.flat(self.turned(self.convolution(pixels).permute(0, 2, 3, 1)))


class Stray(nn.Module):
    """Sixteen places and one token more, of which nothing is said."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cells = nn.Conv2d(channels, 5, 4, stride=4)
        self.tokens = nn.ConstantPad1d((1, 0), 0.0)
        self.turned = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.turned(self.tokens(self.cells(pixels).flatten(2)).transpose(1, 2))


@torch.no_grad()
def test_a_convolutional_network_of_timms(tmp_path: Path):
    images = noise(64, 96)
    torch.manual_seed(0)
    frozen = FrozenBackbone(network="test_resnet", layers=RESNET, image_size=(64, 96), **RANDOM)
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet").eval()
    config = reference.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    fine, middle, coarse = reference.forward_intermediates(pixels, indices=[1, 2, 3], intermediates_only=True)
    enlarged = F.interpolate(coarse, size=middle.shape[2:], mode="bilinear", align_corners=False)
    wanted = pooled(torch.cat([F.avg_pool2d(fine, 2), middle, enlarged], dim=1))
    got = frozen(images)
    assert got.shape == (2, 8, 12, frozen.backbone().num_features)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    report = export_backbone(frozen.backbone(), tmp_path / "b.onnx", images.numpy(), output=frozen.output)
    assert (report.output, report.output_shape) == ("patches", tuple(wanted.shape[1:]))
    kept = sum(weight.nbytes for weight in frozen.parameters())
    assert report.size < kept + 30_000


@torch.no_grad()
@pytest.mark.parametrize(
    ("network", "size", "prefix"),
    [("test_vit", (160, 160), 1), ("test_vit_relpos", (160, 160), 0), (TINY, (56, 84), 5)],
)
def test_tokens_of_transformers_without_class_and_registers(network: str, size: tuple[int, int], prefix: int):
    images = noise(*size)
    frozen = FrozenBackbone(
        network=network, layers=["blocks.0", "blocks.2"], neighbourhood=1, image_size=size, **RANDOM
    )
    body = frozen.network.body.cut.body
    assert getattr(body, "num_prefix_tokens", 0) == prefix
    pixels = images.permute(0, 3, 1, 2).float() * frozen.network.scale - frozen.network.shift
    torch.manual_seed(0)
    whole = TinyDino(3, size) if "Tiny" in network else timm.create_model(network)
    state = {name: weight for name, weight in body.state_dict().items() if weight.numel()}
    whole.load_state_dict(state, strict=False)
    maps = whole.eval().forward_intermediates(pixels, indices=[0, 2], intermediates_only=True)
    wanted = torch.cat(maps, dim=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(frozen(images), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_maps_with_channels_last_and_grey_images():
    images = noise(12, 12, channels=1)
    frozen = FrozenBackbone(
        network=f"{__name__}:Last", layers=["turned"], channels=1, image_size=(12, 12), neighbourhood=5, **RANDOM
    )
    body = frozen.network.body.cut.body
    torch.testing.assert_close(frozen(images), pooled(body.convolution(images.permute(0, 3, 1, 2) / 127.5 - 1), 5))
    grey = FrozenBackbone(network="test_resnet", layers=["layer1"], channels=1, image_size=(32, 32), **RANDOM)
    thirds = noise(32, 32, channels=1)
    torch.testing.assert_close(grey(thirds), grey(thirds.expand(-1, -1, -1, 3)))


@torch.no_grad()
def test_trained_networks_give_patches_of_the_same_weights():
    classifier = build_network("test_resnet", channels=1, image_size=(32, 32))
    images = noise(32, 32, channels=1)
    options = {"layers": ["layer1", "layer2"], "grid": PatchGrid(4), "image_size": (32, 32)}
    classifier.train()
    network = patches_of(classifier, **options)
    assert classifier.training
    assert classifier.body.training
    classifier.eval()
    pixels = images.permute(0, 3, 1, 2).float() * classifier.scale - classifier.shift
    fine, coarse = classifier.body.forward_intermediates(pixels, indices=[1, 2], intermediates_only=True)
    wanted = pooled(torch.cat([F.avg_pool2d(fine, 2), coarse], dim=1))
    torch.testing.assert_close(network.eval()(images), wanted, rtol=1e-4, atol=1e-5)
    cut = CutNetwork(classifier.body, layers=["layer2"], pooling=[Pooling("avg")], channels_last=False)
    again = patches_of(classifier.over(cut, num_features=1), **options)
    torch.testing.assert_close(again.eval()(images), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"FeatureNetwork, and backbone\(\) gives Flatten: wrap it so"):
        patches_of(nn.Flatten(), **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": ["layer9"]}, "no layer 'layer9': did you mean one of layer4"),
        ({"layers": []}, "layers must name at least one layer: the outermost are conv1"),
        ({"grid": 9}, "a grid of 9x9 is finer than the finest layer, layer2 with 8x8 places"),
        ({"image_size": (16, 16), "grid": 4}, "a grid of 4x4 is finer than the finest layer, layer2 with 2x2"),
        ({"grid": 0}, "grid must be a number of places or"),
        ({"neighbourhood": 4}, "neighbourhood must be an odd number"),
        ({"pool": "max"}, "pool and unit_length are of features"),
        ({"unit_length": True}, "pool and unit_length are of features"),
        ({"output": "features", "grid": 8}, "grid and neighbourhood are of patches: add output: patches"),
        ({"output": "maps"}, 'output must be "features" or "patches", got \'maps\''),
        ({"layers": ["global_pool"]}, r"layer global_pool gives shape \(1, \d+\), which has no places"),
        ({"network": "swin_tiny_patch4_window7_224", "layers": ["layers.0.blocks.0.attn"], "image_size": (224, 224)},
         r"must return features of shape \(n, d\), got \(64, "),
        ({"network": "vit_tiny_patch16_224", "layers": ["blocks.0"], "image_size": (40, 28)},
         "cuts images into patches of 16x16"),
        ({"network": "vit_tiny_patch16_224", "layers": ["patch_drop", "fc_norm"], "image_size": (32, 32)},
         "which has no places"),
    ],
)  # fmt: skip
def test_what_gives_no_patches_is_refused_in_one_line(changed: dict[str, object], message: str):
    options = {"network": "test_resnet", "layers": ["layer2"], "image_size": (64, 64), **RANDOM, **changed}
    with pytest.raises(ConfigError, match=message) as caught:
        FrozenBackbone(**options)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_class_token_as_torchvisions_transformers_have_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Stray, "class_token", None, raising=False)
    frozen = FrozenBackbone(
        network=f"{__name__}:Stray", layers=["turned"], neighbourhood=1, image_size=(16, 16), **RANDOM
    )
    images = noise(16, 16)
    maps = frozen.network.body.cut.body.cells(images.permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(frozen(images), maps.permute(0, 2, 3, 1))


def test_tokens_that_are_no_grid_are_refused():
    message = r"layer turned gives 17 tokens, of which 0 stand for no place: the others are no grid over"
    with pytest.raises(ConfigError, match=message):
        FrozenBackbone(network=f"{__name__}:Stray", layers=["turned"], image_size=(16, 16), **RANDOM)
