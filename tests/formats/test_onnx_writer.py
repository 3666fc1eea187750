"""Graphs written without the onnx package, as the onnx package reads them."""

import numpy as np
import onnx
import pytest

from lit_od.formats import onnx_writer
from lit_od.runtime.onnx_session import Session


def test_onnx_reads_what_is_written() -> None:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    graph = onnx_writer.model(
        [
            onnx_writer.node("MatMul", ["x", "weights"], ["product"]),
            onnx_writer.node("LeakyRelu", ["product"], ["steep"], alpha=0.25),
            onnx_writer.node("Transpose", ["steep"], ["turned"], perm=[1, 0]),
            onnx_writer.node("Constant", [], ["two"], value=np.array([2.0], np.float32)),
            onnx_writer.node("Mul", ["turned", "two"], ["y"]),
        ],
        [onnx_writer.port("x", np.float32, ("n", 3))],
        [onnx_writer.port("y", np.float32, (4, None))],
        initializers=[onnx_writer.tensor("weights", weights)],
        metadata={"made": "für Ärzte"},
    )
    read = onnx.load_from_string(graph)
    onnx.checker.check_model(read, full_check=True)
    assert {each.key: each.value for each in read.metadata_props} == {"made": "für Ärzte"}
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    product = x @ weights
    expected = 2 * np.where(product < 0, 0.25 * product, product).T
    np.testing.assert_array_equal(Session(graph).opened.run(None, {"x": x})[0], expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"])
def test_tensors_keep_their_values(dtype: str) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    read = onnx.TensorProto.FromString(onnx_writer.tensor("a", array))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(read), array)
    assert read.name == "a"


@pytest.mark.parametrize("value", [-1, 0, 300, 2.5, "linear", [1, -2, 300], [0.5, -1.5]])
def test_attributes_keep_their_values(value: onnx_writer.Attribute) -> None:
    read = onnx.NodeProto.FromString(onnx_writer.node("Any", ["", "b"], ["c"], value=value))
    got = onnx.helper.get_attribute_value(read.attribute[0])
    assert (got.decode() if isinstance(got, bytes) else list(got) if isinstance(value, list) else got) == value
    assert list(read.input) == ["", "b"]
