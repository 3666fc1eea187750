"""Read Protocol Buffers' wire format, as far as ONNX files use it.

Nothing is copied and nothing is trusted: lengths are checked against the enclosing message, and the
number of fields in a file is bounded.
"""

from collections.abc import Iterator
from mmap import mmap
from typing import TypeAlias

import numpy as np

from lit_od.errors import BackboneError

MAX_FIELDS = 1_000_000
"""Largest number of fields that are read, some two seconds' work; a large backbone has a tenth of them."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; the others are groups, which ONNX never had, or do not exist."""

Span: TypeAlias = tuple[int, int]
"""Start and end of a message in the file, in bytes."""

_CHUNK = 1 << 20


class Wire:
    """A reader of one file.

    Attributes:
        data: The file, in memory or mapped.
        fields_left: Number of fields that may still be read.
    """

    __slots__ = ("data", "fields_left")

    def __init__(self, data: bytes | mmap) -> None:
        self.data = data
        self.fields_left = MAX_FIELDS

    def spans(self, span: Span, number: int) -> list[Span]:
        """Return the spans of the messages or strings of one field.

        Raises:
            BackboneError: If the field is of another wire type, or the message is damaged.
        """
        found = []
        for each, wire, start, stop in self.fields(span):
            if each == number:
                if wire != BYTES:
                    raise damaged(start)
                found.append((start, stop))
        return found

    def fields(self, span: Span) -> Iterator[tuple[int, int, int, int]]:
        """Iterate over the fields of a message.

        Yields:
            Number and wire type, then start and end of its bytes; for a varint its value and 0.

        Raises:
            BackboneError: If the message is damaged, or the file has too many fields.
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
        """Read an unsigned 64-bit number; return it and the position after it.

        Raises:
            BackboneError: If the number is damaged.
        """
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
        """Read the int64 values in one field of a repeated number.

        Args:
            wire: Wire type: VARINT for a single value, BYTES for a packed run.
            start: First byte; of a single value the value itself.
            stop: Byte after the last.
            most: Limit of the number of values: of more, one too many is returned.

        Returns:
            The values.

        Raises:
            BackboneError: If the field is damaged.
        """
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
        """Count the numbers of one wire type in one field of a repeated number.

        Args:
            single: Wire type of a single number: VARINT, FIXED32 or FIXED64.
            wire: Wire type of the field: `single`, or BYTES for a packed run.
            start: First byte.
            stop: Byte after the last.

        Returns:
            The count.

        Raises:
            BackboneError: If the field is damaged.
        """
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
    """Convert an unsigned 64-bit number to int64."""
    return value - 2**64 if value >= 2**63 else value


def damaged(at: int) -> BackboneError:
    """Make the error for bytes that do not fit the wire format."""
    return BackboneError(f"the ONNX file is damaged near byte {at:,}, or no ONNX file")


def shown(name: bytes | str) -> str:
    """Format a name from a file for a message, in ASCII and not too long."""
    text = name if isinstance(name, str) else name.decode(errors="replace")
    return ascii(text[:80])
