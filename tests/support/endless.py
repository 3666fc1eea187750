"""A graph that never ends."""

import numpy as np

from lit_od.formats import onnx_writer
from lit_od.formats.onnx_writer import node, port
from tests.support.graphs import FLOAT, model_bytes


def endless_graph() -> bytes:
    """A backbone for 2x2 grey images whose loop never ends."""
    body = onnx_writer.graph(
        [node("Identity", ["more"], ["again"]), node("Add", ["sum", "one"], ["next"])],
        [port("step", np.int64, []), port("more", np.bool_, []), port("sum", np.float32, ["n", 4])],
        [port("again", np.bool_, []), port("next", np.float32, ["n", 4])],
    )
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Flatten", ["floats"], ["flat"]),
        node("Loop", ["", "true", "flat"], ["features"], body=body),
    ]
    constants = {"true": np.array(True), "one": np.array(1, np.float32)}
    return model_bytes(nodes, (2, 2, 1), {"features": (4,)}, constants)
