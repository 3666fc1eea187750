"""Protocol Buffers' wire format, as ONNX files have it: fields, numbers and the places of what they hold.

Nothing is copied and nothing is trusted: lengths are checked against the message around them, and a file
has no more than a bounded number of fields.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from lit_od.errors import BackboneError

MAX_FIELDS = 1_000_000
"""Fields that are looked at, some two seconds' work; a large backbone has a tenth of them."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; the others are groups, which ONNX never had, or do not exist."""

Span: TypeAlias = tuple[int, int]
"""Where a message starts and stops in the file."""

_CHUNK = 1 << 20


class Wire:
    """A reader of one file.

    Attributes:
        data: The file.
        fields_left: How many more fields may be looked at.
    """

    __slots__ = ("data", "fields_left")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fields_left = MAX_FIELDS

    def spans(self, span: Span, number: int) -> list[Span]:
        """Where the messages or strings of one field lie."""
        found = []
        for each, wire, start, stop in self.fields(span):
            if each == number:
                if wire != BYTES:
                    raise damaged(start)
                found.append((start, stop))
        return found

    def fields(self, span: Span) -> Iterator[tuple[int, int, int, int]]:
        """The fields of a message.

        Yields:
            Number and wire type, then where its bytes start and stop; for a varint its value and 0.
        """
        data, (at, end) = self.data, span
        while at < end:
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = self.varint(at - 1, end)
            wire = tag & 7
            self.fields_left -= 1
            if self.fields_left < 0:
                raise BackboneError(f"the ONNX file has more than {MAX_FIELDS:,} fields")
            if not 7 < tag < 2**32:  # field 0 does not exist
                raise damaged(at)
            if wire == VARINT:
                value, at = self.varint(at, end)
                yield tag >> 3, wire, value, 0
                continue
            if wire == BYTES:
                length, at = (data[at], at + 1) if at < end and data[at] < 128 else self.varint(at, end)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:  # groups, which ONNX never had, and wire types that do not exist
                raise damaged(at)
            start, at = at, at + length
            if at > end:
                raise damaged(start)
            yield tag >> 3, wire, start, at

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned 64-bit number, and where it ends."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if value >= 2**64:
                    break
                return value, at
            shift += 7
        raise damaged(at)

    def integers(self, wire: int, start: int, stop: int, most: int) -> list[int]:
        """The int64 values in one field of a repeated number: one, or a packed run of them; at most one too many."""
        if wire == VARINT:
            return [signed(start)]
        if wire != BYTES:
            raise damaged(start)
        values: list[int] = []
        while start < stop and len(values) <= most:
            value, start = self.varint(start, stop)
            values.append(signed(value))
        return values

    def elements(self, single: int, wire: int, start: int, stop: int) -> int:
        """How many numbers of one wire type a field of a repeated number holds: one, or a packed run of them."""
        if wire == single:
            return 1
        if wire != BYTES:
            raise damaged(start)
        if single != VARINT:
            count, rest = divmod(stop - start, 4 if single == FIXED32 else 8)
        else:  # each ends in a byte without the highest bit
            rest = int(stop > start and self.data[stop - 1] > 127)
            count = sum(
                int(np.count_nonzero(np.frombuffer(self.data, np.uint8, min(_CHUNK, stop - at), at) < 128))
                for at in range(start, stop, _CHUNK)
            )
        if rest:
            raise damaged(start)
        return count


def signed(value: int) -> int:
    """The int64 of an unsigned 64-bit number."""
    return value - 2**64 if value >= 2**63 else value


def damaged(at: int) -> BackboneError:
    """What is raised where the bytes make no sense."""
    return BackboneError(f"the ONNX file is damaged near byte {at:,}, or no ONNX file")
