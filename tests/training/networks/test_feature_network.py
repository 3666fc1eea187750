import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_od.errors import ConfigError, DataError
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.networks.feature_network import FeatureNetwork, SmallCNN, build_network

TIMM = "test_resnet.r160_in1k"
SQUARE = {"channels": 1, "image_size": (28, 28)}


class Flat(nn.Module):
    """A network of the user's own."""

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.dense = nn.Linear(channels * image_size[0] * image_size[1], 5)

    def forward(self, pixels):
        assert pixels.min() >= -1
        assert pixels.max() <= 1
        return self.dense(pixels.flatten(1))


class Maps(nn.Module):
    def forward(self, pixels):
        return pixels


class Needy(nn.Module):
    def __init__(self, secret):
        super().__init__()


class Ready(FeatureNetwork):
    def __init__(self):
        super().__init__(nn.Flatten(), num_features=784, mean=[0.0], std=[1.0])


def images(count=2, height=28, width=28, channels=1):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def pooled(planes):
    """TensorFlow's AveragePooling2D(2, padding="same"): means over the pixels that are there."""
    height, width = planes.shape[2:]
    rows = [planes[:, :, top : top + 2] for top in range(0, height, 2)]
    cells = [[row[:, :, :, left : left + 2].mean(axis=(2, 3)) for left in range(0, width, 2)] for row in rows]
    return np.stack([np.stack(row, axis=-1) for row in cells], axis=-2)


def convolved(planes, layer):
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None], 0)


