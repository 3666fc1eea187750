"""The int8 form of a graph: its weights, its features, and what it refuses."""

import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lit_od.backbone.independence import require_independent
from lit_od.backbone.int8 import METHODS, FloatGraph
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import read_patches
from lit_od.backbone.patches import PatchGrid
from lit_od.errors import BackboneError, MissingExtra
from lit_od.images.batching import load
from lit_od.images.sources import Source
from lit_od.runtime.onnx_session import run_unoptimised
from lit_od.types import Images
from tests.support.graphs import graph_of
from tests.support.images import GREY
from tests.support.layered_graph import layered_graph


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    return FloatGraph.read(layered_graph())


@pytest.fixture(scope="module")
def images(digits: list[Source]) -> Images:
    return load(digits[:48], GREY, threads=1)


def weights_of(model: bytes) -> dict[str, np.ndarray]:
    """The int8 constants of a graph, of at least two sides."""
    constants = [numpy_helper.to_array(each) for each in onnx.load_from_string(model).graph.initializer]
    return {str(each.shape): each for each in constants if each.dtype == np.int8 and each.ndim > 1}


@pytest.mark.parametrize("method", METHODS)
def test_features_are_close_to_float_and_independent_of_the_batch(method, graph, images) -> None:
    int8 = Backbone.load(graph.quantised(graph.ranges(images, method)), threads=1)
    wanted = Backbone.load(layered_graph(), threads=1)(images)
    gap = np.linalg.norm(int8(images) - wanted, axis=1)
    assert 0 < np.median(gap) < 0.1 * np.median(np.linalg.norm(wanted - wanted.mean(axis=0), axis=1))
    require_independent(int8, images)


def test_weights_have_as_many_bits_as_asked_and_are_symmetric(graph, images) -> None:
    ranges = graph.ranges(images, "min-max")
    for bits, most in ((7, 64), (8, 127)):
        found = weights_of(graph.quantised(ranges, weight_bits=bits))
        assert set(found) == {"(8, 1, 3, 3)", "(16, 8, 3, 3)", "(16, 16)"}
        assert all(most - 1 <= np.abs(each.astype(int)).max() <= most for each in found.values())


def test_the_weights_of_a_channel_use_its_own_scale(graph, images) -> None:
    """Against plain rounding: each output channel's largest weight has the largest number."""
    found = weights_of(graph.quantised(graph.ranges(images, "min-max"), weight_bits=8))["(8, 1, 3, 3)"]
    weights = next(
        numpy_helper.to_array(each) for each in graph.model.graph.initializer if tuple(each.dims) == (8, 1, 3, 3)
    )
    steps = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(found, np.rint(weights / steps), atol=1)


def test_layers_that_are_kept_stay_in_float(graph, images) -> None:
    assert len(graph.layers) == 3
    assert graph.named(graph.layers) == ("first", "second", "third")
    int8 = graph.quantised(graph.ranges(images, "min-max"), kept=graph.layers[:1])
    assert set(weights_of(int8)) == {"(16, 8, 3, 3)", "(16, 16)"}


def test_errors_by_layer_are_in_order_and_small(graph, images) -> None:
    int8 = graph.quantised(graph.ranges(images, "min-max"))
    errors = graph.layer_errors(int8, images[:2])
    assert [name for name in errors if name in ("second", "first")] == ["first", "second"]
    assert all(0 <= error < 0.2 for error in errors.values())


def test_operators_one_by_one_give_nearly_the_same(graph, images) -> None:
    int8 = graph.quantised(graph.ranges(images, "min-max"))
    fused = Backbone.load(int8, threads=1)(images)
    plain = run_unoptimised(int8, "features", {"images": images})
    np.testing.assert_allclose(plain, fused, atol=0.1 * np.abs(fused).max())


def test_a_graph_without_layers_is_refused() -> None:
    with pytest.raises(BackboneError, match="no layer to quantise: wanted Conv, Gemm, MatMul with weights"):
        FloatGraph.read(graph_of(["errors"], (28, 28, 1)))


def test_an_old_opset_is_refused() -> None:
    model = onnx.load_from_string(layered_graph())
    model.ir_version, model.opset_import[0].version = 7, 12
    with pytest.raises(BackboneError, match="int8 wants a graph of opset 13 or later, got 12: export it anew"):
        FloatGraph.read(model.SerializeToString())


def test_ranges_that_lack_an_activation_are_one_line(graph, images) -> None:
    with pytest.raises(BackboneError, match="cannot be brought to int8: quantisation: "):
        graph.quantised(None)


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r'this needs onnx, which is not installed. Run: pip install "lit-od\[quant'):
        FloatGraph.read(b"")


def test_averages_that_bring_layers_to_one_grid_stay_in_float() -> None:
    patches = FloatGraph.read(
        read_patches("lit_od:tf_efficientnet_lite0", ["blocks.0", "blocks.1"], PatchGrid(5), (32, 32, 3))[0]
    )
    assert len(patches.averages) == 5  # two products a layer, and their concatenation
    assert not set(patches.averages) & set(patches.layers)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    model = onnx.load_from_string(patches.quantised(patches.ranges(images, "min-max")))
    kinds = {each.name: numpy_helper.to_array(each).dtype for each in model.graph.initializer}
    assert {kinds[f"patches_{layer}_{side}"] for layer in range(2) for side in ("left", "right")} == {
        np.dtype(np.float32)
    }
    assert np.dtype(np.int8) in kinds.values()
