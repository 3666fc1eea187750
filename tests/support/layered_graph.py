"""A small backbone with several layers, for tests of int8."""

import numpy as np

from lit_od.formats.onnx_writer import node
from tests.support.graphs import FLOAT, model_bytes


def layered_graph() -> bytes:
    """Return a backbone: 28x28 grey pixels through two convolutions and a product to 16 features."""
    random = np.random.default_rng(0)
    constants = {
        "white": np.float32(255),
        "first": random.normal(size=(8, 1, 3, 3)).astype(np.float32) / 3,
        "second": random.normal(size=(16, 8, 3, 3)).astype(np.float32) / 8,
        "third": random.normal(size=(16, 16)).astype(np.float32) / 4,
    }
    convolution = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("Div", ["planes", "white"], ["pixels"]),
        node("Conv", ["pixels", "first"], ["one"], **convolution),
        node("Relu", ["one"], ["rectified"]),
        node("Conv", ["rectified", "second"], ["two"], **convolution),
        node("Relu", ["two"], ["again"]),
        node("GlobalAveragePool", ["again"], ["averaged"]),
        node("Flatten", ["averaged"], ["flat"]),
        node("MatMul", ["flat", "third"], ["features"]),
    ]
    return model_bytes(nodes, (28, 28, 1), {"features": (16,)}, constants)
