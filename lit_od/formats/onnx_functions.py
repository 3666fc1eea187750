"""Count the nodes of an ONNX file once its functions are expanded.

A file may define functions, and ONNX Runtime puts the body of each in place of every call before it runs anything. A
function that calls another twice doubles it: thirty small functions become a graph of a thousand million nodes, at
which the opening of a session never ends. So the nodes are counted before, each function once.

Subgraphs that are handed to a function as an attribute could multiply in the same way; exporters write none.
"""

from collections import Counter
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path

from lit_od.errors import BackboneError
from lit_od.formats.protobuf import BYTES, Span, Wire, shown

MAX_NODES = 100_000
"""Largest number of nodes with all functions expanded, calls counted too.

Large real graphs have some ten thousands. ONNX Runtime's time to expand functions grows with the square of that
number: 3 s for 16,000 nodes, 29 s for 65,000.
"""

MAX_SUBGRAPHS = 30
"""Largest nesting of subgraphs, about as deep as messages may nest in a file."""

_GRAPH, _FUNCTION = 7, 25
_NODES_OF_GRAPH, _NODES_OF_FUNCTION = 1, 7
_NAME, _OPERATOR, _ATTRIBUTE = 1, 4, 5
_DEFAULT = 11
_SUBGRAPHS = (6, 11)


@dataclass(slots=True)
class _Body:
    """Nodes of a graph or function, and its calls of others.

    Attributes:
        nodes: Their number, those of subgraphs and calls included.
        calls: Number of its calls of each of the file's functions.
    """

    nodes: int = 0
    calls: Counter[bytes] = field(default_factory=Counter)


def check_expansion(model: Path | bytes) -> None:
    """Check that an ONNX file stays small with its functions expanded.

    A file without functions costs next to nothing. One that cannot be opened is left to the runtime, which says why.

    Raises:
        BackboneError: If it does not, or is damaged.
    """
    if isinstance(model, bytes):
        _check(model)
        return
    try:
        with model.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
            _check(mapped)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return


def _check(data: bytes | mmap) -> None:
    if data[4:8] == b"ORTM":  # ONNX Runtime's own format, in which functions have been expanded
        return
    file, whole = _Functions(data), (0, len(data))
    spans = file.spans(whole, _FUNCTION)
    if not spans:
        return
    bodies: dict[bytes, _Body] = {}
    keys = [file.key(span, _NAME, 10, 13) for span in spans]
    file.known.update(keys)
    if len(file.known) < len(keys):
        raise BackboneError(f"the ONNX file has two functions {shown(Counter(keys).most_common(1)[0][0])}")
    for key, span in zip(keys, spans, strict=True):
        bodies[key] = file.body([span], _NODES_OF_FUNCTION)
        if any(file.subgraphs(default) for default in file.spans(span, _DEFAULT)):
            raise _handed(key)
    graph = file.body(file.spans(whole, _GRAPH), _NODES_OF_GRAPH)
    sizes: dict[bytes, int] = {}
    for key in _callees_first(bodies):
        sizes[key] = _size(bodies[key], sizes)
    _size(graph, sizes)


def _callees_first(bodies: dict[bytes, _Body]) -> list[bytes]:
    """Return the functions so that each comes after those that it calls."""
    from graphlib import CycleError, TopologicalSorter  # imported late: few files have functions

    try:
        return list(TopologicalSorter({key: body.calls.keys() for key, body in bodies.items()}).static_order())
    except CycleError as error:
        raise BackboneError(
            f"function {shown(error.args[1][0])} of the ONNX file calls itself, directly or by others"
        ) from None


def _size(body: _Body, sizes: dict[bytes, int]) -> int:
    """Return the number of nodes of a body with those of the functions that it calls."""
    size = body.nodes + sum(times * sizes[key] for key, times in body.calls.items())
    if size > MAX_NODES:
        raise BackboneError(
            f"the ONNX file has more than {MAX_NODES:,} nodes once its functions are expanded: export it without"
        )
    return size


class _Functions(Wire):
    """A reader of functions and their calls.

    Attributes:
        known: The file's functions.
    """

    __slots__ = ("known",)

    def __init__(self, data: bytes | mmap) -> None:
        super().__init__(data)
        self.known: set[bytes] = set()

    def key(self, span: Span, name: int, domain: int, overload: int) -> bytes:
        """Read what ONNX Runtime knows a function by.

        Args:
            span: The function, or a node.
            name: Number of the field of its name.
            domain: Number of that of its domain.
            overload: Number of that of its overload.
        """
        parts = dict.fromkeys((domain, name, overload), b"")
        for number, wire, start, stop in self.fields(span):
            if number in parts and wire == BYTES:
                parts[number] = self.data[start:stop]  # the last one holds, as in other readers
        if parts[domain] == b"ai.onnx":
            parts[domain] = b""
        return b":".join([parts[domain], parts[name], *filter(None, [parts[overload]])])

    def body(self, spans: list[Span], nodes: int) -> _Body:
        """Count the nodes of a graph or function, and its calls.

        Args:
            spans: Its parts.
            nodes: Number of the field that holds its nodes.
        """
        body = _Body()
        self.count(body, spans, nodes, 0)
        return body

    def count(self, body: _Body, spans: list[Span], nodes: int, depth: int) -> None:
        """Add the nodes of graphs to a body, and those of their subgraphs."""
        if depth > MAX_SUBGRAPHS:
            raise BackboneError(f"the ONNX file nests more than {MAX_SUBGRAPHS} subgraphs")
        for node in (node for span in spans for node in self.spans(span, nodes)):
            body.nodes += 1
            called = self.key(node, _OPERATOR, 7, 8)
            below = [each for span in self.spans(node, _ATTRIBUTE) for each in self.subgraphs(span)]
            if called in self.known:
                body.calls[called] += 1
                if below:
                    raise _handed(called)
            self.count(body, below, _NODES_OF_GRAPH, depth + 1)

    def subgraphs(self, attribute: Span) -> list[Span]:
        """Return the graphs that an attribute holds."""
        found = self.fields(attribute)
        return [(start, stop) for number, wire, start, stop in found if number in _SUBGRAPHS and wire == BYTES]


def _handed(function: bytes) -> BackboneError:
    return BackboneError(f"the ONNX file hands a subgraph to its function {shown(function)}: export it without")
