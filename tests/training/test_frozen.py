import contextlib
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from lit_od import Bundle, Scorer
from lit_od.cli import main
from lit_od.errors import ConfigError, DataError
from lit_od.training import FrozenBackbone
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.networks.feature_network import FeatureNetwork, build_network
from lit_od.training.networks.pretrained import whole_network
from tests.support.images import ASSETS
from tests.support.twins import digits_root

TIMM = "test_resnet"
RANDOM = {"pretrained": False, "image_size": (64, 64)}
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))


class Own(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(9, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.convolution(pixels))  # of another width: fails


class Ready(FeatureNetwork):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), num_features=1, mean=[0.0], std=[1.0])


@torch.no_grad()
def test_a_timm_network_is_given_what_it_was_trained_with(tmp_path: Path):
    reference = timm.create_model(TIMM).eval()
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    frozen = FrozenBackbone(
        network=TIMM, layers=["layer2", "layer1"], checkpoint_path=str(tmp_path / "weights.safetensors"), **RANDOM
    )
    config = reference.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    first = reference.layer1(
        reference.maxpool(
            reference.act1(reference.bn1(reference.conv1((IMAGES.permute(0, 3, 1, 2) / 255 - mean) / std)))
        )
    )
    wanted = torch.cat([reference.layer2(first).mean((2, 3)), first.mean((2, 3))], dim=1)
    torch.testing.assert_close(frozen(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    assert frozen.backbone().num_features == wanted.shape[1]
    assert not any(weight.requires_grad for weight in frozen.parameters())


@torch.no_grad()
def test_one_pooling_a_layer_and_unit_length():
    torch.manual_seed(0)
    plain = FrozenBackbone(network=TIMM, layers=["layer1"], pool="grid:2", **RANDOM)
    torch.manual_seed(0)
    other = FrozenBackbone(network=TIMM, layers=["layer2"], pool="max", **RANDOM)
    torch.manual_seed(0)
    both = FrozenBackbone(network=TIMM, layers=["layer1", "layer2"], pool=["grid:2", "max"], unit_length=True, **RANDOM)
    parts = [plain(IMAGES), other(IMAGES)]
    wanted = torch.cat([part / part.norm(dim=1, keepdim=True) for part in parts], dim=1)
    torch.testing.assert_close(both(IMAGES), wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="pool must be one for all layers or one a layer, got 1 for 2"):
        FrozenBackbone(network=TIMM, layers=["layer1", "layer2"], pool=["avg"], **RANDOM)


@torch.no_grad()
def test_torchvision_with_a_partial_file_raw_pixels_and_bgr(tmp_path: Path):
    torch.manual_seed(0)
    reference = torchvision.models.squeezenet1_1().eval()
    partial = {name: value for name, value in reference.state_dict().items() if name.startswith("features.0.")}
    save_file(partial, tmp_path / "part.safetensors")
    options = {
        "network": "torchvision:squeezenet1_1",
        "checkpoint_path": str(tmp_path / "part.safetensors"),
        "scaling": {"mean": [1, 2, 3], "std": [1, 2, 4], "order": "bgr"},
        "image_size": (8, 8),  # too small for the rest of the network
    }
    pixels = IMAGES[:, :8, :8]
    blue_first = pixels.flip(3).permute(0, 3, 1, 2).float()
    scaled = (blue_first - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor([1.0, 2, 4]).view(3, 1, 1)
    frozen = FrozenBackbone(layers=["features.1"], **options)
    torch.testing.assert_close(frozen(pixels), reference.features[:2](scaled).mean((2, 3)), rtol=1e-4, atol=1e-3)
    assert sum(weight.numel() for weight in frozen.parameters()) == sum(value.numel() for value in partial.values())
    message = (
        r"part\.safetensors lacks 2 of the 4 weights that the layers need, the first is features\.3\.squeeze\.weight"
    )
    with pytest.raises(DataError, match=message):
        FrozenBackbone(layers=["features.3.squeeze"], **options)


@torch.no_grad()
def test_grey_images_are_repeated_in_three_channels():
    torch.manual_seed(0)
    frozen = FrozenBackbone(network=TIMM, layers=["layer1"], channels=1, **RANDOM)
    grey = IMAGES[..., :1]
    torch.testing.assert_close(frozen(grey), frozen(grey.expand(-1, -1, -1, 3)))


def test_transformers_give_tokens_and_state_that_their_maps_are_channels_last():
    tokens = FrozenBackbone(network="test_vit", layers=["blocks.1"], pretrained=False, image_size=(160, 160))
    assert tokens.backbone().num_features == 64
    with pytest.raises(ConfigError, match=r"which grid:4 cannot pool: token sequences"):
        FrozenBackbone(network="test_vit", layers=["blocks.1"], pool="grid:4", pretrained=False, image_size=(160, 160))
    shape = {"channels": 3, "image_size": (224, 224), "pretrained": False}
    assert whole_network("torchvision:swin_t", **shape).channels_last
    assert whole_network("swin_tiny_patch4_window7_224", **shape).channels_last
    assert not whole_network(TIMM, **shape).channels_last


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (80, 320)])  # the latter has as many patches as the 160x160 of the file
def test_weights_of_images_of_another_size_are_resampled(tmp_path: Path, size: tuple[int, int]):
    state = timm.create_model("test_vit").state_dict()
    save_file({name: weight for name, weight in state.items() if "blocks.1." not in name}, tmp_path / "w.safetensors")
    grid = [side // 16 for side in size]
    reference = timm.create_model("test_vit", img_size=size).eval()
    reference.load_state_dict(state | {"pos_embed": resample_abs_pos_embed(state["pos_embed"], grid, [10, 10])})
    options = {"image_size": size, "checkpoint_path": str(tmp_path / "w.safetensors")}
    frozen = FrozenBackbone(network="test_vit", layers=["blocks.0"], **options)
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    config = reference.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    given = reference.norm_pre(reference.patch_drop(reference._pos_embed(reference.patch_embed(pixels))))
    torch.testing.assert_close(frozen(images), reference.blocks[0](given).mean(1), rtol=1e-4, atol=1e-5)

    save_file(state, tmp_path / "w.safetensors")
    trained = build_network("test_vit", channels=3, **options).eval()
    reference.reset_classifier(0)
    torch.testing.assert_close(trained(images), reference(pixels), rtol=1e-4, atol=1e-5)
    save_file(state | {"blocks.0.norm1.weight": torch.zeros(5)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"w\.safetensors is of another architecture: .*mismatch for blocks\.0\.norm1"):
        build_network("test_vit", channels=3, **options)


@torch.no_grad()
@pytest.mark.parametrize(
    ("network", "layer", "size", "channels_first"),
    [
        ("test_convnext", "stages.1.blocks.0.mlp", 64, False),
        ("test_convnext", "stages.1.blocks.0.mlp", 96, False),
        ("test_convnext", "stages.1", 64, True),
        ("torchvision:convnext_tiny", "features.1.0.block.3", 64, False),
        ("torchvision:convnext_tiny", "features.1.0", 64, True),
        ("torchvision:swin_t", "features.0.0", 64, True),
        ("torchvision:swin_t", "features.1.0", 64, False),
        ("swin_tiny_patch4_window7_224", "patch_embed.proj", 224, True),
        ("maxvit_nano_rw_256", "stages.0.blocks.0.attn_block", 256, False),
        ("volo_d1_224", "network.0.0", 224, False),
    ],
)
def test_each_layer_is_pooled_over_its_own_positions(network: str, layer: str, size: int, channels_first: bool):
    frozen = FrozenBackbone(network=network, layers=[layer], pretrained=False, image_size=(size, size))
    given: list[Tensor] = []
    images = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8)
    frozen.network.body.body.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: given.extend(inputs))
    features = frozen(images).numpy()
    output = frozen.network.body.body.get_submodule(layer)(*given[:1]).numpy()
    wanted = np.stack(
        [(output[:, k] if channels_first else output[..., k]).mean((1, 2)) for k in range(features.shape[1])], axis=1
    )
    np.testing.assert_allclose(features, wanted, rtol=1e-3, atol=1e-5)
    assert features.shape[1] == output.shape[1 if channels_first else 3]


def test_what_is_said_of_channels_is_taken_as_it_is():
    said = FrozenBackbone(network="test_convnext", layers=["stages.1.blocks.0.mlp"], channels_last=False, **RANDOM)
    assert said.network.num_features == 8  # rows of a map of 8x8


def test_a_layer_of_windows_has_no_row_for_each_image():
    windows = {"network": "swin_tiny_patch4_window7_224", "layers": ["layers.0.blocks.0.attn"]}
    with pytest.raises(ConfigError, match=r"must return features of shape \(n, d\), got \(64, 96\) for one image"):
        FrozenBackbone(**windows, pretrained=False)


def test_images_that_patches_do_not_divide_are_refused():
    with pytest.raises(
        ConfigError, match=r"patches of 16x16, and of 40x28 \(h x w\) it would pass over 8 rows and 12 columns: make"
    ):
        FrozenBackbone(network="vit_tiny_patch16_224", layers=["blocks.1"], pretrained=False, image_size=(40, 28))
    with pytest.raises(ConfigError, match="network vit_tiny_patch16_224 cuts images into patches of 16x16"):
        build_network("vit_tiny_patch16_224", channels=3, image_size=(28, 28))


def test_a_network_of_the_users_own_is_cut_where_its_tail_would_fail(tmp_path: Path):
    frozen = FrozenBackbone(network=f"{__name__}:Own", layers=["convolution"], channels=1, **RANDOM)
    assert frozen.backbone().num_features == 4
    save_file(
        {"convolution.weight": torch.ones(4, 1, 3, 3), "convolution.bias": torch.zeros(5)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(DataError, match=r"another architecture: convolution\.bias is \(5,\) in the file, \(4,\) in"):
        FrozenBackbone(
            network=f"{__name__}:Own",
            layers=["convolution"],
            channels=1,
            checkpoint_path=str(tmp_path / "w.safetensors"),
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"network": "test_resnett"},
            r"no network 'test_resnett': wanted torchvision:NAME, a timm model .* test_resnet",
        ),
        ({"network": f"{TIMM}.nope"}, rf"no network '{TIMM}\.nope': .*there are {TIMM}\.r160_in1k"),
        ({"network": "torchvision:vg16"}, r"no network 'torchvision:vg16': .* did you mean torchvision:vgg16\?"),
        ({"network": f"{__name__}:Own", "pretrained": True}, "has no published weights: give checkpoint_path, or"),
        ({"network": f"{__name__}:Own", "layers": ["head"]}, r"Own fails on one image of 3 channels and 64x64"),
        ({"network": f"{__name__}:Ready"}, "scales its images itself: name the plain network"),
        ({"layers": ["layer9"]}, "no layer 'layer9': did you mean one of layer4"),
        ({"layers": "layer1"}, r"layers must be a list of names, got 'layer1': write \[layer1\]"),
        ({"pool": "mean"}, "pool must be avg, max, gem or grid:N"),
        ({"scaling": {"mean": [0, 0, 0]}}, "scaling must be mean, std and perhaps order.*missing required field `std`"),
        ({"scaling": {"mean": [0], "std": [1]}}, "a mean and a std above 0 for each of 3 channels"),
        ({"scaling": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "a mean and a std above 0"),
        ({"scaling": {"mean": [0, 0, 0], "std": [1, 1, 1], "order": "gbr"}}, "scaling must be .*Invalid enum value"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changed: dict[str, object], message: str):
    options = {"network": TIMM, "layers": ["layer1"], **RANDOM, **changed}
    with pytest.raises(ConfigError, match=message) as caught:
        FrozenBackbone(**options)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no\nroute")

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("lit_od.training.networks.pretrained._hub", contextlib.nullcontext)
    monkeypatch.setattr("torchvision.models.get_model", offline)
    for network in (TIMM, "torchvision:resnet18"):
        with pytest.raises(ConfigError, match=r"cannot be made: no route\. Give checkpoint_path"):
            FrozenBackbone(network=network, layers=["layer1"])


def test_the_graph_ends_at_the_last_layer(tmp_path: Path):
    frozen = FrozenBackbone(network=TIMM, layers=["conv1", "layer1.0.conv1"], pool="grid:3", **RANDOM)
    report = export_backbone(frozen.backbone(), tmp_path / "b.onnx", IMAGES.numpy())
    assert max(report.differences.values()) < 1e-4
    graph = onnx.load(tmp_path / "b.onnx").graph
    model = timm.create_model(TIMM)
    kept = sum(
        weight.nbytes
        for part in (model.conv1, model.layer1[0].conv1)
        for weight in part.parameters()
        if weight.ndim == 4
    )
    assert [node.op_type for node in graph.node].count("Conv") == 4  # three of the stem, and layer1.0.conv1
    assert kept < report.size < kept + 6000  # bytes of nodes and names
    assert report.size < 0.1 * sum(weight.nbytes for weight in model.parameters())


RECIPE = """
name: frozen
data:
  root: lit_od:assets
  train: digits.npz:train_images:0,1
  test: digits.npz:test_images:0,1
  prepare: {size: [32, 32], mode: grey}
  split: {calibration: 0.25}
  limit: 120
model:
  class_path: lit_od.training.FrozenBackbone
  init_args: {network: test_resnet, layers: [layer1], pool: "grid:2", pretrained: false}
detector: {kind: knn, k: 1}
evaluation:
  outliers:
    garments: {path: "garments.npz:images"}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("frozen") / "frozen.yaml"
    file.write_text(RECIPE)
    return file


def test_fit_goes_straight_from_images_to_bundle(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", str(recipe), "--out", str(tmp_path / "bundle")]) == 0
    bundle = Bundle.read(tmp_path / "bundle")
    # validation has nothing to choose, and 30 images are too few for a percentile of 99: all fit, and calibrate
    assert (bundle.manifest.detector.images, bundle.calibration.scores.size) == (120, 120)
    assert bundle.manifest.calibration.folds == 120
    assert bundle.manifest.provenance.metrics["export_parity"] < 1e-4
    assert Scorer.load(tmp_path / "bundle").score(np.zeros((28, 28), dtype=np.uint8)).score > 0
    assert main(["evaluate", str(tmp_path / "bundle")]) == 0
    assert "garments" in capsys.readouterr().out


def test_evaluate_takes_no_test_part_that_is_divided_anew(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = digits_root(tmp_path / "root")
    bundle, words = str(tmp_path / "bundle"), ["--data.test", "null", "--data.split.test", "0.25"]
    (root / "garments.npz").symlink_to(ASSETS / "garments.npz")
    assert main(["fit", str(recipe), *words, "--data.root", str(root), "--out", bundle]) == 0
    assert main(["evaluate", bundle, "--data.root", str(root)]) == 0
    capsys.readouterr()
    digits_root(root, without=2)  # a five and a zero
    assert main(["evaluate", bundle, "--data.root", str(root)]) == 2
    assert "holds other images than" in capsys.readouterr().err


def test_held_out_images_fit_nothing(recipe: Path, tmp_path: Path):
    words = ["--calibration.rule", "percentile", "--calibration.method", "split"]
    assert main(["fit", str(recipe), "--out", str(tmp_path / "bundle"), *words]) == 0
    bundle = Bundle.read(tmp_path / "bundle")
    assert (bundle.manifest.detector.images, bundle.calibration.scores.size) == (90, 30)
    assert bundle.calibration.folds is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "runs"], "the recipe trains nothing that runs could keep: leave out --run"),
        (
            ["--trainer.max_epochs=3", "--trainer.devices=1"],
            "trainer goes with training, and lit_od.training.FrozenBackbone is frozen",
        ),
        (["--data.augment", "{flip: false}"], "data.augment changes nothing: give flip, turns"),
        (["--model.init_args.layer", "[x]"], "model.init_args.layer does not exist; did you mean layers?"),
    ],
)
def test_what_a_frozen_recipe_cannot_have_is_refused(
    recipe: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["fit", str(recipe), "--out", str(tmp_path / "bundle"), *words]) == 2
    assert re.search(re.escape(message), capsys.readouterr().err)
    assert not (tmp_path / "bundle").exists()
