import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lit_od import Bundle, Scorer
from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import MAPS
from lit_od.cli import main
from lit_od.detectors.reconstruction import Reconstruction
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, ExportError
from lit_od.images.find_local import find
from lit_od.recipes.load import read
from lit_od.training import LitAutoencoder, fit
from lit_od.training.data.image_data import ImageData
from lit_od.training.export import map_graph as export_maps_file
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.export.map_graph import export_maps
from lit_od.training.export.outputs import maps_of, output_of, require_readable
from lit_od.training.loop.callbacks import OutlierMonitor
from lit_od.training.loop.checkpoints import load_module
from lit_od.training.networks.autoencoders import build_autoencoder
from tests.support.images import ASSETS
from tests.support.small_training import AUTOENCODER, TRUST, trainer

HERE = "tests.training.test_autoencoder"
OURS = "tests.support.small_training"


class Short(nn.Flatten):
    """No decoder: its output is no image."""


class Fails(nn.Module):
    def forward(self, pixels):
        raise RuntimeError("out of luck\nand more")


class Drifts(nn.Module):
    """Its reconstruction is another one in the exporter's hands."""

    def forward(self, images):
        pixels = images.float() / 255
        return pixels * 0, pixels * (0.5 if torch.compiler.is_exporting() else 1.0)


def images(count=4, size=(32, 32), channels=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *size, channels), generator=generator, dtype=torch.uint8)


def running(module):
    """Statistics that Keras counts as parameters, though nothing trains them."""
    return sum(each.numel() for name, each in module.named_buffers() if "running" in name)


def trained(module):
    return sum(each.numel() for each in module.parameters() if each.requires_grad)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("autoencoder")
    return fit(read("demo", AUTOENCODER), out / "bundle", run=out / "run", trust=TRUST)


def test_the_published_networks_have_their_published_sizes():
    dense = LitAutoencoder(architecture="dense", channels=3, image_size=32)
    assert trained(dense) == 12_462_083
    assert running(dense) == 0
    conv = LitAutoencoder(architecture="conv", channels=1)
    assert (trained(conv), trained(conv) + running(conv)) == (426_433, 427_713)


@pytest.mark.parametrize(
    ("architecture", "size", "channels"), [("dense", (16, 24), 1), ("conv", (12, 20), 3), ("conv", (4, 4), 1)]
)
def test_any_size_that_the_strides_divide_is_reconstructed(architecture, size, channels):
    module = LitAutoencoder(architecture=architecture, channels=channels, image_size=size)
    given = images(2, size, channels)
    found = module.eval()(given)
    assert found.shape == given.shape
    assert found.dtype == torch.float32
    assert 0 < found.min() <= found.max() < 1


