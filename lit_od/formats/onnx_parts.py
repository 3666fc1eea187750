"""Take an ONNX file apart into nodes, tensors and metadata, byte for byte."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import BackboneError
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_cut import header_of
from lit_od.formats.onnx_file import DOUBLE, read_graph
from lit_od.formats.protobuf import BYTES, FIXED64, VARINT, Span, Wire

_GRAPH, _METADATA = 7, 14
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_DIMS, _DATA_TYPE, _NAME, _RAW, _DOUBLES = 1, 2, 8, 9, 10


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an ONNX file, encoded.

    Attributes:
        nodes: Its nodes, in the file's order.
        initializers: Its tensors by name.
        inputs: Ports of its inputs.
        outputs: Ports of its outputs.
        header: Fields of the file beside its graph and metadata.
        metadata: Its metadata properties.
    """

    nodes: tuple[bytes, ...]
    initializers: Mapping[str, bytes]
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    header: bytes
    metadata: Mapping[str, str]

    def encoded(self, metadata: Mapping[str, str]) -> bytes:
        """Return the file's bytes with other metadata."""
        tensors = list(self.initializers.values())
        return onnx_writer.model(
            self.nodes, self.inputs, self.outputs, initializers=tensors, metadata=metadata, header=self.header
        )

    def doubles(self, name: str) -> NDArray[np.float64] | None:
        """Return a tensor of float64; None where there is none of this name and type."""
        data = self.initializers.get(name)
        if data is None:
            return None
        wire = Wire(data)
        shape: list[int] = []
        element, raw, found = 0, b"", []
        for field, kind, start, stop in wire.fields((0, len(data))):
            if field == _DIMS:
                shape += wire.integers(kind, start, stop, 8)
            elif field == _DATA_TYPE and kind == VARINT:
                element = start
            elif field == _RAW and kind == BYTES:
                raw = data[start:stop]
            elif field == _DOUBLES and kind in (BYTES, FIXED64):
                found.append(data[start:stop])
        if element != DOUBLE:
            return None
        return np.frombuffer(raw or b"".join(found), "<f8").astype(np.float64).reshape(shape)


def take_apart(model: bytes) -> Parts:
    """Take the bytes of an ONNX file apart.

    Raises:
        BackboneError: If the bytes are no ONNX file, or hold data that is refused.
    """
    read_graph(model)
    wire, whole = Wire(model), (0, len(model))
    graph = wire.spans(whole, _GRAPH)[0]
    if wire.spans(graph, _SPARSE):
        raise BackboneError("the ONNX file has sparse tensors: make them dense")

    def copied(span: Span) -> bytes:
        return model[span[0] : span[1]]

    metadata = {}
    for span in wire.spans(whole, _METADATA):
        pair = [_text(wire, span, field) for field in (1, 2)]
        metadata[pair[0]] = pair[1]
    return Parts(
        tuple(copied(span) for span in wire.spans(graph, _NODE)),
        {_text(wire, span, _NAME): copied(span) for span in wire.spans(graph, _INITIALIZER)},
        tuple(copied(span) for span in wire.spans(graph, _INPUT)),
        tuple(copied(span) for span in wire.spans(graph, _OUTPUT)),
        header_of(model),
        metadata,
    )


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions that an ONNX file is written for.

    Attributes:
        opset: Version of ONNX' own operators; None where the file imports none.
        ir: Version of the file format.
        foreign: Other domains whose operators its nodes use, without those of functions that the file holds.
    """

    opset: int | None
    ir: int
    foreign: tuple[str, ...]


def versions_of(model: bytes) -> Versions:
    """Read the versions that an ONNX file is written for.

    Raises:
        BackboneError: If the bytes are no ONNX file, or hold data that is refused.
    """
    opset = read_graph(model).opset
    wire, whole = Wire(model), (0, len(model))
    ir = [start for field, kind, start, _ in wire.fields(whole) if (field, kind) == (1, VARINT)]
    functions = wire.spans(whole, 25)
    own = {"", "ai.onnx"} | {_text(wire, span, 10) for span in functions}
    graph = wire.spans(whole, _GRAPH)[0]
    used = {_text(wire, span, 7) for span in wire.spans(graph, _NODE)}
    used |= {_text(wire, span, 7) for function in functions for span in wire.spans(function, 7)}
    return Versions(opset, ir[-1] if ir else 0, tuple(sorted(used - own)))


def _text(wire: Wire, span: Span, field: int) -> str:
    """Return the last string of a field, or none."""
    found = wire.spans(span, field)
    return bytes(wire.data[found[-1][0] : found[-1][1]]).decode(errors="replace") if found else ""
