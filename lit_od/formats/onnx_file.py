"""Read opset, inputs and outputs of an ONNX file without a runtime or `onnx`.

The reader walks over the wire format of Protocol Buffers and is stricter than the format: it refuses a
field that may stand once and stands twice, a known field of another wire type, and a deprecated group,
since readers differ in how they interpret them. Weights are measured, never read.

Also refused: data outside the file, wherever a tensor can stand (initializers, attributes, subgraphs,
functions, training graphs); tensors with a shape that does not fit their bytes; nodes that load compiled
contexts, which are files or machine code; functions that make the graph enormous. Operator domains are left
to ONNX Runtime: without a library of custom operators, and none is ever loaded here, it refuses domains
that it does not know.
"""

import math
from dataclasses import dataclass

from lit_od.errors import BackboneError
from lit_od.formats.onnx_functions import check_expansion
from lit_od.formats.protobuf import BYTES, FIXED32, FIXED64, VARINT, Span, Wire, damaged, shown, signed

MAX_BYTES = 2**31 - 1
"""Protocol Buffers' limit for one message."""

MAX_DEPTH = 100
"""Largest nesting of messages, as in Protocol Buffers' own readers; a subgraph takes three levels."""

MAX_DIMENSIONS = 64
"""Largest number of sides of a tensor, as in numpy."""

UINT8, FLOAT, BOOL, FLOAT16, DOUBLE = 2, 1, 9, 10, 11
"""ONNX's numbers of element types."""

# The messages that can hold a tensor, and in which fields; True where the field may stand but once.
_NESTED: dict[str, dict[int, tuple[str, bool]]] = {
    "model": {7: ("graph", True), 20: ("training", False), 25: ("function", False)},
    "training": {1: ("graph", True), 2: ("graph", True)},
    "graph": {1: ("node", False), 5: ("tensor", False), 15: ("sparse tensor", False)},
    "function": {7: ("node", False), 11: ("attribute", False)},
    "node": {5: ("attribute", False)},
    "attribute": {
        5: ("tensor", True), 6: ("graph", True), 10: ("tensor", False), 11: ("graph", False),
        22: ("sparse tensor", True), 23: ("sparse tensor", False),
    },
    "sparse tensor": {1: ("tensor", True), 2: ("tensor", True)},
}  # fmt: skip

_NODE_OPERATOR = 4
_SPARSE_DIMS = 3
_DIMS, _DATA_TYPE, _STRINGS, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 6, 8, 9, 13, 14

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128,
         16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2, 27: 6, 28: 6}  # fmt: skip
"""Bits of an element by its type; strings (8) have none."""

_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S = 4, 5, 7, 10, 11
_TYPED = {_FLOATS: FIXED32, _INT32S: VARINT, _INT64S: VARINT, _DOUBLES: FIXED64, _UINT64S: VARINT}
"""The fields that hold elements one by one, and their wire types."""

