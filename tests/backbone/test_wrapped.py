"""Float graphs behind added nodes, against numpy and the file itself in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import read_features, read_patches
from lit_od.backbone.patches import PatchGrid
from lit_od.backbone.pixel_input import PixelInput
from lit_od.backbone.wrapped import features_graph
from lit_od.errors import BackboneError, ConfigError
from tests.support.graphs import float_graph, graph_of

SHAPE = (12, 10, 3)
IMAGES = np.random.default_rng(1).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def run(model: bytes, name: str, numbers: NDArray[Any]) -> NDArray[Any]:
    """Run an ONNX file on numbers, and return one of its tensors."""
    read = onnx.load_from_string(model)
    del read.graph.output[:]
    read.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(read.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run([name], {session.get_inputs()[0].name: numbers})[0]
    return found


def wrapped(model: bytes, pixels: PixelInput | None, output: str | None = None) -> NDArray[Any]:
    """Return the features of the images, batch by batch of 1, 2 and 3 the same."""
    backbone = Backbone.load(features_graph(model, pixels, output, SHAPE), threads=1, providers=["cpu"])
    assert (backbone.output, backbone.image_shape) == ("features", SHAPE)
    found = backbone(IMAGES)
    for count in (1, 2):
        np.testing.assert_allclose(backbone(IMAGES[:count]), found[:count], atol=1e-5 * np.abs(found).max())
    return found


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("given", "mean", "std", "scale"),
    [
        ({"mean": "imagenet", "std": "imagenet"}, MEAN, STD, 255),
        ({"mean": 0.5, "std": 0.25}, 0.5, 0.25, 255),
        ({"mean": [104.0, 117.0, 123.0], "scale": 1.0}, [104, 117, 123], 1, 1),
        ({}, 0, 1, 255),
    ],
)  # fmt: skip
def test_the_wrapped_graph_computes_what_the_file_computes_of_prepared_pixels(
    layout: str, channels: str, given: dict[str, Any], mean: Any, std: Any, scale: float
) -> None:
    model = float_graph(layout)
    if channels == "bgr":
        colours = np.stack([IMAGES[..., 2], IMAGES[..., 1], IMAGES[..., 0]], axis=3).astype(np.float64)
        mean, std = (each[::-1] if "imagenet" in given.values() else each for each in (mean, std))
    else:
        colours = IMAGES.astype(np.float64)
    numbers = ((colours / scale - np.array(mean)) / np.array(std)).astype(np.float32)
    wanted = run(model, "logits", np.moveaxis(numbers, 3, 1) if layout == "nchw" else numbers)
    pixels = PixelInput(layout, channels=channels, **given)  # type: ignore[arg-type]  # of the parametrisation
    np.testing.assert_allclose(wrapped(model, pixels), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("layout", "name"), [("nchw", "maps"), ("nhwc", "maps"), ("nhwc", "features"), ("nchw", "x")])
def test_maps_are_averaged_over_their_places(layout: str, name: str) -> None:
    """An output has the layout of the input; an inner tensor, be it named `features`, has its channels first."""
    model = float_graph(layout, {"maps": 4})
    numbers = IMAGES.astype(np.float32) / 255
    maps = run(model, name, np.moveaxis(numbers, 3, 1) if layout == "nchw" else numbers)
    wanted = maps.mean(axis=(1, 2) if (layout, name) == ("nhwc", "maps") else (2, 3))
    got = wrapped(model, PixelInput(layout), name)  # type: ignore[arg-type]  # one of two
    assert got.shape == (3, 3 if name == "x" else 4)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_one_of_several_outputs_is_chosen_by_name_and_inner_tensors_too() -> None:
    model = float_graph(outputs={"logits": 2, "maps": 4})
    numbers = np.moveaxis(IMAGES.astype(np.float32) / 255, 3, 1)
    for name in ("logits", "pooled"):
        np.testing.assert_allclose(wrapped(model, PixelInput("nchw"), name), run(model, name, numbers), atol=1e-5)


def test_half_graphs() -> None:
    model = float_graph(kind=np.float16)
    numbers = np.moveaxis((IMAGES.astype(np.float32) / 255).astype(np.float16), 3, 1)
    got = wrapped(model, PixelInput("nchw"))
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, run(model, "logits", numbers), rtol=1e-2)


def test_the_file_keeps_its_operator_set_and_its_inner_graphs_work() -> None:
    """A branch reads tensors of the graph around it, and has weights of its own."""
    read = onnx.load_from_string(float_graph(opset=13))
    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    branches = {}
    for key, operator in (("then_branch", "Mul"), ("else_branch", "Add")):
        port = helper.make_tensor_value_info(f"{key}_out", TensorProto.FLOAT, None)
        weight = helper.make_tensor(f"{key}_weight", TensorProto.FLOAT, [1], [3.0])
        node = helper.make_node(operator, ["logits", weight.name], [port.name])
        branches[key] = helper.make_graph([node], key, [], [port], [weight])
    read.graph.initializer.append(flag)
    read.graph.node.append(helper.make_node("If", ["flag"], ["tripled"], **branches))
    read.graph.output.append(helper.make_tensor_value_info("tripled", TensorProto.FLOAT, [None, None]))
    model = read.SerializeToString()
    numbers = np.moveaxis(IMAGES.astype(np.float32) / 255, 3, 1)
    wanted = 3 * run(model, "logits", numbers)
    np.testing.assert_allclose(wrapped(model, PixelInput("nchw"), "tripled"), wanted, atol=1e-5)
    made = onnx.load_from_string(features_graph(model, PixelInput("nchw"), "tripled", SHAPE))
    onnx.checker.check_model(made)
    assert made.opset_import[0].version == 13


def test_a_tensor_of_a_graph_that_takes_uint8_is_chosen_too() -> None:
    backbone = Backbone.load(read_features("lit_od:tf_efficientnet_lite0", "add_330", None, (32, 32, 3))[0], threads=1)
    assert backbone(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 112)


def test_patches_are_cut_from_a_float_graph(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(float_graph("nhwc", {"logits": 2, "maps": 4}))
    pixels, name = PixelInput("nhwc", "imagenet", "imagenet"), str(tmp_path / "net.onnx")
    model, opset = read_patches(name, ["features", "cells"], PatchGrid([6, 5], 1), SHAPE, pixels)
    found = Backbone.load(model, threads=1)(IMAGES)
    numbers = ((IMAGES / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    wanted = [run(float_graph("nhwc"), layer, numbers) for layer in ("features", "cells")]
    np.testing.assert_allclose(found, np.concatenate(wanted, axis=1).transpose(0, 2, 3, 1), atol=1e-5)
    assert (found.shape, opset) == ((3, 6, 5, 8), 20)
    with pytest.raises(ConfigError, match=r"layer maps is an output of a graph nhwc, and layers are \(n, c, h, w\)"):
        read_patches(name, ["maps"], PatchGrid(), SHAPE, pixels)
    with pytest.raises(BackboneError, match=r"net\.onnx takes float32 \(any, any, any, 3\), and images are uint8"):
        read_patches(name, ["features"], PatchGrid(), SHAPE)


def second_input(model: bytes) -> bytes:
    """Return a graph with a second input."""
    read = onnx.load_from_string(model)
    read.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 5]))
    return read.SerializeToString()


def reshaped(model: bytes) -> bytes:
    """Return a graph that has one image written into a shape."""
    read = onnx.load_from_string(model)
    read.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [2], [1, 5]))
    read.graph.node.append(helper.make_node("Reshape", ["logits", "one"], ["rows"]))
    read.graph.output[0].name = "rows"
    return read.SerializeToString()


def mixed(model: bytes) -> bytes:
    """Return a graph that gives one row, whatever the number of images."""
    read = onnx.load_from_string(model)
    read.graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    read.graph.node.append(helper.make_node("ReduceMean", ["logits", "first"], ["row"], keepdims=1))
    read.graph.output[0].name = "row"
    return read.SerializeToString()


@pytest.mark.parametrize(
    ("model", "pixels", "output", "message"),
    [
        (float_graph(batch=1), PixelInput("nchw"), None, r"takes 1 image at a time, .*it with a free first side"),
        (float_graph(opset=12), PixelInput("nchw"), None, "the graph has opset 12, wanted 13 or later: export it anew"),
        (float_graph("nhwc"), PixelInput("nchw"), None, r"to \(12, 10, 3\) .* takes float32 \(any, any, any, 3\): "),
        (second_input(float_graph()), PixelInput("nchw"), None, r"one input, .* takes image: float32 .*, mask: "),
        (reshaped(float_graph()), PixelInput("nchw"), None, "with 2 images the graph failed: .*free number of images"),
        (mixed(float_graph()), PixelInput("nchw"), None, "row of 2 images is .*wanted a row an image"),
        (graph_of(["errors"], SHAPE), PixelInput("nchw"), None, "takes uint8, whose scaling is inside: leave out"),
        (graph_of(["errors"], SHAPE), None, "errors", "errors is .* maps of a graph that takes uint8: average them"),
        (float_graph(), PixelInput("nchw"), "gone", r"computes no 'gone'; its outputs are logits \(n, 5\): name one"),
        (float_graph(outputs={"logits": 2, "maps": 4}), PixelInput("nchw"), None,
         r"has 2 outputs, logits \(n, 5\), maps \(n, 4, 6, 5\): name one by backbone\.output"),
        (float_graph(), PixelInput("nchw", mean=[0.5]), None, r"backbone\.mean has 1 numbers, .* have 3 channels"),
        (b"no graph", PixelInput("nchw"), None, "damaged"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_wrapped_are_refused(
    model: bytes, pixels: PixelInput | None, output: str | None, message: str
) -> None:
    with pytest.raises((BackboneError, ConfigError), match=message) as caught:
        features_graph(model, pixels, output, SHAPE)
    assert "\n" not in str(caught.value)


def test_outputs_that_are_no_features_are_listed() -> None:
    read = onnx.load_from_string(float_graph())
    read.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    read.graph.node.append(helper.make_node("Unsqueeze", ["logits", "axis"], ["tokens"]))
    read.graph.node.append(helper.make_node("ArgMax", ["logits"], ["class"], axis=1))
    read.graph.output.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [None] * 3))
    read.graph.output.append(helper.make_tensor_value_info("class", TensorProto.INT64, [None] * 2))
    for name, shape in (("tokens", r"float32 \(1, 1, 5\)"), ("class", r"int64 \(1, 1\)")):
        message = (
            rf"{name} is {shape} for one image, .* the outputs are logits \(n, 5\), tokens \(n, 1, 5\), class \(n, 1\)"
        )
        with pytest.raises(ConfigError, match=message):
            features_graph(read.SerializeToString(), PixelInput("nchw"), name, SHAPE)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    onnx.save(onnx.load_from_string(float_graph()), tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(BackboneError, match="keeps its data in another file: save the model with its weights inside"):
        read_features(str(tmp_path / "net.onnx"), None, PixelInput("nchw"), SHAPE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"std": 0.0}, r"backbone\.std must be finite and above 0, got 0\.0"),
        ({"std": [1.0, -1.0, 1.0]}, r"backbone\.std must be finite and above 0"),
        ({"mean": float("nan")}, r"backbone\.mean must be finite, got nan"),
        ({"mean": []}, r"backbone\.mean must be finite, got \[\]"),
        ({"scale": -1.0}, r"backbone\.scale must be finite and above 0, got -1\.0"),
    ],
)
def test_numbers_that_scale_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PixelInput("nchw", **given)


def test_blue_first_wants_three_channels() -> None:
    with pytest.raises(ConfigError, match=r"channels bgr wants images of 3 channels, the prepared ones have 1"):
        PixelInput("nchw", channels="bgr").constants(1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_networks_of_torchvision_and_timm(kind: str, tmp_path: Path) -> None:
    import timm
    import torch
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.resnet18() if kind == "torchvision" else timm.create_model("resnet10t", num_classes=0)
    file, shape = tmp_path / "net.onnx", (64, 64, 3)
    example = (torch.zeros(2, 3, 64, 64),)
    torch.onnx.export(net.eval(), example, file, dynamic_shapes=({0: "n"},), external_data=False)
    model, _ = read_features(str(file), None, PixelInput("nchw", "imagenet", "imagenet"), shape)
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    numbers = torch.from_numpy(((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = net(numbers).numpy()
    got = Backbone.load(model, threads=1)(images)
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
