"""Tensors of the Open Inference Protocol, in JSON and in binary form.

In binary form numbers are little-endian and row-major, and each element of BYTES is preceded by its
length, 4 bytes. In JSON, which has no bytes, an image file is its base64.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.serving.limits import Refused

Column: TypeAlias = NDArray[np.floating[Any] | np.bool_ | np.int64] | Sequence[bytes] | Sequence[str]
"""An output: numbers of shape (n, ...), or n strings or files."""

_WIDTH = 4

_Byte: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]


def require_shape(name: str, shape: Sequence[int], *, most: int) -> None:
    """Check that a shape has 1 to `most` images and no empty side.

    Args:
        name: Name of the input, for messages.
        shape: Its shape, images first.
        most: Largest number of images.

    Raises:
        Refused: 400 if a side is empty, 413 if there are more images.
    """
    if min(shape, default=0) < 1:
        raise Refused(400, f"{name} has shape {list(shape)}: every length must be at least 1")
    if shape[0] > most:
        raise Refused(413, f"{name} holds {shape[0]} images: send at most {most} a request")


def pixels(name: str, shape: Sequence[int], data: memoryview | msgspec.Raw) -> NDArray[np.uint8]:
    """Decode a UINT8 tensor.

    Args:
        name: Name of the input, for messages.
        shape: Its shape.
        data: Its JSON, or its bytes.

    Returns:
        The numbers in the tensor's shape.

    Raises:
        Refused: 400 if the data do not fit the shape.
    """
    flat = _numbers(name, shape, data) if isinstance(data, msgspec.Raw) else np.frombuffer(data, dtype=np.uint8)
    _require_count(name, shape, flat.size)
    return flat.reshape(shape)


def files(name: str, count: int, data: memoryview | msgspec.Raw) -> list[bytes]:
    """Decode a BYTES tensor.

    Args:
        name: Name of the input, for messages.
        count: Number of elements.
        data: Its JSON, or its bytes.

    Returns:
        The elements.

    Raises:
        Refused: 400 if the data hold another number of elements, or are damaged.
    """
    return _from_base64(name, count, data) if isinstance(data, msgspec.Raw) else _split(name, count, data)


def datatype(column: Column) -> str:
    """Return the protocol's name of an output's type."""
    if isinstance(column, np.ndarray):
        return {"f8": "FP64", "f4": "FP32", "b1": "BOOL", "i8": "INT64"}[column.dtype.str[1:]]
    return "BYTES"


def shape_of(column: Column) -> list[int]:
    """Return an output's shape."""
    return list(column.shape) if isinstance(column, np.ndarray) else [len(column)]


def as_json(column: Column) -> list[Any]:
    """Return an output's values as a flat list, files in base64.

    NaN is left, and becomes null when the list is encoded.
    """
    if isinstance(column, np.ndarray):
        return list(column.reshape(-1).tolist())
    return [each if isinstance(each, str) else base64.b64encode(each).decode() for each in column]


def as_bytes(column: Column) -> bytes:
    """Encode an output in binary form."""
    if isinstance(column, np.ndarray):
        return column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = [each.encode() if isinstance(each, str) else each for each in column]
    return b"".join(len(part).to_bytes(_WIDTH, "little") + part for part in parts)


def _require_count(name: str, shape: Sequence[int], count: int) -> None:
    if count != math.prod(shape):
        raise Refused(400, f"{name} has {count} values, its shape {list(shape)} wants {math.prod(shape)}")


def _numbers(name: str, shape: Sequence[int], data: msgspec.Raw) -> NDArray[np.uint8]:
    """Decode whole numbers of 0 to 255 from a JSON list, flat or nested.

    All but their range is checked in the text, which is known to be JSON: a nested list takes 3 bytes there,
    and some 70 once it is decoded.
    """
    text = bytes(data).translate(None, b" \t\r\n")
    flat = text.translate(None, b"[]")
    if not flat or flat.translate(None, b"0123456789,"):
        raise Refused(400, f"the data of {name} must be whole numbers of 0 to 255")
    _require_count(name, shape, flat.count(b",") + 1)
    lists = text.count(b"[")
    nesting = [math.prod(shape)] if lists == 1 else shape
    if lists != _lists(nesting) or text.translate(None, b"0123456789") != _brackets(nesting):
        raise Refused(400, f"the data of {name} must be a list of numbers, nested as its shape or flat")
    try:
        values = msgspec.json.decode(b"[%b]" % flat, type=list[_Byte])
    except msgspec.DecodeError:  # out of range, or a comma without a number, left by an empty list
        raise Refused(400, f"the data of {name} must be whole numbers of 0 to 255") from None
    return np.frombuffer(bytes(values), dtype=np.uint8)


def _lists(shape: Sequence[int]) -> int:
    """Count the lists in the JSON of a tensor, the whole one included."""
    return sum(math.prod(shape[:depth]) for depth in range(len(shape)))


def _brackets(shape: Sequence[int]) -> bytes:
    """Return the JSON of a tensor without its digits."""
    text = b""
    for length in reversed(shape):
        text = b"[%b]" % ((text + b",") * length)[:-1]
    return text


def _from_base64(name: str, count: int, data: msgspec.Raw) -> list[bytes]:
    if bytes(data).count(b",") >= count:  # base64 has no comma; counted first: decoding makes an object of each
        raise Refused(400, f"{name} has more elements than the {count} that its shape wants")
    try:
        found = [base64.b64decode(text, validate=True) for text in msgspec.json.decode(data, type=list[str])]
    except (msgspec.ValidationError, binascii.Error, ValueError):
        raise Refused(400, f"the data of {name} must be image files in base64; in binary form, the files") from None
    if len(found) != count:
        raise Refused(400, f"{name} has {len(found)} elements, its shape wants {count}")
    return found


def _split(name: str, count: int, data: memoryview) -> list[bytes]:
    found: list[bytes] = []
    start = 0
    while start + _WIDTH <= len(data) and len(found) < count:
        end = start + _WIDTH + int.from_bytes(data[start : start + _WIDTH], "little")
        if end > len(data):
            break
        found.append(bytes(data[start + _WIDTH : end]))
        start = end
    if start != len(data) or len(found) != count:
        raise Refused(
            400, f"{name} holds {len(found)} whole elements in {len(data)} bytes, its shape wants {count}: "
            "before each come 4 bytes, little-endian, with its length"
        )  # fmt: skip
    return found