_WORDS = {1: _FLOATS, 14: _FLOATS, 11: _DOUBLES, 15: _DOUBLES, 7: _INT64S, 12: _UINT64S, 13: _UINT64S}
"""The field of each element type; `_INT32S` for the rest."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output.

    Attributes:
        name: Its name.
        element: ONNX's number of its element type.
        shape: Its sides, None for a free one; None as a whole where the file states no shape.
    """

    name: str
    element: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Graph:
    """Interface of an ONNX graph.

    Attributes:
        opset: Version of ONNX's own operators; None where the graph imports none.
        inputs: Inputs, without initializers that are listed as inputs.
        outputs: Outputs.
    """

    opset: int | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def read_graph(data: bytes) -> Graph:
    """Read opset, inputs and outputs of an ONNX file, and check all of the file.

    Raises:
        BackboneError: If the bytes are no ONNX file, or hold data that is refused.
    """
    if len(data) > MAX_BYTES:
        raise BackboneError(f"an ONNX file holds at most {MAX_BYTES:,} bytes, got {len(data):,}")
    if data[4:8] == b"ORTM":  # ONNX Runtime would read these bytes as its own format, whatever else they are
        raise BackboneError("the file is in ONNX Runtime's own format: give the ONNX file that it was made from")
    walk, whole = _Walk(data), (0, len(data))
    walk.message("model", whole, 1)
    check_expansion(data)
    graphs = walk.spans(whole, 7)
    if not graphs:
        raise BackboneError("the ONNX file holds no graph")
    tensors = walk.spans(graphs[0], 5)
    tensors += [values for span in walk.spans(graphs[0], 15) for values in walk.spans(span, 1)]
    initialized = {data[start:stop] for span in tensors for start, stop in walk.spans(span, _NAME)}
    inputs = [walk.port(span) for span in walk.spans(graphs[0], 11)]
    inputs = [port for port in inputs if port.name.encode() not in initialized]
    return Graph(walk.opset(whole), tuple(inputs), tuple(walk.port(span) for span in walk.spans(graphs[0], 12)))


