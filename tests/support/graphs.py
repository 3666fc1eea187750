"""ONNX graphs that need no torch, and a bundle over one of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from lit_od import Preparation
from lit_od.bundle.folder import Bundle
from lit_od.fitting.fit import Origin
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_writer import ELEMENT_TYPES, Shape, node, port, tensor
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle
from tests.support.images import GREY

FLOAT = ELEMENT_TYPES["float32"]


def file_of(graph: bytes, opset: int = 20, ir_version: int = 10) -> bytes:
    """Return the bytes of an ONNX file around an encoded graph."""
    number, message = onnx_writer.number, onnx_writer.message
    return number(1, ir_version) + message(8, number(2, opset)) + message(7, graph)


def model_bytes(
    nodes: Sequence[bytes], shape: Shape, outputs: Mapping[str, Shape], constants: Mapping[str, np.ndarray]
) -> bytes:
    """Return an ONNX file that reads `images`, uint8.

    Args:
        nodes: The graph's operators, as `onnx_writer.node` encodes them, in their order.
        shape: Shape of an image, (h, w, c); a name is a size that is free.
        outputs: Shape of each output for an image; the outputs are float32.
        constants: Arrays that the nodes name.
    """
    graph = onnx_writer.graph(
        nodes,
        [port("images", np.uint8, ["n", *shape])],
        [port(name, np.float32, ["n", *each]) for name, each in outputs.items()],
        initializers=[tensor(name, np.asarray(value)) for name, value in constants.items()],
    )
    return file_of(graph)


def features_graph() -> bytes:
    """Return a backbone: 28x28 grey pixels, averaged over 4x4 blocks, to 16 features by fixed random weights."""
    weights = np.random.default_rng(0).normal(size=(49, 16)).astype(np.float32)
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["planes"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "weights"], ["sums"]),
        node("Mul", ["sums", "scale"], ["scaled"]),
        node("Tanh", ["scaled"], ["features"]),
    ]
    return model_bytes(nodes, (28, 28, 1), {"features": (16,)}, {"weights": weights, "scale": np.float32(1 / 500)})


def centred_graph() -> bytes:
    """Return what is no backbone: the pixels of 28x28 grey images less their mean over the batch."""
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Flatten", ["floats"], ["flat"]),
        node("ReduceMean", ["flat", "first"], ["mean"], keepdims=1),
        node("Sub", ["flat", "mean"], ["features"]),
    ]
    return model_bytes(nodes, (28, 28, 1), {"features": (784,)}, {"first": np.array([0])})


def graph_of(outputs: Sequence[str], shape: Shape = ("h", "w", 1), *, picture: np.ndarray | float = 0.5) -> bytes:
    """Return a graph that reconstructs every image as one picture, mid grey unless another is given.

    Args:
        outputs: `errors`, the squared differences from the picture, and `reconstruction`, both or one.
        shape: Shape of an image, (h, w, c).
        picture: Pixels from 0 to 1, a number or of shape (h, w, c).
    """
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Div", ["floats", "white"], ["pixels"]),
        node("Sub", ["pixels", "picture"], ["gaps"]),
        node("Mul", ["gaps", "gaps"], ["errors"]),
        node("Sub", ["pixels", "gaps"], ["reconstruction"]),
    ]
    return model_bytes(
        nodes,
        shape,
        dict.fromkeys(outputs, shape),
        {"white": np.float32(255), "picture": np.asarray(picture, np.float32)},
    )


def bundle_at(
    out: Path, digits: Sequence[Source], maps: bytes | None, calibration: Sequence[Source] | None = None
) -> Bundle:
    """Fit a bundle that scores the distance to mid grey.

    Args:
        out: The bundle's folder.
        digits: The first twenty fit it, the next hundred calibrate it.
        maps: Its second graph, or None.
        calibration: Other images that calibrate it.
    """
    return make_bundle(
        out,
        model=graph_of(["errors"], (28, 28, 1)),
        maps=maps,
        preparation=GREY,
        fit=digits[:20],
        calibration=calibration or digits[20:120],
        detector={"kind": "reconstruction"},
        rule={"rule": "percentile", "q": 99},
        origin=Origin(name="grey"),
        threads=1,
    )


def patches_graph() -> bytes:
    """Return a backbone: 28x28 grey pixels to a grid of 7x7 patches of four filters."""
    kernels = np.zeros((4, 1, 4, 4), np.float32)
    kernels[0] = 1 / 16
    kernels[1, :, :2], kernels[1, :, 2:] = 1 / 8, -1 / 8
    kernels[2, ..., :2], kernels[2, ..., 2:] = 1 / 8, -1 / 8
    kernels[3, :, ::2] = 1 / 8
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "kernels"], ["cells"], strides=[4, 4]),
        node("Transpose", ["cells"], ["patches"], perm=[0, 2, 3, 1]),
    ]
    return model_bytes(nodes, (28, 28, 1), {"patches": (7, 7, 4)}, {"kernels": kernels})


def patch_bundle(
    out: Path,
    digits: Sequence[Source],
    preparation: Preparation = GREY,
    detector: Mapping[str, object] | None = None,
) -> Bundle:
    """Fit a bundle over patches.

    Args:
        out: The bundle's folder.
        digits: The first hundred fit it, the next hundred calibrate it.
        preparation: Preparation of images to 28x28 grey pixels.
        detector: Kind and options; a small memory bank unless given.
    """
    return make_bundle(
        out,
        model=patches_graph(),
        preparation=preparation,
        fit=digits[:100],
        calibration=digits[100:200],
        detector=detector or {"kind": "patchcore", "coreset": 60},
        rule={"rule": "percentile", "q": 90},
        origin=Origin(name="patches"),
        threads=1,
    )


def float_graph(
    layout: str = "nchw",
    outputs: Mapping[str, int] | None = None,
    *,
    kind: DTypeLike = np.float32,
    batch: int | str = "n",
    opset: int = 20,
) -> bytes:
    """Return a float network, as others export them: colour images to `maps`, `pooled` and `logits`.

    Args:
        layout: "nchw", or "nhwc", whose maps are (n, h, w, c) too.
        outputs: Outputs of the graph, with the number of their sides; `logits` alone unless given.
        kind: Element type of input, weights and outputs.
        batch: First side of the input.
        opset: Operator set.
    """
    random = np.random.default_rng(0)
    constants = {
        "kernels": random.normal(size=(4, 3, 3, 3)).astype(kind) / 3,
        "weights": random.normal(size=(4, 5)).astype(kind),
    }
    turned = layout == "nhwc"
    first, last = ([0, 3, 1, 2], [0, 2, 3, 1]) if turned else ([0, 1, 2, 3], [0, 1, 2, 3])
    nodes = [
        node("Transpose", ["image"], ["x"], perm=first),
        node("Conv", ["x", "kernels"], ["cells"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Tanh", ["cells"], ["features"]),
        node("Transpose", ["features"], ["maps"], perm=last),
        node("GlobalAveragePool", ["features"], ["averaged"]),
        node("Flatten", ["averaged"], ["pooled"]),
        node("MatMul", ["pooled", "weights"], ["logits"]),
    ]
    shape: Shape = [batch, "h", "w", 3] if turned else [batch, 3, "h", "w"]
    graph = onnx_writer.graph(
        nodes,
        [port("image", kind, shape)],
        [port(name, kind, [None] * sides) for name, sides in (outputs or {"logits": 2}).items()],
        initializers=[tensor(name, value) for name, value in constants.items()],
    )
    return file_of(graph, opset, ir_version=8)
