import numpy as np
import pytest
import torch

from lit_od.errors import ConfigError
from lit_od.training.classifier import LitClassifier
from lit_od.training.export.backbone_graph import export_backbone

LAYERS = {"layers": ["stages.1", "stages.2"], "pool": ["grid:2", "avg"], "unit_length": True}


def images(count=2, height=28, width=28, channels=1):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def classifier(**changes):
    """A classifier whose running statistics are those of some images."""
    torch.manual_seed(0)
    module = LitClassifier(**{"classes": 3, "network": "deep-cnn"} | changes)
    with torch.no_grad():
        module(torch.from_numpy(images(16, *module.hparams["image_size"], module.hparams["channels"])))
    return module.eval()


def filtered(planes, convolution, norm):
    """A 3x3 convolution with a border of zeros, batch normalisation in evaluation mode, and ReLU."""
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    maps = np.einsum("nchwij,ocij->nohw", windows, convolution.weight.detach().double().numpy())
    mean, variance, scale, shift = (
        each.detach().double().numpy()[:, None, None]
        for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return np.maximum((maps - mean) / np.sqrt(variance + norm.eps) * scale + shift, 0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def stages_of(module, pixels):
    """The maps of the three stages, in float64."""
    planes, found = np.moveaxis(pixels / 127.5 - 1.0, 3, 1), []
    for stage in module.network.body.stages:
        if found:  # halved: means of 2 x 2 pixels
            count, channels, height, width = planes.shape
            planes = planes.reshape(count, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
        for convolution, norm in zip(stage[::3], stage[1::3], strict=True):
            planes = filtered(planes, convolution, norm)
        found.append(planes)
    return found


def test_features_are_the_means_of_the_last_stage():
    module, pixels = classifier(), images()
    maps = stages_of(module, pixels)
    assert [each.shape[1:] for each in maps] == [(24, 28, 28), (48, 14, 14), (96, 7, 7)]
    with torch.no_grad():
        features = module.backbone()(torch.from_numpy(pixels))
    assert features.shape == (2, module.network.num_features) == (2, 96)
    np.testing.assert_allclose(features, maps[2].mean(axis=(2, 3)), atol=1e-5)


def test_features_of_two_stages_have_length_one_each():
    module, pixels = classifier(**LAYERS), images()
    maps = stages_of(module, pixels)
    cells = maps[1].reshape(2, 48, 2, 7, 2, 7).mean(axis=(3, 5)).reshape(2, -1)
    wanted = np.concatenate([unit(cells), unit(maps[2].mean(axis=(2, 3)))], axis=1)
    backbone = module.backbone()
    with torch.no_grad():
        features = backbone(torch.from_numpy(pixels))
    assert features.shape == (2, backbone.num_features) == (2, 288)
    np.testing.assert_allclose(features, wanted, atol=1e-5)


def test_exported_layers_change_no_name_of_a_weight():
    names = set(classifier().state_dict())
    assert set(classifier(**LAYERS).state_dict()) == names


def test_any_size_and_colour_will_do():
    module = classifier(channels=3, image_size=(33, 50), **LAYERS)
    with torch.no_grad():
        features = module.backbone()(torch.from_numpy(images(1, 33, 50, 3)))
    assert features.shape == (1, 288)


def test_layers_export_with_any_batch_size(tmp_path):
    report = export_backbone(classifier(**LAYERS).backbone(), tmp_path / "backbone.onnx", images(5))
    assert max(report.differences.values()) < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["stages.3"]}, r"no layer 'stages.3': did you mean one of stages"),
        ({"layers": "stages.1"}, r"layers must be a list of names, got 'stages.1': write \[stages.1\]"),
        (
            {"layers": ["stages.1"], "pool": ["avg", "max"]},
            "pool must be one for all layers or one a layer, got 2 for 1",
        ),
        ({"layers": ["stages.1"], "pool": "mean"}, "pool must be avg, max, gem or grid:N"),
    ],
)
def test_layers_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**changes)
