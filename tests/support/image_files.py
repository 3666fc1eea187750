"""Image files written by hand, of kinds that Pillow does not write."""

import itertools
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def tiff(
    values: NDArray[np.generic],
    *,
    photometric: int,
    planar: bool = False,
    zipped: bool = False,
    order: str = "<",
    bits: int | None = None,
    tags: dict[int, tuple[int, ...]] | None = None,
    big: bool = False,
) -> bytes:
    """Write a TIFF of one strip a plane.

    Args:
        values: The samples, (h, w, c); of 12 bits they lie in 0..4095.
        photometric: Tag 262: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK.
        planar: Write each channel as a plane of its own.
        zipped: Compress with zlib.
        order: Byte order, "<" or ">".
        bits: Bits a sample. None takes those of the array; 12 are packed.
        tags: Further tags of type SHORT.
        big: Write a BigTIFF.
    """
    height, width, channels = values.shape
    planes = [values[..., each] for each in range(channels)] if planar else [values]
    strips = [
        _packed(each) if bits == 12 else each.astype(values.dtype.newbyteorder(order)).tobytes() for each in planes
    ]
    strips = [zlib.compress(each) for each in strips] if zipped else strips
    head = 16 if big else 8
    offsets = tuple(itertools.accumulate((head, *map(len, strips[:-1]))))
    longs = {256: (width,), 257: (height,), 273: offsets, 278: (height,), 279: tuple(map(len, strips))}
    shorts: dict[int, tuple[int, ...]] = {
        258: (bits or 8 * values.dtype.itemsize,) * channels,
        259: (8 if zipped else 1,),
        262: (photometric,),
        277: (channels,),
        284: (2 if planar else 1,),
        **(tags or {}),
    }
    count, pointer, room = ("Q", "Q", 8) if big else ("H", "I", 4)
    data, entries = b"".join(strips), []
    for tag, numbers in sorted({**longs, **shorts}.items()):
        form, kind = ("I", 4) if tag in longs else ("H", 3)
        raw = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        if len(raw) > room:
            data += b"\0" * (len(data) % 2)
            raw, data = struct.pack(order + pointer, head + len(data)), data + raw
        entries.append(struct.pack(f"{order}HH{pointer}", tag, kind, len(numbers)) + raw.ljust(room, b"\0"))
    data += b"\0" * (len(data) % 2)
    place = struct.pack(order + pointer, head + len(data))
    mark = struct.pack(f"{order}HHH", 43, 8, 0) if big else struct.pack(f"{order}H", 42)
    directory = struct.pack(order + count, len(entries)) + b"".join(entries) + bytes(room)
    return (b"II" if order == "<" else b"MM") + mark + place + data + directory


def _packed(values: NDArray[np.generic]) -> bytes:
    """Pack samples of 12 bits, (h, w, 1), the high bits first; each row begins at a byte."""
    bits = (values[..., 0, None].astype(np.int64) >> np.arange(11, -1, -1)) & 1
    return np.packbits(bits.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def png(rows: list[bytes], *, width: int, depth: int, colour: int, transparent: tuple[int, ...] = ()) -> bytes:
    """Write a PNG.

    Args:
        rows: The samples of each row, packed.
        width: Pixels of a row.
        depth: Bits a sample.
        colour: PNG's colour type: 0 grey, 2 RGB.
        transparent: The sample, or three, that are transparent (tRNS).
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + key + body + chunk(b"IEND", b"")