class _Walk(Wire):
    """One walk over a file."""

    __slots__ = ()

    def message(self, kind: str, span: Span, depth: int) -> None:
        """Check a message and all tensors below it."""
        if depth > MAX_DEPTH:
            raise BackboneError(f"the ONNX file nests more than {MAX_DEPTH} messages")
        nested, once = _NESTED[kind], set()
        dims: list[int] = []
        for number, wire, start, stop in self.fields(span):
            if number in nested:
                inner, single = nested[number]
                if wire != BYTES:
                    raise damaged(start)
                if single:
                    if number in once:
                        raise BackboneError(f"the ONNX file is damaged: {kind} holds two of what may stand once")
                    once.add(number)
                if inner == "tensor":
                    self.tensor((start, stop))
                else:
                    self.message(inner, (start, stop), depth + 1)
            elif kind == "node" and number == _NODE_OPERATOR and self.data[start:stop] == b"EPContext":
                raise BackboneError("the ONNX file loads a compiled context (EPContext): export it without")
            elif kind == "sparse tensor" and number == _SPARSE_DIMS:
                self.sides(dims, wire, start, stop)
        if kind == "sparse tensor":
            _count("a sparse tensor", dims, MAX_BYTES // 16)

    def tensor(self, span: Span) -> None:
        """Check that a tensor's data lie in the file and fit its shape and type."""
        dims: list[int] = []
        element, name, raw, strings = 0, b"", None, 0
        words = dict.fromkeys(_TYPED, 0)
        for number, wire, start, stop in self.fields(span):
            if number == _RAW and wire == BYTES and raw is None:
                raw = stop - start
            elif number == _DIMS:
                self.sides(dims, wire, start, stop)
            elif number == _DATA_TYPE and wire == VARINT and element == 0:
                element = start
            elif number == _NAME and wire == BYTES:
                name = self.data[start : min(stop, start + 80)]
            elif number in words:
                words[number] += self.elements(_TYPED[number], wire, start, stop)
            elif number == _STRINGS and wire == BYTES:
                strings += 1
            elif number == _EXTERNAL or (number == _LOCATION and (wire != VARINT or start != 0)):
                raise BackboneError(
                    f"tensor {shown(name)} of the ONNX file keeps its data in another file: "
                    "save the model with its weights inside"
                )
            elif number in (_RAW, _DATA_TYPE, _NAME, _STRINGS):
                raise damaged(start)
        self.check_size(f"tensor {shown(name)}", dims, element, raw, strings, words)

    def check_size(
        self, label: str, dims: list[int], element: int, raw: int | None, strings: int, words: dict[int, int]
    ) -> None:
        """Raise unless one field holds exactly the elements of the tensor's shape."""
        count = _count(label, dims, 4 * len(self.data))
        carried = {number: length for number, length in words.items() if length}
        if element == 8:
            fits = strings == count and not carried and raw is None
        elif element not in _BITS:
            raise BackboneError(f"{label} of the ONNX file has an element type that ONNX does not know: {element}")
        elif raw is not None:
            fits = raw == -(-count * _BITS[element] // 8) and not carried and not strings
        else:
            per_word = {14: 0.5, 15: 0.5, 21: 2, 22: 2, 23: 2, 25: 4, 26: 4}.get(element, 1)
            needed = math.ceil(count / per_word)
            fits = carried == ({_WORDS.get(element, _INT32S): needed} if needed else {}) and not strings
        if not fits:
            raise BackboneError(f"{label} of the ONNX file does not hold the {count:,} elements of its shape {dims}")

    def sides(self, dims: list[int], wire: int, start: int, stop: int) -> None:
        """Append the sides that one field of a shape holds."""
        dims += self.integers(wire, start, stop, MAX_DIMENSIONS)
        if len(dims) > MAX_DIMENSIONS:
            raise BackboneError(f"the ONNX file holds a tensor of more than {MAX_DIMENSIONS} dimensions")

    def opset(self, model: Span) -> int | None:
        """Return the version of ONNX's own operators that the model imports."""
        versions = []
        for span in self.spans(model, 8):
            domain, version = b"", 0
            for number, wire, start, stop in self.fields(span):
                if number == 1 and wire == BYTES:
                    domain = self.data[start:stop]
                elif number == 2 and wire == VARINT:
                    version = start
            if domain in (b"", b"ai.onnx"):
                versions.append(version)
        if len(versions) > 1:
            raise BackboneError(f"the ONNX file imports ONNX' own operators twice: versions {versions}")
        return versions[0] if versions else None

    def port(self, span: Span) -> Port:
        """Read an input or output from its ValueInfoProto."""
        name = self.text(span, 1)
        types = self.spans(span, 2)
        tensors = self.spans(types[0], 1) if len(types) == 1 else []
        if len(tensors) != 1 or any(number not in (1, 6) for number, *_ in self.fields(types[0])):
            raise BackboneError(f"{shown(name)} of the ONNX file is no plain tensor")
        element = [start for number, wire, start, _ in self.fields(tensors[0]) if (number, wire) == (1, VARINT)]
        shapes = self.spans(tensors[0], 2)
        if len(element) != 1 or len(shapes) > 1:
            raise BackboneError(f"{shown(name)} of the ONNX file must have one element type and one shape")
        shape = tuple(self.side(name, each) for each in self.spans(shapes[0], 1)) if shapes else None
        return Port(name, element[0], shape)

    def side(self, name: str, span: Span) -> int | None:
        """Read one side of a shape; None where it is free."""
        sides = [(number, wire, start) for number, wire, start, _ in self.fields(span) if number in (1, 2)]
        if len(sides) > 1:
            raise BackboneError(f"{shown(name)} of the ONNX file has a side of two lengths")
        if not sides or sides[0][:2] == (2, BYTES):
            return None
        number, wire, value = sides[0]
        if (number, wire) != (1, VARINT) or signed(value) < 0:
            raise BackboneError(f"{shown(name)} of the ONNX file has a side that is no length")
        return value

    def text(self, span: Span, number: int) -> str:
        """Read a string that stands once in a message."""
        found = self.spans(span, number)
        try:
            if len(found) == 1:
                return self.data[found[0][0] : found[0][1]].decode()
        except UnicodeDecodeError:
            pass
        raise BackboneError("the ONNX file is damaged: an input or output must have one name")


def _count(label: str, dims: list[int], most: int) -> int:
    """Return the number of elements of a shape, after checking it against `most`."""
    if any(side < 0 for side in dims):
        raise BackboneError(f"{label} of the ONNX file has a negative side: {dims}")
    if math.prod(max(side, 1) for side in dims) > most:
        raise BackboneError(f"{label} of the ONNX file is larger than the file: {dims}")
    return math.prod(dims)
