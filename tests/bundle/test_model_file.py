"""Model files as strangers may send them: damaged, edited, or none at all."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lit_od import Bundle, Scorer
from lit_od.bundle import manifest as manifests
from lit_od.bundle.model_file import open_bundle, open_graph
from lit_od.deploy.one_file import compile_bundle
from lit_od.errors import BackboneError, BundleError
from lit_od.formats import safetensors_file as safetensors

Change = Callable[[onnx.ModelProto], Any]


def test_files_that_are_none_are_refused_in_one_line(made_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = compile_bundle(made_bundle, path)
    plain = onnx.load(path)
    del plain.metadata_props[:]
    for content, message in (
        (data[: len(data) // 2], "damaged"),
        (b"", "holds no graph"),
        (plain.SerializeToString(), "none that lit_od compiled"),
    ):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=message):
            Scorer.load(path)


def initializer(name: str, value: Any) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        (tensor,) = (each for each in graph.graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))

    return change


def manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    def changed(graph: onnx.ModelProto) -> None:
        tree = json.loads(graph.metadata_props[0].value)
        change(tree)
        graph.metadata_props[0].value = json.dumps({**tree, "sha256": manifests._own_hash({**tree, "sha256": ""})})

    return changed


def golden(change: Callable[[dict[str, Any]], Any]) -> Change:
    def changed(graph: onnx.ModelProto) -> None:
        arrays = safetensors.load(base64.b64decode(graph.metadata_props[1].value))
        change(arrays)
        graph.metadata_props[1].value = base64.b64encode(safetensors.save(arrays)).decode()

    return changed


def side(number: int, length: int) -> Change:
    return lambda graph: setattr(graph.graph.input[0].type.tensor_type.shape.dim[number], "dim_value", length)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: setattr(graph.metadata_props[1], "value", "%%%"), "golden images are damaged"),
        (golden(lambda arrays: arrays.pop("pixels")), "lacks the array 'pixels'"),
        (golden(lambda arrays: arrays.pop("file.0")), "lacks the array 'file.0'"),
        (
            golden(lambda arrays: arrays.update(scores=arrays["scores"][:0])),
            "'scores' must be F64 .7., got F64 .0",
        ),
        (initializer("threshold", np.float32(1)), "'threshold' must be finite float64"),
        (initializer("threshold", np.nan), "'threshold' must be finite float64"),
        (initializer("threshold", [1.0]), "'threshold' must be finite float64"),
        (initializer("calibration", np.arange(100.0)[::-1]), "calibration must be finite and ascending"),
        (initializer("calibration", np.arange(99.0)), "99 values of calibration, the manifest says 400 images"),
        (initializer("calibration", np.arange(100.0) * 1e149), "calibration must lie within 1e.150"),
        (manifest(lambda tree: tree["calibration"].update(rule={})), "unknown threshold rule"),
        (
            manifest(lambda tree: tree["preparation"].update(resize="graph")),
            "its manifest says .n, any, any, 1",
        ),
        (side(1, 30), r"has the input shape \(n, 30, 28, 1\)"),
        (lambda graph: graph.graph.input[0].type.tensor_type.ClearField("shape"), "has the input shape .unknown"),
        (lambda graph: setattr(graph.graph.input[0].type.tensor_type, "elem_type", 1), "'image' must be uint8"),
        (lambda graph: setattr(graph.graph.output[2].type.tensor_type, "elem_type", 8), "'is_outlier' must be bool"),
        (lambda graph: graph.graph.ClearField("output"), "this one has 1 and gives none"),
        (
            lambda graph: graph.graph.initializer.append(numpy_helper.from_array(np.array(1.0), "pixel_threshold")),
            "gives score, p_value, is_outlier, map; this one has 1 and gives score, p_value, is_outlier",
        ),
    ],
)
def test_what_was_edited_amiss_is_refused_in_one_line(
    made_bundle: Bundle, tmp_path: Path, change: Change, message: str
) -> None:
    path = tmp_path / "model.onnx"
    compile_bundle(made_bundle, path)
    graph = onnx.load(path)
    change(graph)
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(BundleError, match=message) as caught:
        Scorer.load(path)
    assert str(caught.value).isprintable()


def test_a_graph_that_gives_other_than_a_value_an_image_is_refused(made_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    compile_bundle(made_bundle, path)
    graph = onnx.load(path)
    (last,) = (node for node in graph.graph.node if node.output[0] == "is_outlier")
    last.output[0] = "once"
    graph.graph.node.append(onnx.helper.make_node("Concat", ["once", "once"], ["is_outlier"], axis=0))
    onnx.save(graph, path)
    with pytest.raises(BackboneError, match=r"gives is_outlier of shape \(6,\) for 3 images"):
        open_graph(open_bundle(path))(np.zeros((3, 28, 28, 1), np.uint8))
