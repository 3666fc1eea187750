"""A small backbone with several layers, for tests of int8."""

import numpy as np
from onnx import TensorProto, helper

from tests.support.graphs import model_bytes


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
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "white"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "first"], ["one"], **convolution),
        helper.make_node("Relu", ["one"], ["rectified"]),
        helper.make_node("Conv", ["rectified", "second"], ["two"], **convolution),
        helper.make_node("Relu", ["two"], ["again"]),
        helper.make_node("GlobalAveragePool", ["again"], ["averaged"]),
        helper.make_node("Flatten", ["averaged"], ["flat"]),
        helper.make_node("MatMul", ["flat", "third"], ["features"]),
    ]
    return model_bytes(nodes, (28, 28, 1), {"features": (16,)}, constants)
