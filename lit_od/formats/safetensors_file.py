"""Read and write named arrays as safetensors; the only user of that library.

The library checks that arrays lie within the file, side by side. It accepts more than the project needs:
free text, repeated or unknown keys, element types that numpy lacks or that are undefined for some bytes,
and any number of arrays; and it copies what it reads. So the header is checked here, and the arrays are taken
from where it says.
"""

import json
import math
from typing import Any

import numpy as np
import safetensors.numpy

from lit_od.errors import DataError
from lit_od.formats.text import unique_keys
from lit_od.types import Arrays

MAX_HEADER = 1 << 17
"""Largest header in bytes; each array takes about a hundred of them."""

MAX_ARRAYS = 1024
"""Largest number of arrays in one file; a detector has ten at most."""

MAX_DIMENSIONS = 8

_BYTES = {"U8": 1, "I8": 1, "I64": 8, "F16": 2, "F32": 4, "F64": 8}
"""Bytes of an element by safetensors' names of the types that are read."""

_DTYPES = {
    "U8": np.uint8,
    "I8": np.int8,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


def load(data: bytes) -> Arrays:
    """Read the arrays of a safetensors file.

    Raises:
        DataError: If the bytes are no such file, or hold anything besides plain arrays.
    """
    return {name: array.copy() for name, array in views(data).items()}


def save(arrays: Arrays) -> bytes:
    """Encode arrays as a safetensors file."""
    data: bytes = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return data


def views(data: bytes) -> Arrays:
    """Read the arrays of a safetensors file as read-only views of its bytes.

    Raises:
        DataError: As `load`.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    return {
        name: np.frombuffer(data, _DTYPES[kind], math.prod(shape), start + first).reshape(shape)
        for name, (kind, shape, first) in _checked(data).items()
    }


def check_header(data: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Check the header against the file; return type and shape of each array.

    Raises:
        DataError: If it is no such header, or the arrays do not fill the file exactly.
    """
    return {name: (kind, shape) for name, (kind, shape, _) in _checked(data).items()}


def _checked(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return type, shape and first byte, from the header's end, of each array."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise DataError(f"cannot be read: its header must have at most {MAX_HEADER:,} bytes and lie in the file")
    try:
        tree = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: its header is damaged: {error}") from None
    if not isinstance(tree, dict) or len(tree) > MAX_ARRAYS:
        raise DataError(f"cannot be read: its header must name at most {MAX_ARRAYS:,} arrays")
    found, parts = {}, []
    for name, entry in tree.items():
        kind, shape, start, stop = _entry(name, entry)
        if math.prod(max(side, 1) for side in shape) > len(data):
            raise DataError(f"array {name!r} is larger than the file: {list(shape)}")
        if stop - start != math.prod(shape) * _BYTES[kind]:
            raise DataError(f"array {name!r} of {kind} {list(shape)} does not fit its {stop - start:,} bytes")
        found[name] = (kind, shape, start)
        parts.append((start, stop))
    end = 0
    for start, stop in sorted(parts):
        if start != end:
            raise DataError("cannot be read: its arrays overlap or leave gaps")
        end = stop
    if end != len(data) - 8 - length:
        raise DataError(f"cannot be read: its arrays take {end:,} bytes, the file holds {len(data) - 8 - length:,}")
    return found


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Check one entry; return type, shape, first byte and the byte after the last."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise DataError(f"{name!r} is no plain array: its header holds dtype, shape and data_offsets alone")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _BYTES:
        raise DataError(f"array {name!r} must be one of {', '.join(_BYTES)}, got {kind!r}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise DataError(f"array {name!r} must have up to {MAX_DIMENSIONS} sides that are no less than 0, got {shape!r}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise DataError(f"array {name!r} must have a first and a last byte, got {offsets!r}")
    return kind, tuple(shape), offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    """Return True for a list of integers from 0 to 2^63 - 1."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