@pytest.mark.parametrize(("architecture", "stride"), [("dense", 8), ("conv", 4)])
def test_another_size_is_refused_in_a_sentence(architecture, stride):
    with pytest.raises(ConfigError, match=rf"multiples of {stride}, got 30x32 \(h x w\). Change data.prepare.size"):
        LitAutoencoder(architecture=architecture, channels=1, image_size=(30, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "dens"}, "architecture must be dense or conv, got 'dens'"),
        ({}, "architecture must be dense or conv, got None. For a network of your own give encoder and decoder"),
        ({"architecture": "conv", "channels": 4}, "channels must be 1 (grey) or 3 (RGB), got 4"),
        ({"encoder": f"{OURS}:Squeeze"}, "encoder and decoder go together"),
        (
            {"architecture": "conv", "encoder": f"{OURS}:Squeeze", "decoder": f"{OURS}:Stretch"},
            "leave it out, or the",
        ),
        ({"encoder": f"{OURS}:Squeeze", "decoder": f"{HERE}:Short"}, "takes, (1, 1, 128, 128), got (1, 8192)"),
        ({"encoder": f"{OURS}:Squeeze", "decoder": f"{HERE}:Fails"}, "of shape (1, 128, 128) (c, h, w): out of luck"),
        ({"encoder": f"{HERE}:Nobody", "decoder": f"{HERE}:Short"}, "has no Nobody"),
        ({"architecture": "conv", "optimizer": "sgd"}, "optimizer must be rmsprop or adam, got 'sgd'"),
        ({"architecture": "conv", "learning_rate": 0}, "wanted learning_rate > 0 and noise >= 0, got 0 and 0"),
        ({"architecture": "conv", "noise": -1}, "wanted learning_rate > 0 and noise >= 0, got 0.0003 and -1"),
        ({"architecture": "conv", "image_size": [1, 2, 3]}, "image_size must be height and width, or one side"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        LitAutoencoder(**arguments)


def test_the_loss_is_the_mean_squared_error_of_pixels_from_0_to_1():
    module = LitAutoencoder(architecture="conv", image_size=8)
    given = images(3, (8, 8))
    with torch.no_grad():
        reconstructed = module(given).numpy().astype(np.float64)  # training mode, as the step has it
        loss = module.training_step((given, torch.zeros(3)), 0)
    wanted = ((reconstructed - given.numpy() / 255) ** 2).mean()
    assert loss.item() == pytest.approx(wanted, rel=1e-5)


def test_noise_reaches_the_input_and_not_the_target(monkeypatch):
    module = LitAutoencoder(architecture="conv", image_size=8, noise=0.5)
    seen = []
    monkeypatch.setattr(module, "network", nn.Identity())
    monkeypatch.setattr(module.network, "forward", lambda pixels: seen.append(pixels) or pixels)
    given = images(200, (8, 8))
    torch.manual_seed(0)
    loss = module.training_step((given, torch.zeros(200)), 0)
    clean = given.permute(0, 3, 1, 2).float() / 255
    assert seen[0].min() == 0
    assert seen[0].max() == 1
    inner = (seen[0] > 0) & (seen[0] < 1) & (clean > 0.45) & (clean < 0.55)
    assert (seen[0] - clean)[inner].std().item() == pytest.approx(0.27, abs=0.02)  # a normal of 0.5, cut at its sd
    assert loss.item() == pytest.approx(((seen[0] - clean) ** 2).mean().item(), rel=1e-5)
    module._evaluate("val", (given, torch.zeros(200)))
    assert torch.equal(seen[1], clean)


def test_the_optimisers_are_those_of_the_sources():
    rmsprop = LitAutoencoder(architecture="conv").configure_optimizers()
    assert type(rmsprop) is torch.optim.RMSprop
    assert (rmsprop.defaults["lr"], rmsprop.defaults["alpha"]) == (3e-4, 0.9)
    adam = LitAutoencoder(architecture="conv", optimizer="adam", learning_rate=1e-3).configure_optimizers()
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["lr"] == 1e-3


def test_a_recipe_gives_a_bundle_that_scores_as_the_module_does(bundle):
    run = bundle.path.parent / "run"
    assert (run / "learning_curves.png").is_file()
    assert {"train_loss", "val_loss", "val_outlier_auroc"} < set(
        (run / "metrics.csv").read_text().split("\n")[0].split(",")
    )
    module = load_module(run / "best.ckpt", TRUST).eval()
    assert bundle.manifest.model.output == "errors"
    prepared = np.stack(
        [each.prepare(bundle.manifest.preparation) for each in find([f"{ASSETS}/garments.npz:images"])[:70]]
    )
    with torch.no_grad():
        errors = module.backbone()(torch.from_numpy(prepared)).numpy()
    scorer = Scorer.of(bundle)
    found = scorer.backbone(prepared)
    assert np.abs(found - errors).max() <= 1e-5
    flat = np.sort(errors.astype(np.float64).reshape(70, -1))
    np.testing.assert_allclose(scorer.score(prepared).score, flat[:, 392:].mean(axis=1), rtol=1e-4)


def test_training_lowers_the_loss(bundle):
    lines = (bundle.path.parent / "run" / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("val_loss")
    first, last = (float(line.split(",")[place]) for line in (lines[1], lines[-1]))
    assert last < 0.9 * first


def test_the_maps_give_the_errors_and_what_they_come_from(bundle):
    module = load_module(bundle.path.parent / "run" / "best.ckpt", TRUST).eval()
    given = images(5, (28, 28))
    errors, reconstructed = MapGraph.load(bundle.files[MAPS])(given.numpy())
    with torch.no_grad():
        wanted = module(given).numpy()
    np.testing.assert_allclose(reconstructed, wanted, atol=1e-5)
    np.testing.assert_allclose(errors, (wanted - given.numpy() / 255) ** 2, atol=1e-5)


def test_maps_that_differ_from_torch_are_refused():
    with pytest.raises(ExportError, match=r"batch size 1: output 'reconstruction', difference 0\.5"):
        export_maps(Drifts(), np.full((1, 4, 4, 1), 255, dtype=np.uint8), opset=20)


class Far(torch.Tensor):
    """A tensor on another device: numpy wants it on the CPU first."""

    def numpy(self):
        raise TypeError("can't convert device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


class Remote(nn.Module):
    """Weights on another device, and what it gives as well."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device="meta"))

    def forward(self, images):
        assert images.device.type == "meta"
        return [torch.zeros(images.shape).as_subclass(Far) for _ in range(2)]


def test_maps_are_proven_where_the_module_lies(monkeypatch):
    given = np.zeros((3, 4, 4, 1), dtype=np.uint8)
    graph = SimpleNamespace(load=lambda model, providers: lambda batch: (np.zeros(batch.shape), np.zeros(batch.shape)))
    monkeypatch.setattr(export_maps_file, "MapGraph", graph)
    export_maps_file._prove(Remote(), b"", given)
    graph.load = lambda model, providers: lambda batch: (np.zeros(batch.shape), np.ones(batch.shape))
    with pytest.raises(ExportError, match=r"batch size 1: output 'reconstruction', difference 1, at most"):
        export_maps_file._prove(Remote(), b"", given)


def test_a_refit_keeps_the_maps(bundle, tmp_path, digit_files):
    status = main(["refit", str(bundle.path), str(digit_files), "--out", str(tmp_path / "new")])
    new = Bundle.read(tmp_path / "new")
    assert status == 0
    assert new.files[MAPS] == bundle.files[MAPS]
    assert isinstance(new.detector, Reconstruction)


def test_a_detector_of_features_is_refused_before_the_training(tmp_path, capsys):
    words = ["fit", "demo", *AUTOENCODER[:-1], "--detector.kind=knn", "--out", str(tmp_path / "bundle")]
    words += [f"--trust={name}" for name in TRUST]
    assert main(words) == 2
    assert (
        "LitAutoencoder gives errors, and detector knn reads features: choose reconstruction" in capsys.readouterr().err
    )


def test_a_second_detector_of_features_is_refused_at_export(bundle, tmp_path, capsys):
    checkpoint = bundle.path.parent / "run" / "best.ckpt"
    words = ["export", str(checkpoint), "--detector", "lof", "--out", str(tmp_path / "bundle")]
    assert main([*words, *(f"--trust={name}" for name in TRUST)]) == 2
    assert "detector lof reads features: choose reconstruction" in capsys.readouterr().err


def test_a_module_states_what_it_gives():
    assert output_of(LitAutoencoder) == "errors"
    assert output_of(nn.Identity()) == "features"
    assert maps_of(nn.Identity()) is None
    stranger = nn.Identity()
    stranger.output = "logits"
    with pytest.raises(ConfigError, match='must be "features", "errors" or "patches", got \'logits\''):
        output_of(stranger)
    with pytest.raises(
        ConfigError,
        match=r"Identity gives features, and detector reconstruction reads errors: choose feature_ens",
    ):
        require_readable(nn.Identity(), DetectorSpec("reconstruction", {}), "features")


def test_the_watched_figure_is_that_of_the_mean_error():
    recipe = read("demo", ["--data.limit=300"])
    module = LitAutoencoder(encoder=f"{OURS}:Squeeze", decoder=f"{OURS}:Stretch", image_size=28)
    logged = {}
    module.log = logged.__setitem__  # type: ignore[method-assign]
    data = ImageData(recipe.data, seed=0)
    OutlierMonitor(data, images=100).on_validation_epoch_end(trainer(), module.eval())
    assert 0 < logged["val_outlier_auroc"] < 1
    assert np.isfinite(logged["val_outlier_auroc"])


def names_of(part):
    return [type(each).__name__ for each in part]


def test_the_conv_network_is_the_sources():
    network = build_autoencoder("conv", channels=1, image_size=(16, 16))
    block = ["Conv2d", "ReLU", "BatchNorm2d"] * 2
    assert names_of(network.encoder) == [*block, "MaxPool2d", *block, "MaxPool2d", *block]
    assert names_of(network.decoder) == [*block, "Upsample", *block, "Upsample", "Conv2d", "Sigmoid"]
    parts = [*network.encoder, *network.decoder]
    convolutions = [each for each in parts if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 1]
    assert {(each.kernel_size, each.stride, each.padding) for each in convolutions} == {((3, 3), (1, 1), (1, 1))}
    # Keras' defaults; its momentum is what stays, torch's what comes
    assert {(each.eps, each.momentum) for each in parts if isinstance(each, nn.BatchNorm2d)} == {(1e-3, 1 - 0.99)}


def test_the_dense_network_is_the_sources():
    network = build_autoencoder("dense", channels=3, image_size=(32, 32))
    assert names_of(network.encoder) == [*["Conv2d", "ReLU"] * 3, "Flatten", "Linear"]
    turns = [*["ConvTranspose2d", "ReLU"] * 2, "ConvTranspose2d", "Sigmoid"]
    assert names_of(network.decoder) == ["Linear", "Unflatten", *turns]
    turned = [each for each in [*network.encoder, *network.decoder] if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)]
    assert [each.out_channels for each in turned] == [64, 128, 512, 256, 64, 3]
    assert {(each.kernel_size, each.stride) for each in turned} == {((4, 4), (2, 2))}
    assert network.encoder[-1].out_features == network.decoder[0].in_features == 1024
    assert network.decoder[1].unflattened_size == (128, 4, 4)


@pytest.mark.parametrize("architecture", ["conv", "dense"])
def test_networks_begin_as_kerass_do(architecture):
    """Glorot's uniform bound, nearly reached, and biases of zero."""
    network = build_autoencoder(architecture, channels=1, image_size=(16, 16))
    seen = 0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            size = layer.weight[0, 0].numel()
            bound = (6 / (size * (layer.weight.shape[0] + layer.weight.shape[1]))) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert (layer.bias == 0).all()
            seen += 1
    assert seen == {"conv": 11, "dense": 8}[architecture]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "{architecture: dense, image_size: [64, 64]}",
            "image_size is [64, 64], the images have [28, 28]",
        ),
        ("{architecture: conv, channels: 3}", "channels is 3, the images have 1: leave it out"),
        ("{architecture: conv, image_size: abc}", "image_size is abc, the images have [28, 28]: leave it out"),
    ],
)
def test_arguments_that_the_images_contradict_are_refused(tmp_path, capsys, words, message):
    own = [word for word in AUTOENCODER if not word.startswith(("--model.init_args", "--detector"))]
    assert (
        main(
            [
                "train",
                "demo",
                *own,
                "--detector.kind=reconstruction",
                f"--model.init_args={words}",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 2
    )
    assert f"model.init_args.{message}" in capsys.readouterr().err


def test_squared_errors_are_held_to_their_own_bound(tmp_path):
    """A difference of 3e-5 in an error of 0.9 is within the relative bound, and refused."""

    class Off(nn.Module):
        def __init__(self, offset):
            super().__init__()
            self.offset = offset

        def forward(self, images):
            pixels = images.float() / 255
            shift = self.offset if torch.compiler.is_exporting() else 0.0
            return (pixels * 0.9 + shift).clamp(min=0)

    given = np.full((2, 8, 8, 1), 255, np.uint8)
    export_backbone(Off(0.0), tmp_path / "backbone.onnx", given, output="errors")
    with pytest.raises(ExportError, match=r"an error by .*, at most 1e-05 is allowed"):
        export_backbone(Off(3e-5), tmp_path / "backbone.onnx", given, output="errors")