def test_the_small_cnn_is_the_notebooks():
    network = build_network("small-cnn", **SQUARE).eval()
    pixels = images()
    planes = np.moveaxis(pixels / 127.5 - 1.0, 3, 1)
    for layer in network.body.convolutions:
        planes = pooled(convolved(planes, layer))
    assert planes.shape == (2, 128, 4, 4)
    dense = network.body.dense
    logits = planes.reshape(2, -1) @ dense.weight.detach().double().numpy().T
    with torch.no_grad():
        features = network(torch.from_numpy(pixels))
    np.testing.assert_allclose(features, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_weights_start_as_keras_starts_them():
    network = SmallCNN(channels=1, image_size=(28, 28))
    assert [tuple(layer.weight.shape) for layer in network.convolutions] == [
        (32, 1, 3, 3),
        (64, 32, 3, 3),
        (128, 64, 3, 3),
    ]
    bound = (6 / (9 * 64 + 9 * 128)) ** 0.5
    assert 0.98 * bound < network.convolutions[2].weight.abs().max() <= bound
    assert not network.convolutions[2].bias.any()
    assert network.dense.weight.abs().max() <= (6 / (2048 + 64)) ** 0.5


def test_any_size_and_colour_will_do():
    network = build_network("small-cnn", channels=3, image_size=(33, 50)).eval()
    with torch.no_grad():
        assert network(torch.from_numpy(images(1, 33, 50, 3))).shape == (1, 64)


def test_the_small_cnn_exports_with_any_batch_size(tmp_path):
    network = build_network("small-cnn", **SQUARE)
    report = export_backbone(network, tmp_path / "backbone.onnx", images(5))
    assert max(report.differences.values()) < 1e-5
    assert network.training


def test_a_timm_network_normalises_as_it_was_trained():
    network = build_network(TIMM, channels=3, image_size=(64, 64)).eval()
    config = network.body.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = torch.from_numpy(images(2, 64, 64, 3))
    with torch.no_grad():
        wanted = network.body((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
        torch.testing.assert_close(network(pixels), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.shape == (2, network.num_features)


def test_timm_weights_from_a_file_are_loaded_for_grey_too(tmp_path):
    file = tmp_path / "weights.safetensors"
    colour = build_network(TIMM, channels=3, image_size=(64, 64))
    save_file(colour.body.state_dict() | {"fc.weight": torch.zeros(3, 3)}, file)
    loaded = build_network(TIMM, channels=3, image_size=(64, 64), checkpoint_path=str(file))
    for name, tensor in colour.body.state_dict().items():
        torch.testing.assert_close(loaded.body.state_dict()[name], tensor)
    grey = build_network(TIMM, channels=1, image_size=(64, 64), checkpoint_path=str(file))
    first = f"{grey.body.pretrained_cfg['first_conv']}.weight"
    torch.testing.assert_close(grey.body.state_dict()[first], colour.body.state_dict()[first].sum(1, keepdim=True))


def test_weights_of_another_architecture_or_no_weights_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"dense.weight": torch.zeros(2)}, file)
    with pytest.raises(DataError, match=r"is of another architecture: .* weights are not in it, the first is"):
        build_network(TIMM, channels=3, image_size=(64, 64), checkpoint_path=str(file))
    with pytest.raises(DataError, match=r"gone\.pt does not exist"):
        build_network(TIMM, channels=3, image_size=(64, 64), checkpoint_path=str(tmp_path / "gone.pt"))
    file.with_suffix(".pt").write_bytes(b"no weights")
    with pytest.raises(DataError, match="is no file of weights that can be read safely"):
        build_network(TIMM, channels=3, image_size=(64, 64), checkpoint_path=str(file.with_suffix(".pt")))
    torch.save([1], file.with_suffix(".pt"))
    with pytest.raises(DataError, match="must hold tensors by name, got list"):
        build_network(TIMM, channels=3, image_size=(64, 64), checkpoint_path=str(file.with_suffix(".pt")))


@pytest.mark.parametrize("path", [f"{__name__}:Flat", f"{__name__}.Flat"])
def test_a_network_of_the_users_own(path):
    network = build_network(path, **SQUARE)
    assert network.num_features == 5
    assert network(torch.from_numpy(images(3))).shape == (3, 5)
    assert network.training


def test_a_feature_network_of_the_users_own_is_used_as_it_is():
    assert type(build_network(f"{__name__}:Ready", **SQUARE)) is Ready


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small-cn", "no network 'small-cn': .* did you mean small-cnn"),
        ("resnett18", "no network 'resnett18': .* did you mean resnet18"),
        ("no_such_package:Net", "network: no_such_package:Net cannot be imported: No module named"),
        (f"{__name__}:Flatt", "has no Flatt; did you mean Flat"),
        ("pathlib:Path", "pathlib:Path must be a class derived from Module"),
        (f"{__name__}:Maps", r"must return features of shape \(n, d\), got \(1, 1, 28, 28\)"),
        (f"{__name__}:Needy", "cannot be made from channels, image_size, dropout: .*Give its other arguments defaults"),
        ("vgg11", r"network vgg11 fails on one image of 1 channels and 28x28 \(h x w\): .*Change data.prepare"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build_network(name, **SQUARE)
    assert "\n" not in str(caught.value)


def choice(class_path, **init_args):
    return {"class_path": class_path, "init_args": init_args}


@pytest.mark.parametrize(
    ("network", "features", "channels"),
    [
        (choice("small-cnn", width=0.5), 32, 16),
        (choice("small-cnn"), 64, 32),
        (choice("deep-cnn", width=2), 192, 48),
        (choice("lit_od.training.networks.deep_cnn:DeepCNN", width=0.25, dropout=0), 24, 6),
    ],
)
def test_a_network_gets_the_arguments_that_a_recipe_gives(network, features, channels):
    made = build_network(network, **SQUARE)
    assert made.num_features == features
    first = next(layer for layer in made.modules() if isinstance(layer, nn.Conv2d))
    assert first.out_channels == channels
    assert made(torch.from_numpy(images(2))).shape == (2, features)


def test_timm_gets_the_arguments_that_a_recipe_gives():
    for network in (choice("test_resnet", act_layer="silu"), choice("timm.create_model", model_name="test_resnet")):
        made = build_network(network, channels=1, image_size=(64, 64))
        wanted = nn.SiLU if "act_layer" in network["init_args"] else nn.ReLU
        assert any(isinstance(layer, wanted) for layer in made.modules())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (choice("small-cnn", width=0), "width must be a number that leaves 32 channels at least one, got 0"),
        (choice("deep-cnn", width=0.01), "width must be a number that leaves 24 channels at least one, got 0.01"),
        (choice("small-cnn", widht=2), r"network\.init_args\.widht does not exist; did you mean width"),
        (choice("timm.create_model"), "network: timm.create_model needs model_name among its init_args"),
        (choice("resnet18", checkpoint_path="x.pt"), "checkpoint_path of resnet18 is decided by .*: leave it out"),
        (choice("resnet18", pretrained_cfg={}), "pretrained_cfg of resnet18 is decided by"),
        (choice("resnet18", nothing=1), "network 'resnet18' cannot be made: .*nothing.*Choose another network"),
        ({"class_path": "small-cnn", "width": 2}, "network must be a name, or class_path with init_args, got"),
        ({"init_args": {}}, "network must be a name, or class_path with init_args, got"),
    ],
)
def test_arguments_that_a_network_does_not_take_are_refused(network, message):
    with pytest.raises(ConfigError, match=message):
        build_network(network, **SQUARE)


def test_networks_without_published_weights_say_so():
    with pytest.raises(ConfigError, match="network 'small-cnn' has no published weights: leave out pretrained"):
        build_network("small-cnn", pretrained=True, **SQUARE)


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no\nroute")

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("lit_od.training.networks.pretrained._hub", contextlib.nullcontext)
    with pytest.raises(ConfigError, match=r"network 'resnet18' cannot be made: no route\. Give checkpoint_path"):
        build_network("resnet18", pretrained=True, **SQUARE)


@pytest.mark.parametrize("reached", [True, False])
def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, reached):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked, seen = [], []

    class Session:
        def head(self, address, timeout):
            asked.append((address, timeout))
            if not reached:
                raise OSError("no route")

    def create(name, **options):
        seen.append(constants.HF_HUB_OFFLINE)
        raise OSError("not on this disk")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(ConfigError, match=r"'resnet18' cannot be made: not on this disk\. Give checkpoint_path"):
        build_network("resnet18", pretrained=True, **SQUARE)
    assert (len(asked), seen, constants.HF_HUB_OFFLINE) == (1, [not reached], False)
    with pytest.raises(ConfigError):
        build_network("resnet18", pretrained=False, **SQUARE)
    assert len(asked) == 1
