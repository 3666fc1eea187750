"""Patches: weights of a grid against a plain form, and graphs cut to give them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file, read_patches
from lit_od.backbone.patches import PatchGrid, patch_graph, place_weights, tensors_of
from lit_od.errors import BackboneError, ConfigError
from lit_od.images.preparation import prepare
from lit_od.images.sources import Source
from tests.support.graphs import features_graph, graph_of
from tests.support.images import GREY

SHIPPED = "lit_od:tf_efficientnet_lite0"
LAYERS = {"blocks.1": "add_100", "blocks.2": "add_156", "blocks.4": "add_330"}


def plain_pooling(maps: NDArray[np.float32], grid: tuple[int, int], side: int) -> NDArray[np.float64]:
    """Bring maps (n, c, h, w) to a grid and average neighbours, place by place, (n, gh, gw, c)."""
    n, c, h, w = maps.shape
    brought = np.empty((n, c, *grid))
    for i in range(grid[0]):
        for j in range(grid[1]):
            rows, columns = (taken(k, length, places) for k, length, places in ((i, h, grid[0]), (j, w, grid[1])))
            brought[:, :, i, j] = sum(maps[:, :, y, x] * a * b for y, a in rows for x, b in columns)
    averaged = np.empty((n, *grid, c))
    for i in range(grid[0]):
        for j in range(grid[1]):
            reach = side // 2
            near = brought[:, :, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
            averaged[:, i, j] = near.mean(axis=(2, 3))
    return averaged


def taken(place: int, length: int, places: int) -> list[tuple[int, float]]:
    """Return positions and weights of what one place of an axis takes."""
    if places <= length:
        cell = range(int(np.floor(place * length / places)), int(np.ceil((place + 1) * length / places)))
        return [(at, 1 / len(cell)) for at in cell]
    at = min(max((place + 0.5) * length / places - 0.5, 0.0), length - 1.0)
    low = int(at)
    return [(low, 1 - (at - low)), (min(low + 1, length - 1), at - low)]


@settings(max_examples=40)
@given(
    length=st.integers(1, 12), width=st.integers(1, 12), rows=st.integers(1, 12), columns=st.integers(1, 12),
    side=st.sampled_from([1, 3, 5]), seed=st.integers(0, 9),
)  # fmt: skip
def test_weights_average_and_enlarge_as_the_plain_form(
    length: int, width: int, rows: int, columns: int, side: int, seed: int
) -> None:
    maps = np.random.default_rng(seed).normal(size=(2, 3, length, width)).astype(np.float32)
    left, right = place_weights(length, rows, side), place_weights(width, columns, side)
    got = np.einsum("ih,nchw,jw->nijc", left, maps, right)
    np.testing.assert_allclose(got, plain_pooling(maps, (rows, columns), side), atol=1e-5)
    np.testing.assert_allclose(left.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("size", "grid"), [((64, 64), None), ((61, 97), (7, 9))])
def test_the_packaged_backbone_gives_patches(size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    whole = onnx.load(backbone_file(SHIPPED))
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in LAYERS.values())
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    maps = session.run(list(LAYERS.values()), {"images": images})
    assert [each.shape[1] for each in maps] == [24, 40, 112]
    places = grid or maps[1].shape[2:]
    wanted = np.concatenate([plain_pooling(each, places, 3) for each in maps], axis=3)

    model, opset = read_patches(SHIPPED, [*LAYERS], PatchGrid(grid), (*size, 3))
    backbone = Backbone.load(model, threads=1, providers=["cpu"])
    assert (backbone.output, backbone.image_shape, opset) == ("patches", (*size, 3), 20)
    got = backbone(images)
    assert (got.shape, got.dtype) == ((3, *places, 176), np.float32)
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(backbone(images[1:2])[0], got[1], atol=1e-5 * np.abs(wanted).max())
    assert len(model) < backbone_file(SHIPPED).stat().st_size / 4


def test_layers_lie_side_by_side_in_their_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    one, two = (
        Backbone.load(read_patches(SHIPPED, layers, PatchGrid(4), (32, 32, 3))[0], threads=1)(images)
        for layers in (["blocks.2", "blocks.1"], ["blocks.1", "blocks.2"])
    )
    np.testing.assert_allclose(one[..., :40], two[..., 24:], atol=1e-5)
    np.testing.assert_allclose(one[..., 40:], two[..., :24], atol=1e-5)


def test_the_middle_layer_gives_the_grid() -> None:
    sizes = {"a": (8, 6), "b": (32, 24), "c": (16, 12)}
    assert PatchGrid().shape(sizes) == (16, 12)
    assert PatchGrid().shape({**sizes, "d": (4, 3)}) == (16, 12)
    assert PatchGrid(9).shape(sizes) == (9, 9)
    assert PatchGrid([9, 24]).shape(sizes) == (9, 24)


def test_a_file_of_ones_own_is_cut_by_the_names_of_its_tensors(digits: list[Source]) -> None:
    model = features_graph()
    images = np.stack([prepare(source.decode(), GREY) for source in digits[:3]])
    tensors = tensors_of(model, ["pooled"], None)
    backbone = Backbone.load(patch_graph(model, tensors, PatchGrid(7, 1), (28, 28, 1)), threads=1)
    blocks = images[..., 0].reshape(3, 7, 4, 7, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(backbone(images)[..., 0], blocks, rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "grid", "shape", "message"),
    [
        (["blocks.9"], None, (64, 64, 3), r"no layer 'blocks\.9': there are blocks\.0, .*, blocks\.6$"),
        ([], None, (64, 64, 3), r"patches need at least one layer: there are blocks\.0"),
        (["blocks.1", "blocks.1"], None, (64, 64, 3), r"layer 'blocks\.1' is named twice"),
        (["blocks.2"], 9, (64, 64, 3), r"a grid of 9x9 is finer than the finest layer, blocks\.2 with 8x8 places: "),
        (["blocks.1"], [4, 28], (16, 16, 3), r"a grid of 4x28 is finer .* blocks\.1 with 4x4 places: .*larger images"),
    ],
)
def test_layers_and_grids_that_do_not_exist_are_refused(
    layers: list[str], grid: int | list[int] | None, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_patches(SHIPPED, layers, PatchGrid(grid), shape)
    assert "\n" not in str(caught.value)


def test_grey_images_and_other_graphs_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"prepared to \(64, 64, 1\) \(h, w, c\), the graph takes any, any, 3"):
        read_patches(SHIPPED, [*LAYERS], PatchGrid(), (64, 64, 1))
    with pytest.raises(ConfigError, match="no layer 'conv': there are floats, planes, pooled, flat, sums, scaled"):
        tensors_of(features_graph(), ["conv"], None)
    with pytest.raises(BackboneError, match=r"layer flat gives float32 \(1, 49\) for one image, wanted maps"):
        patch_graph(features_graph(), {"flat": "flat"}, PatchGrid(), (28, 28, 1))
    words = onnx.load_from_string(graph_of(["errors"]))
    words.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    with pytest.raises(BackboneError, match=r"one input, uint8 \(n, h, w, c\); this one has images"):
        patch_graph(words.SerializeToString(), {"floats": "floats"}, PatchGrid(), (28, 28, 1))


@pytest.mark.parametrize("size", [0, -1, True, 2.0, [], [4], [1, 2, 3], [4, 0], "4"])
def test_grids_that_are_no_numbers_of_places_are_refused(size: object) -> None:
    with pytest.raises(ConfigError, match="grid must be a number of places or"):
        PatchGrid(size)  # type: ignore[arg-type]  # the check is of that


@pytest.mark.parametrize("side", [0, 2, -3, True, 1.0])
def test_neighbourhoods_are_odd(side: object) -> None:
    with pytest.raises(ConfigError, match="neighbourhood must be an odd number, at least 1"):
        PatchGrid(4, side)  # type: ignore[arg-type]  # as above
