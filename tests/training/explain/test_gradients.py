"""Gradient maps: where they lie, what they add up to, and that the module is left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_od.detectors import KNN, Mahalanobis, Reconstruction
from lit_od.errors import ConfigError, DataError
from lit_od.training import FrozenBackbone, LitClassifier, LitDOC
from lit_od.training.explain.gradients import gradient_maps, overlays, pixel_gradients, spatial_layer
from lit_od.training.explain.torch_scores import torch_score

RNG = np.random.default_rng(0)


class Cells(nn.Module):
    """The means of cells of 4x4 pixels: a detector's score hangs on each cell alone."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, images):
        return self.pool(images.permute(0, 3, 1, 2).float()).flatten(1)


def noise(count, shape=(28, 28, 1)):
    return RNG.integers(90, 111, (count, *shape), dtype=np.uint8)


def fitted(module, images, kind=Mahalanobis):
    with torch.no_grad():
        return kind.fit(module(torch.from_numpy(images)).numpy())


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return LitClassifier(classes=3)


@pytest.mark.parametrize("kind", [Mahalanobis, KNN])
def test_the_hottest_place_is_the_odd_spot(kind):
    network = Cells()
    detector = fitted(network, noise(300), kind)
    odd = noise(6)
    places = RNG.integers(0, 7, (6, 2))
    for image, (row, column) in zip(odd, places, strict=True):
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    maps = gradient_maps(network, detector, odd)
    assert (maps.shape, maps.dtype) == ((6, 28, 28), np.float32)
    for found, (row, column) in zip(maps, places, strict=True):
        y, x = np.unravel_index(found.argmax(), found.shape)
        assert (y // 4, x // 4) == (row, column)


def test_a_map_is_gradient_times_activation_summed_over_channels(classifier):
    network = classifier.backbone().eval()
    detector = fitted(network, noise(200))
    images = noise(3)
    kept = {}
    handle = network.body.convolutions[2].register_forward_hook(lambda part, given, out: kept.update(a=out))
    score = torch_score(detector)(network(torch.from_numpy(images).float().requires_grad_(True)))
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept["a"])
    wanted = (gradient * kept["a"]).sum(dim=1)
    got = gradient_maps(classifier, detector, images, layer="body.convolutions.2", batch_size=2)
    assert tuple(wanted.shape[1:]) == (7, 7)
    # the middle of each 4x4 block of the enlarged map lies about the position's own value
    middles = got.reshape(3, 7, 4, 7, 4)[:, :, 1:3, :, 1:3].mean(axis=(2, 4))
    enlarged = torch.nn.functional.interpolate(wanted[:, None].detach(), size=(28, 28), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(got, enlarged, rtol=1e-3, atol=1e-4 * np.abs(enlarged).max())
    assert np.corrcoef(middles.ravel(), wanted.detach().numpy().ravel())[0, 1] > 0.95


@pytest.mark.parametrize("kind", [Mahalanobis, KNN])
def test_pixel_gradients_are_those_of_finite_differences(classifier, kind):
    network = classifier.backbone().eval().double()
    images = noise(40)
    detector = fitted(network, images, kind)
    odd = RNG.integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    gradients = pixel_gradients(classifier, detector, odd)
    score = torch_score(detector)
    with torch.no_grad():
        for place in [(3, 4), (14, 14), (20, 9)]:
            step = torch.zeros(1, 28, 28, 1, dtype=torch.float64)
            step[0, *place] = 1e-3
            pixels = torch.from_numpy(odd).double()
            slope = (score(network(pixels + step)) - score(network(pixels - step))) / 2e-3
            np.testing.assert_allclose(gradients[:, *place, 0], slope.numpy(), rtol=2e-2, atol=1e-6)


def test_the_module_stays_as_it_was(classifier):
    classifier.train()
    detector = fitted(classifier.backbone(), noise(200))
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        gradient_maps(classifier, detector, noise(3))
        pixel_gradients(classifier, detector, noise(3))
    assert all(part.training for part in classifier.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in classifier.parameters())
    assert not any(part._forward_hooks for part in classifier.modules())
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())


def test_a_batch_changes_nothing(classifier):
    detector = fitted(classifier.backbone().eval(), noise(200))
    images = noise(5)
    whole = gradient_maps(classifier, detector, images)
    alone = np.concatenate([gradient_maps(classifier, detector, image[None]) for image in images])
    np.testing.assert_allclose(whole, alone, atol=1e-3 * np.abs(whole).max())


def test_frozen_networks_are_explained_though_their_weights_have_no_gradients():
    torch.manual_seed(0)
    frozen = FrozenBackbone(
        network="tf_efficientnet_lite0", layers=["bn2"], pretrained=False, unit_length=True, image_size=(96, 96)
    )
    images = RNG.integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
    detector = fitted(frozen, images[:10], KNN)
    maps = gradient_maps(frozen, detector, images[10:])
    assert maps.shape == (2, 96, 96)
    assert np.isfinite(maps).all()
    assert np.abs(maps).max() > 0
    layer = spatial_layer(frozen.backbone(), images[:1])
    sides = {}
    part = frozen.backbone().get_submodule(layer)
    handle = part.register_forward_hook(lambda part, given, out: sides.update(shape=out.shape))
    frozen(torch.from_numpy(images[:1]))
    handle.remove()
    assert tuple(sides["shape"][2:]) == (6, 6)


