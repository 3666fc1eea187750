"""Cut the part that computes some tensors out of an ONNX graph.

Nodes and weights are copied byte for byte; what the tensors do not need is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lit_od.errors import BackboneError
from lit_od.formats.onnx_file import read_graph
from lit_od.formats.onnx_writer import message, number
from lit_od.formats.protobuf import BYTES, VARINT, Span, Wire

_IR_VERSION, _GRAPH, _METADATA, _TRAINING = 1, 7, 14, 20
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15


@dataclass(frozen=True, slots=True)
class CutGraph:
    """Nodes and weights that compute some tensors of a graph.

    They are encoded, as `onnx_writer.model` takes them.

    Attributes:
        nodes: Encoded nodes, in the file's order as far as each stands after those that it reads.
        initializers: Encoded tensors.
        header: Fields of the file beside its graph and metadata: format, producer, operator sets, functions.
    """

    nodes: tuple[bytes, ...]
    initializers: tuple[bytes, ...]
    header: bytes


def tensor_names(model: bytes) -> tuple[str, ...]:
    """Return the tensors that a graph's nodes compute, in the file's order.

    Raises:
        BackboneError: If the bytes are no ONNX file, or hold data that is refused.
    """
    read_graph(model)
    wire = Wire(model)
    graph = wire.spans((0, len(model)), _GRAPH)[0]
    return tuple(name for node in wire.spans(graph, _NODE) for name in _texts(wire, node, 2) if name)


def cut(model: bytes, tensors: Sequence[str], *, known: Sequence[str] = ()) -> CutGraph:
    """Return the part of a graph that computes tensors.

    Args:
        model: Bytes of an ONNX file.
        tensors: Names of tensors that its nodes compute.
        known: Names of tensors that need not be computed: inputs of the part.

    Raises:
        BackboneError: If the bytes are no ONNX file or hold data that is refused, no node computes a tensor, or the
            graph has sparse weights.
    """
    read_graph(model)
    wire, whole = Wire(model), (0, len(model))
    graph = wire.spans(whole, _GRAPH)[0]
    if wire.spans(graph, _SPARSE):
        raise BackboneError("the ONNX file has sparse weights, and its graph cannot be cut: make them dense")
    nodes = wire.spans(graph, _NODE)
    maker = {name: node for node in nodes for name in _texts(wire, node, 2) if name and name not in known}
    reads: dict[Span, list[str]] = {}  # of the nodes that are kept
    left = list(tensors)
    while left:
        node = maker.get(left.pop())
        if node is not None and node not in reads:
            reads[node] = list(_reads(wire, node))
            left += reads[node]
    wanted = {*tensors, *(name for names in reads.values() for name in names)}
    kept = _sorted([node for node in nodes if node in reads], reads, maker)
    missing = [name for name in tensors if name not in maker]
    if missing:
        raise BackboneError(f"no node of the graph computes {missing[0]!r}")
    weights = {name: span for span in wire.spans(graph, _INITIALIZER) for name in _texts(wire, span, 8)}
    return CutGraph(
        tuple(model[start:stop] for start, stop in kept),
        tuple(model[start:stop] for name, (start, stop) in weights.items() if name in wanted),
        header_of(model),
    )


def _sorted(nodes: Sequence[Span], reads: Mapping[Span, Sequence[str]], maker: Mapping[str, Span]) -> list[Span]:
    """Return nodes in the file's order, but each after those whose tensors it reads.

    Args:
        nodes: The nodes.
        reads: Tensors that each reads.
        maker: The node that computes each tensor.

    Raises:
        BackboneError: If they read one another in a circle.
    """
    done: dict[Span, None] = {}
    open_nodes: set[Span] = set()
    for first in nodes:
        stack = [first]
        while stack:
            node = stack[-1]
            before = [maker[name] for name in reads[node] if name in maker and maker[name] not in done]
            if node in done or not before:
                done[stack.pop()] = None
                open_nodes.discard(node)
            elif node in open_nodes:
                raise BackboneError("nodes of the ONNX graph read one another in a circle")
            else:
                open_nodes.add(node)
                stack += reversed(before)
    return list(done)


def header_of(model: bytes, *, ir_version: int | None = None) -> bytes:
    """Return the fields of a file beside its graph, metadata and training graphs.

    Args:
        model: Bytes of an ONNX file.
        ir_version: Version of the file format to write; None keeps the file's.
    """
    parts, wire = [], Wire(model)
    for field, kind, start, stop in wire.fields((0, len(model))):
        if kind == VARINT:
            parts.append(number(field, start if ir_version is None or field != _IR_VERSION else ir_version))
        elif kind == BYTES and field not in (_GRAPH, _METADATA, _TRAINING):
            parts.append(message(field, model[start:stop]))
    return b"".join(parts)


def _texts(wire: Wire, span: Span, field: int) -> list[str]:
    return [bytes(wire.data[start:stop]).decode(errors="replace") for start, stop in wire.spans(span, field)]


def _reads(wire: Wire, node: Span) -> Iterator[str]:
    """Yield the names that a node reads, its subgraphs included."""
    yield from _texts(wire, node, 1)
    for attribute in wire.spans(node, 5):
        for field in (6, 11):
            for graph in wire.spans(attribute, field):
                for port in wire.spans(graph, 12):  # a subgraph may hand on a tensor of the graph around it
                    yield from _texts(wire, port, 1)
                for inner in wire.spans(graph, _NODE):
                    yield from _reads(wire, inner)
