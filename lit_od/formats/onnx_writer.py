"""Write ONNX graphs in Protocol Buffers' wire format, without the onnx package.

Nodes, tensors and ports are encoded as they are made; `model` joins them into a file's bytes.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lit_od.formats.protobuf import BYTES, FIXED32, VARINT

Shape: TypeAlias = Sequence[int | str | None]
"""Sides of a tensor: a length, a name that stands for any length, or None for any."""

Attribute: TypeAlias = int | float | str | Sequence[int] | Sequence[float] | NDArray[Any] | bytes
"""Value of an attribute; bytes are a graph that `graph` has encoded."""

OPSET = 17
"""Operator set of the graphs written here."""

IR_VERSION = 8
"""File format that goes with the operator set."""

PRODUCER = "lit_od"

ELEMENT_TYPES: dict[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
}
"""ONNX' numbers of element types, by numpy's names."""

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS = 1, 2, 3, 4, 5, 6, 7


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Attribute) -> bytes:
    """Encode a node.

    Args:
        operator: Name of an operator of ONNX' own domain.
        inputs: Names of its inputs; "" leaves an optional one out.
        outputs: Names of its outputs.
        attributes: Values by name.
    """
    parts = [text(1, name) for name in inputs]
    parts += [text(2, name) for name in outputs]
    parts += [text(3, outputs[0]), text(4, operator)]
    parts += [message(5, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join(parts)


def tensor(name: str, array: NDArray[Any]) -> bytes:
    """Encode an initializer.

    Raises:
        KeyError: If ONNX has no such element type.
    """
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    dims = b"".join(number(1, side) for side in array.shape)
    return dims + number(2, ELEMENT_TYPES[array.dtype.name]) + text(8, name) + message(9, raw)


def port(name: str, dtype: DTypeLike, shape: Shape) -> bytes:
    """Encode an input or output of a graph.

    Args:
        name: Its name.
        dtype: Element type.
        shape: Its sides.
    """
    sides = b"".join(message(1, _side(side)) for side in shape)
    of = number(1, ELEMENT_TYPES[np.dtype(dtype).name]) + message(2, sides)
    return text(1, name) + message(2, message(1, of))


def model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    *,
    initializers: Sequence[bytes] = (),
    metadata: Mapping[str, str] | None = None,
    header: bytes | None = None,
) -> bytes:
    """Encode a graph as the bytes of an ONNX file.

    Args:
        nodes: Results of `node`, each after those whose outputs it takes.
        inputs: Results of `port`.
        outputs: Results of `port`.
        initializers: Results of `tensor`.
        metadata: The file's metadata properties.
        header: Fields of the file beside its graph and metadata; None takes format and operator set from above.
    """
    if header is None:
        header = number(1, IR_VERSION) + text(2, PRODUCER) + message(8, number(2, OPSET))
    parts = [header, message(7, graph(nodes, inputs, outputs, initializers=initializers))]
    parts += [message(14, text(1, key) + text(2, value)) for key, value in (metadata or {}).items()]
    return b"".join(parts)


def graph(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], *, initializers: Sequence[bytes] = ()
) -> bytes:
    """Encode a graph: that of a file, or one that a node runs.

    Args:
        nodes: Results of `node`, each after those whose outputs it takes.
        inputs: Results of `port`.
        outputs: Results of `port`.
        initializers: Results of `tensor`.
    """
    parts = [message(1, each) for each in nodes] + [text(2, "graph")]
    parts += [message(5, each) for each in initializers]
    parts += [message(11, each) for each in inputs] + [message(12, each) for each in outputs]
    return b"".join(parts)


def _attribute(name: str, value: Attribute) -> bytes:
    head = text(1, name)
    if isinstance(value, str):
        return head + text(4, value) + number(20, _STRING)
    if isinstance(value, bytes):
        return head + message(6, value) + number(20, _GRAPH)
    if isinstance(value, np.ndarray):
        return head + message(5, tensor("", value)) + number(20, _TENSOR)
    if isinstance(value, int):
        return head + number(3, value) + number(20, _INT)
    if isinstance(value, float):
        return head + _tag(2, FIXED32) + struct.pack("<f", value) + number(20, _FLOAT)
    if all(isinstance(each, int) for each in value):
        return head + b"".join(number(8, int(each)) for each in value) + number(20, _INTS)
    return head + b"".join(_tag(7, FIXED32) + struct.pack("<f", each) for each in value) + number(20, _FLOATS)


def _side(side: int | str | None) -> bytes:
    if side is None:
        return b""
    return text(2, side) if isinstance(side, str) else number(1, side)


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def number(field: int, value: int) -> bytes:
    """Encode a field that holds a whole number."""
    return _tag(field, VARINT) + _varint(value % 2**64)  # a negative number as its two's complement


def text(field: int, content: str) -> bytes:
    """Encode a field that holds a string."""
    return message(field, content.encode())


def message(field: int, content: bytes) -> bytes:
    """Encode a field that holds a message or bytes."""
    return _tag(field, BYTES) + _varint(len(content)) + content


def field(number: int, wire: int, content: bytes, value: int = 0) -> bytes:
    """Encode a field of any wire type, as `Wire.fields` reads it.

    Args:
        number: Number of the field.
        wire: Its wire type.
        content: Its bytes; of a whole number none.
        value: The whole number, where it is one.
    """
    if wire == VARINT:
        return _tag(number, wire) + _varint(value)
    return message(number, content) if wire == BYTES else _tag(number, wire) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