def test_a_network_trained_for_compact_features_is_explained():
    torch.manual_seed(0)
    module = LitDOC(
        network="tf_efficientnet_lite0", layer="bn2", reference_classes=3, pretrained=False, image_size=(96, 96)
    )
    images = RNG.integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
    network = module.backbone()
    detector = fitted(network.eval(), images[:10], KNN)
    maps = gradient_maps(module, detector, images[10:])
    assert maps.shape == (2, 96, 96)
    assert np.isfinite(maps).all()
    np.testing.assert_allclose(maps, gradient_maps(network, detector, images[10:]), rtol=1e-4, atol=1e-6)
    assert np.abs(maps).max() > 0


class Branches(nn.Module):
    """A residual branch, the last of whose layers has weights of zero, before the features."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
        nn.init.zeros_(self.branch[2].weight)
        self.pool = nn.AvgPool2d(7)

    def forward(self, images):
        pixels = self.stem(images.permute(0, 3, 1, 2).float() / 255)
        return self.pool(pixels + self.branch(pixels)).flatten(1)


class Shallow(Branches):
    """The pixels themselves are features too."""

    def forward(self, images):
        return torch.cat([super().forward(images), images.float().mean((1, 2))], dim=1)


def test_a_layer_inside_a_branch_is_not_taken():
    torch.manual_seed(0)
    network, images = Branches(), noise(60)
    detector = fitted(network, images, KNN)
    odd = RNG.integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    assert spatial_layer(network, odd) == "stem"
    assert not any(part._forward_hooks for part in network.modules())
    maps = gradient_maps(network, detector, odd)
    np.testing.assert_array_equal(maps, gradient_maps(network, detector, odd, layer="stem"))
    assert np.abs(maps).max() > 0
    assert np.abs(gradient_maps(network, detector, odd, layer="branch.1")).max() == 0
    drawn = np.random.default_rng(0).integers(1, 256, (1, 28, 28, 1), dtype=np.uint8)  # as the probe draws
    assert spatial_layer(network, drawn) == "stem"


def test_of_two_layers_side_by_side_the_earlier_is_taken():
    frozen = FrozenBackbone(
        network="test_resnet", layers=["layer1", "layer2"], pretrained=False, image_size=(64, 64)
    ).eval()
    images = RNG.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    assert spatial_layer(frozen.backbone(), images) == "body.body.layer1"


def test_where_everything_passes_no_layer_one_is_to_be_named():
    network, images = Shallow(), noise(60)
    detector = fitted(network, images, KNN)
    with pytest.raises(ConfigError, match=r"no layer with maps \(n, c, h, w\) that everything passes through: name"):
        gradient_maps(network, detector, images[:1])
    assert gradient_maps(network, detector, images[:1], layer="stem").shape == (1, 28, 28)


def test_overlays_leave_inliers_cold_and_show_the_odd_spot():
    network = Cells()
    detector = fitted(network, noise(300))
    odd = noise(1)
    odd[0, 8:12, 16:20] = 255
    drawn = overlays(odd, gradient_maps(network, detector, odd), gradient_maps(network, detector, noise(50)))
    assert drawn.shape == (1, 28, 28, 3)
    coloured = drawn[0].max(axis=2) - drawn[0].min(axis=2) > 40
    assert coloured[8:12, 16:20].mean() > 0.8
    assert coloured.mean() < 0.1


class Vectors(nn.Module):
    def forward(self, images):
        return images.float().flatten(1)


class Bytes(nn.Module):
    def forward(self, images):
        if images.dtype != torch.uint8:
            raise ValueError("wanted bytes")
        return images.float().flatten(1)


class Guessing(nn.Module):
    def forward(self, images):
        pixels = images.float()
        return (pixels if images.dtype.is_floating_point else pixels / 255).flatten(1)


def test_what_cannot_be_explained_is_refused(classifier):
    images = noise(20, (4, 4, 1))
    detector = fitted(Vectors(), images, KNN)
    with pytest.raises(ConfigError, match="no layer of the backbone gives maps"):
        gradient_maps(Vectors(), detector, images)
    with pytest.raises(ConfigError, match="must take images as float too, to be differentiated: wanted bytes"):
        gradient_maps(Bytes(), detector, images)
    with pytest.raises(ConfigError, match="other features for images as float"):
        gradient_maps(Guessing(), detector, images)
    with pytest.raises(DataError, match="wanted at least 1 image"):
        gradient_maps(Vectors(), detector, images[:0])
    errors = Reconstruction.fit(np.zeros((3, 2, 2, 1), dtype=np.float32))
    with pytest.raises(ConfigError, match="reads errors and has no gradient here"):
        gradient_maps(Vectors(), errors, images)
    own = fitted(classifier.backbone().eval(), noise(200))
    with pytest.raises(ConfigError, match="no layer 'nowhere'"):
        gradient_maps(classifier, own, noise(1), layer="nowhere")
    with pytest.raises(ConfigError, match=r"layer body\.dense gives no maps"):
        gradient_maps(classifier, own, noise(1), layer="body.dense")
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        gradient_maps(classifier, own, noise(1), batch_size=0)
