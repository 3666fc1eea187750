"""Tensors of the Open Inference Protocol: from JSON or bytes to images, and from verdicts to either.

In binary form numbers are little-endian and row-major, and each element of BYTES is preceded by its
length, 4 bytes. In JSON, where bytes have no place, an image file is its base64.
"""

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.serving.limits import Refused

Column: TypeAlias = NDArray[np.float64] | NDArray[np.bool_] | NDArray[np.int64] | Sequence[bytes] | Sequence[str]
"""An output: numbers of shape (n, ...), or n strings or files."""

_WIDTH = 4


def require_shape(name: str, shape: Sequence[int], *, most: int) -> None:
    """Raise Refused unless there is at least one image, and no more than so many."""
    if min(shape, default=0) < 1:
        raise Refused(400, f"{name} has shape {list(shape)}: every length must be at least 1")
    if shape[0] > most:
        raise Refused(413, f"{name} holds {shape[0]} images: send at most {most} a request")


def pixels(name: str, shape: Sequence[int], data: memoryview | msgspec.Raw) -> NDArray[np.uint8]:
    """A UINT8 tensor in its shape. Raises Refused where the data do not fit it."""
    flat = _numbers(name, data) if isinstance(data, msgspec.Raw) else np.frombuffer(data, dtype=np.uint8)
    if flat.size != math.prod(shape):
        raise Refused(400, f"{name} has {flat.size} values, its shape {list(shape)} wants {math.prod(shape)}")
    return flat.reshape(shape)


def files(name: str, count: int, data: memoryview | msgspec.Raw) -> list[bytes]:
    """So many elements of a BYTES tensor. Raises Refused where the data are not that many."""
    found = _from_base64(name, data) if isinstance(data, msgspec.Raw) else _split(name, count, data)
    if len(found) != count:
        raise Refused(400, f"{name} has {len(found)} elements, its shape wants {count}")
    return found


def datatype(column: Column) -> str:
    """The protocol's name of an output's type."""
    if isinstance(column, np.ndarray):
        return {"f": "FP64", "b": "BOOL", "i": "INT64"}[column.dtype.kind]
    return "BYTES"


def shape_of(column: Column) -> list[int]:
    """An output's shape."""
    return list(column.shape) if isinstance(column, np.ndarray) else [len(column)]


def as_json(column: Column) -> list[Any]:
    """An output's values, flat; NaN becomes null on the way to JSON, and a file its base64."""
    if isinstance(column, np.ndarray):
        return list(column.reshape(-1).tolist())
    return [each if isinstance(each, str) else base64.b64encode(each).decode() for each in column]


def as_bytes(column: Column) -> bytes:
    """An output in binary form."""
    if isinstance(column, np.ndarray):
        return column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = [each.encode() if isinstance(each, str) else each for each in column]
    return b"".join(len(part).to_bytes(_WIDTH, "little") + part for part in parts)


def _numbers(name: str, data: msgspec.Raw) -> NDArray[np.uint8]:
    """Whole numbers of 0 to 255 from a JSON list, flat or nested."""
    try:
        values = np.array(msgspec.json.decode(data))
    except (ValueError, OverflowError, RecursionError):  # ragged, or nested beyond reason
        raise Refused(400, f"the data of {name} must be a list of numbers, nested as its shape or flat") from None
    if values.dtype.kind not in "iu" or not (values.size and values.min() >= 0 and values.max() <= 255):
        raise Refused(400, f"the data of {name} must be whole numbers of 0 to 255")
    return values.astype(np.uint8).reshape(-1)


def _from_base64(name: str, data: msgspec.Raw) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in msgspec.json.decode(data, type=list[str])]
    except (msgspec.ValidationError, binascii.Error, ValueError):
        raise Refused(400, f"the data of {name} must be image files in base64; in binary form, the files") from None


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
