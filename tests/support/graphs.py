"""ONNX graphs that need no torch, and a bundle over one of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lit_od import Preparation
from lit_od.bundle.folder import Bundle
from lit_od.fitting.fit import Origin
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle
from tests.support.images import GREY

Shape = tuple[int | str, ...]


def model_bytes(
    nodes: Sequence[NodeProto], shape: Shape, outputs: Mapping[str, Shape], constants: Mapping[str, np.ndarray]
) -> bytes:
    """Return an ONNX file that reads `images`, uint8.

    Args:
        nodes: The graph's operators, in their order.
        shape: Shape of an image, (h, w, c); a name is a size that is free.
        outputs: Shape of each output for an image; the outputs are float32.
        constants: Arrays that the nodes name.
    """
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *each]) for name, each in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def features_graph() -> bytes:
    """Return a backbone: 28x28 grey pixels, averaged over 4x4 blocks, to 16 features by fixed random weights."""
    weights = np.random.default_rng(0).normal(size=(49, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
        helper.make_node("Mul", ["sums", "scale"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["features"]),
    ]
    return model_bytes(nodes, (28, 28, 1), {"features": (16,)}, {"weights": weights, "scale": np.float32(1 / 500)})


def centred_graph() -> bytes:
    """Return what is no backbone: the pixels of 28x28 grey images less their mean over the batch."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "first"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["flat", "mean"], ["features"]),
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
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "white"], ["pixels"]),
        helper.make_node("Sub", ["pixels", "picture"], ["gaps"]),
        helper.make_node("Mul", ["gaps", "gaps"], ["errors"]),
        helper.make_node("Sub", ["pixels", "gaps"], ["reconstruction"]),
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
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernels"], ["cells"], strides=[4, 4]),
        helper.make_node("Transpose", ["cells"], ["patches"], perm=[0, 2, 3, 1]),
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
    kind: int = TensorProto.FLOAT,
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
    random, number = np.random.default_rng(0), helper.tensor_dtype_to_np_dtype(kind)
    constants = {
        "kernels": random.normal(size=(4, 3, 3, 3)).astype(number) / 3,
        "weights": random.normal(size=(4, 5)).astype(number),
    }
    turned = layout == "nhwc"
    first, last = ([0, 3, 1, 2], [0, 2, 3, 1]) if turned else ([0, 1, 2, 3], [0, 1, 2, 3])
    nodes = [
        helper.make_node("Transpose", ["image"], ["x"], perm=first),
        helper.make_node("Conv", ["x", "kernels"], ["cells"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["cells"], ["features"]),
        helper.make_node("Transpose", ["features"], ["maps"], perm=last),
        helper.make_node("GlobalAveragePool", ["features"], ["averaged"]),
        helper.make_node("Flatten", ["averaged"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "weights"], ["logits"]),
    ]
    shape = [batch, "h", "w", 3] if turned else [batch, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("image", kind, shape)],
        [
            helper.make_tensor_value_info(name, kind, [None] * sides)
            for name, sides in (outputs or {"logits": 2}).items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
