"""The session's home: what graph it takes, what images, which providers; and what it says without ONNX Runtime."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.errors import BackboneError, ConfigError
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import Source, Unreadable
from lit_od.runtime.onnx_session import PROVIDERS
from tests.support.images import GREY

CPU = "CPUExecutionProvider"


def graph(
    *,
    inputs: list[tuple[str, int, list[Any]]] | None = None,
    outputs: list[str] | None = None,
    nodes: list[onnx.NodeProto] | None = None,
) -> bytes:
    """A graph that casts its input to float, with whatever inputs and outputs it is told to have."""
    inputs = [("images", TensorProto.UINT8, ["n", 4, 4, 1])] if inputs is None else inputs
    outputs = ["errors"] if outputs is None else outputs
    nodes = [helper.make_node("Cast", [inputs[0][0]], [name], to=1) for name in outputs] if nodes is None else nodes
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    data: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return data


def literal_features(small_graph: bytes, images: np.ndarray) -> np.ndarray:
    """What the small graph of the tests computes, in float64."""
    model = onnx.load_from_string(small_graph)
    weights = {each.name: numpy_helper.to_array(each).astype(np.float64) for each in model.graph.initializer}
    blocks = images[..., 0].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
    return np.tanh(blocks @ weights["weights"] * weights["scale"])


def test_a_graph_computes_what_it_says(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    images = np.stack([prepare(source.decode(), GREY) for source in digits[:5]])
    (tmp_path / "backbone.onnx").write_bytes(small_graph)
    for model in (small_graph, tmp_path / "backbone.onnx"):
        backbone = Backbone.load(model, threads=1, providers=["cpu"])
        assert (backbone.input, backbone.output, backbone.provider) == ("images", "features", CPU)
        assert backbone.image_shape == (28, 28, 1)
        features = backbone(images)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, literal_features(small_graph, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 28, 28, 3), np.uint8),
        np.zeros((1, 28, 27, 1), np.uint8),
        np.zeros((28, 28, 1), np.uint8),
        np.zeros((1, 28, 28, 1), np.float32),
    ],
)
def test_other_images_are_refused(small_graph: bytes, images: np.ndarray) -> None:
    with pytest.raises(BackboneError, match=r"the graph takes uint8 \(n, 28, 28, 1\), got "):
        Backbone.load(small_graph)(images)


def test_a_graph_may_take_any_size() -> None:
    backbone = Backbone.load(graph(inputs=[("images", TensorProto.UINT8, ["n", "h", "w", 3])]))
    assert backbone.image_shape == (None, None, 3)
    Extractor(backbone, Preparation(size=(9, 11)))
    assert backbone(np.zeros((2, 9, 11, 3), np.uint8)).shape == (2, 9, 11, 3)
    with pytest.raises(BackboneError, match=r"takes uint8 \(n, any, any, 3\), got uint8 \(2, 9, 11, 1\)"):
        backbone(np.zeros((2, 9, 11, 1), np.uint8))
    with pytest.raises(BackboneError, match=r"images are prepared to \(9, 11, 1\) \(h, w, c\), the graph takes"):
        Extractor(backbone, Preparation(size=(9, 11), mode="grey"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"inputs": [("images", 1, ["n", 4, 4, 1])]},
            r"takes one input, uint8 .* takes tensor\(float\) \['n', 4, 4, 1\]",
        ),
        ({"inputs": [("images", 2, ["n", 4])]}, r"takes one input, uint8 .* takes tensor\(uint8\) \['n', 4\]"),
        (
            {"inputs": [("images", 2, ["n", 4, 4, 1]), ("more", 2, ["n", 4, 4, 1])]},
            r"takes one input, uint8 .* takes tensor\(uint8\) .*, tensor\(uint8\)",
        ),
        ({"outputs": ["logits"]}, r'gives one output, "features", "errors" or "patches"; this graph gives logits'),
        ({"outputs": ["features", "errors"]}, r"this graph gives features, errors"),
        ({"inputs": [("images", 2, ["n", 3, "h", "w"])]}, r"takes \['n', 3, 'h', 'w'\], channels first"),
        ({"inputs": [("images", 2, ["n", 1, 32, 32])]}, r"takes \['n', 1, 32, 32\], channels first"),
        ({"inputs": [("images", 2, [8, 4, 4, 1])]}, "takes any number of images; this graph takes 8"),
    ],
)
def test_a_graph_that_is_no_backbone_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Backbone.load(graph(**changes))


@pytest.mark.parametrize("model", [b"", b"not a graph", Path("/nowhere/backbone.onnx")])
def test_what_is_no_graph_is_refused_in_one_line(model: bytes | Path) -> None:
    with pytest.raises(BackboneError, match=r"^the graph cannot be loaded: [^\n]+$"):
        Backbone.load(model)


@pytest.mark.parametrize("name", [b"images", b"features", b"MatMul"])
def test_names_that_are_not_unicode_are_refused(
    small_graph: bytes, name: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackboneError, match="it has a name that is not Unicode"):
        Backbone.load(small_graph.replace(name, b"\xff" + name[1:]))
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_says_so_in_one_line() -> None:
    broken = [
        helper.make_node("Cast", ["images"], ["floats"], to=1),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([-1, 7]))),
        helper.make_node("Reshape", ["floats", "shape"], ["features"]),
    ]
    backbone = Backbone.load(graph(outputs=["features"], nodes=broken))
    with pytest.raises(BackboneError, match=r"^the graph failed: [^\n]+$"):
        backbone(np.zeros((2, 4, 4, 1), np.uint8))


@pytest.mark.parametrize(
    ("output", "shape", "message"),
    [
        (
            "features",
            [-1, 8],
            r"gives features \(n, d\), a row an image; this graph gives \(4, 8\) for images \(2, 4, 4, 1\)",
        ),
        ("features", [0, 4, 4], r"a row an image; this graph gives \(2, 4, 4\)"),
        ("features", [1, -1], r"a row an image; this graph gives tensor\(float\) \[1, 'a'\]"),
        ("errors", [0, 2, 8, 1], r"gives errors \(n, h, w, c\), a row an image; this graph gives \(2, 2, 8, 1\)"),
    ],
)
def test_outputs_that_are_no_row_an_image_are_refused(output: str, shape: list[int], message: str) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=1),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array(shape))),
        helper.make_node("Reshape", ["floats", "shape"], [output]),
    ]
    made = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 4, 4, 1])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["m", *("abc"[: len(shape) - 1])])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    with pytest.raises(BackboneError, match=message if len(shape) != 3 else r"features \(n, d\), floating point"):
        Backbone.load(model)(np.zeros((2, 4, 4, 1), np.uint8))


def test_a_batch_without_a_readable_image_does_not_run_the_graph() -> None:
    """Graphs exist that refuse zero images: here by reshaping to (n, -1), which has no answer for n = 0."""
    flat = [
        helper.make_node("Cast", ["images"], ["floats"], to=1),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([0, -1]))),
        helper.make_node("Reshape", ["floats", "shape"], ["features"]),
    ]
    backbone = Backbone.load(graph(outputs=["features"], nodes=flat))
    with pytest.raises(BackboneError, match="the graph failed"):
        backbone(np.zeros((0, 4, 4, 1), np.uint8))
    (found,) = Extractor(backbone, Preparation(size=(4, 4), mode="grey")).outputs([Unreadable("a", "b")])
    assert list(found.batch.errors) == [0]
    assert len(found.outputs) == 0


# Providers and threads


def test_a_provider_that_is_absent_is_refused(small_graph: bytes) -> None:
    with pytest.raises(ConfigError, match=r"provider TensorrtExecutionProvider is not .* here are cpu.*lit-od\[gpu\]"):
        Backbone.load(small_graph, providers=["tensorrt"])
    with pytest.raises(ConfigError, match=r"provider magic is not in this ONNX Runtime; here are cpu$"):
        Backbone.load(small_graph, providers=["cpu", "magic"])
    with pytest.raises(ConfigError, match="providers must name at least one"):
        Backbone.load(small_graph, providers=[])
    assert (
        Backbone.load(small_graph, providers=[CPU]).provider == Backbone.load(small_graph, providers=["CPU"]).provider
    )


def test_the_gpu_is_taken_where_it_is(small_graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake runtime that has CUDA: taken unasked where it starts; refused where it was asked for and does not."""

    class Session:
        def __init__(self, model: bytes, options: object, providers: list[str], **further: int) -> None:
            if fails and providers[0] != CPU:
                raise RuntimeError("no CUDA-capable device")
            self.real = real(model, options, providers=[CPU])
            self.asked = providers

        def get_providers(self) -> list[str]:
            return self.asked if starts else [CPU]

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDERS["cuda"], CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    starts, fails = True, False
    loaded = Backbone.load(small_graph)
    assert loaded.provider == PROVIDERS["cuda"]
    assert loaded.session.asked == [PROVIDERS["cuda"], CPU]
    assert Backbone.load(small_graph, providers=["cpu"]).session.asked == [CPU]
    starts = False
    assert Backbone.load(small_graph).provider == CPU
    fails = True
    assert Backbone.load(small_graph).provider == CPU
    with pytest.raises(BackboneError, match="the graph cannot be loaded: no CUDA-capable device"):
        Backbone.load(small_graph, providers=["cuda"])
    fails = False
    with pytest.raises(ConfigError, match="provider CUDAExecutionProvider did not start; it needs its drivers"):
        Backbone.load(small_graph, providers=["cuda"])


def test_threads_are_the_sessions(small_graph: bytes) -> None:
    backbone = Backbone.load(small_graph, threads=1)
    assert backbone.session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        Backbone.load(small_graph, threads=0)


def test_without_onnx_runtime_both_pip_lines_are_named() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from lit_od.backbone.model import Backbone; from lit_od.errors import MissingExtra\n"
        "try: Backbone.load(b'')\n"
        "except MissingExtra as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == (
        'this needs ONNX Runtime, which is not installed. Run: pip install "lit-od[cpu]" or "lit-od[gpu]"\n'
    )
