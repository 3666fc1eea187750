"""Put a prefix before the names of an ONNX graph's tensors and nodes.

Nodes can then be added to it, whatever names it has.
"""

from lit_od.formats.onnx_cut import CutGraph
from lit_od.formats.onnx_writer import field
from lit_od.formats.protobuf import BYTES, Wire

_NAMED: dict[str, dict[int, str]] = {
    "node": {1: "name", 2: "name", 3: "name", 5: "attribute"},
    "attribute": {6: "graph", 11: "graph"},
    "graph": {1: "node", 5: "tensor", 11: "port", 12: "port"},
    "tensor": {8: "name"},
    "port": {1: "name"},
}
"""The fields that hold names of tensors and nodes, or messages with such fields."""

_DROPPED = (13, 14)
"""Fields of an inner graph that say what runtimes infer anyway: shapes of tensors and notes on quantisation."""


def prefixed(part: CutGraph, prefix: str) -> CutGraph:
    """Return a part of a graph with a prefix before all names of tensors and nodes.

    Those of inner graphs get it too.
    """
    first = prefix.encode()
    return CutGraph(
        tuple(_prefixed(node, "node", first) for node in part.nodes),
        tuple(_prefixed(tensor, "tensor", first) for tensor in part.initializers),
        part.header,
    )


def _prefixed(data: bytes, kind: str, prefix: bytes) -> bytes:
    """Return an encoded message with a prefix before its names.

    An empty name stands for none, and stays.
    """
    named, parts = _NAMED[kind], []
    for number, wire, start, stop in Wire(data).fields((0, len(data))):
        content = data[start:stop] if wire == BYTES else b""
        if wire == BYTES and number in named:
            inner = named[number]
            if inner != "name":
                content = _prefixed(content, inner, prefix)
            elif content:
                content = prefix + content
        elif kind == "graph" and number in _DROPPED:
            continue
        parts.append(field(number, wire, content if wire == BYTES else data[start:stop], start))
    return b"".join(parts)
