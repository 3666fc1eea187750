"""Safetensors headers: what the library lets through, and what is refused before it is asked."""

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lit_od.errors import DataError
from lit_od.formats import safetensors_file as arrays

ONE = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}


def packed(header: dict[str, Any] | str, body: bytes = bytes(8)) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def refused(data: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        arrays.load(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 + 20 * len(data)


def test_what_was_saved_is_loaded() -> None:
    kept = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.zeros((0,), np.float32),
        "c": np.ones((1, 2, 3, 4), np.float16),
        "d": np.arange(7, dtype=np.int64),
        "e": np.arange(9, dtype=np.uint8).reshape(3, 3).T,
        "f": np.arange(-3, 4, dtype=np.int8),
    }
    loaded = arrays.load(arrays.save(kept))
    assert loaded.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    assert arrays.check_header(arrays.save(kept))["a"] == ("F64", (2, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its header must have at most 131,072 bytes and lie in the file"),
        (bytes(7), "its header must have"),
        (struct.pack("<Q", 2**63 + 5) + b"{}", "its header must have"),
        (struct.pack("<Q", 3) + b"{}", "its header must have"),
        (struct.pack("<Q", 131_073) + b"{}" + b" " * 131_071, "its header must have"),
        (bytes(8), "its header is damaged: Expecting value"),
        (packed("[1]"), "its header must name at most 1,024 arrays"),
        (packed("{" * 60_000), "its header is damaged"),
        (packed("[" * 60_000 + "]" * 60_000), "its header is damaged|must name"),
        (struct.pack("<Q", 2) + b"\xff\xfe" + bytes(8), "its header is damaged"),
        (packed({f"a{row}": {**ONE, "shape": [0], "data_offsets": [0, 0]} for row in range(1025)}), "at most 1,024"),
        (packed({"a": ONE} | {"__metadata__": {"words": "free"}}), "'__metadata__' is no plain array"),
        (packed({"a": {**ONE, "more": 1}}), "'a' is no plain array"),
        (packed({"a": [1]}), "'a' is no plain array"),
        (packed('{"a": ' + json.dumps(ONE) + ', "a": ' + json.dumps(ONE) + "}"), "a key stands twice"),
        (
            packed({"a": {**ONE, "dtype": "BF16", "shape": [4]}}),
            "one of U8, I8, I64, F16, F32, F64, got 'BF16'",
        ),
        (packed({"a": {**ONE, "dtype": "BOOL", "shape": [8]}}), "got 'BOOL'"),
        (packed({"a": {**ONE, "dtype": "C64"}}), "got 'C64'"),
        (packed({"a": {**ONE, "dtype": "XX\nYY"}}), r"got 'XX\\nYY'"),
        (packed({"a": {**ONE, "dtype": ["F64"]}}), "must be one of"),
        (packed({"a": {**ONE, "shape": [-1]}}), r"sides that are no less than 0, got \[-1\]"),
        (packed({"a": {**ONE, "shape": [1.0]}}), "no less than 0"),
        (packed({"a": {**ONE, "shape": [True]}}), "no less than 0"),
        (packed({"a": {**ONE, "shape": [1] * 9}}), "up to 8 sides"),
        (packed({"a": {**ONE, "shape": [2**64]}}), "no less than 0"),
        (packed({"a": {**ONE, "shape": [2**40, 2**40]}}), r"array 'a' is larger than the file"),
        (packed({"a": {**ONE, "shape": [2**61, 8], "data_offsets": [0, 0]}}, b""), "larger than the file"),
        (packed({"a": {**ONE, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""), "larger than the file"),
        (packed({"a": {**ONE, "shape": [2]}}), r"array 'a' of F64 \[2\] does not fit its 8 bytes"),
        (packed({"a": {**ONE, "data_offsets": [8, 0]}}), "does not fit its -8 bytes"),
        (packed({"a": {**ONE, "data_offsets": [-8, 0]}}), r"a first and a last byte, got \[-8, 0\]"),
        (packed({"a": {**ONE, "data_offsets": [0]}}), "a first and a last byte"),
        (packed({"a": ONE, "b": ONE}), "its arrays overlap or leave gaps"),
        (packed({"a": {**ONE, "data_offsets": [8, 16]}}, bytes(16)), "overlap or leave gaps"),
        (packed({"a": ONE}, bytes(16)), "its arrays take 8 bytes, the file holds 16"),
        (packed({"a": ONE}, bytes(4)), "its arrays take 8 bytes, the file holds 4"),
    ],
)
def test_what_is_no_plain_array_is_refused(data: bytes, message: str) -> None:
    refused(data, message)


def test_the_library_lets_some_of_it_through() -> None:
    """Or fails with what is no error of its own: the reason why the header is checked here."""
    assert safetensors.numpy.load(packed({"a": ONE, "__metadata__": {"words": "free"}}))
    assert safetensors.numpy.load(packed({"a": {**ONE, "dtype": "BOOL", "shape": [8]}}, b"\x07" * 8))
    with pytest.raises(KeyError):
        safetensors.numpy.load(packed({"a": {**ONE, "dtype": "BF16", "shape": [4]}}))
    with pytest.raises(ValueError, match="too big"):
        safetensors.numpy.load(packed({"a": {**ONE, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""))


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 180), st.integers(0, 255)), max_size=4), cut=st.integers(0, 300))
def test_whatever_passes_here_the_library_reads(changes: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(arrays.save({"a": np.arange(4.0), "b": np.arange(3, dtype=np.uint8)}))
    for place, byte in changes:
        raw[place % len(raw)] = byte
    data = bytes(raw[: cut or None])
    try:
        header = arrays.check_header(data)
    except DataError:
        event("refused")
    else:
        loaded = safetensors.numpy.load(data)
        assert {name: array.shape for name, array in loaded.items()} == {
            name: entry[1] for name, entry in header.items()
        }
