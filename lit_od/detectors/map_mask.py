"""The pixels of a map that count, as text among a detector's options."""

import base64
import binascii
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError


def pack(pixels: NDArray[np.bool_]) -> str:
    """Write the pixels of a map that count, (h, w), as text.

    It is their bits in reading order, by zlib, in base64.
    """
    return base64.b64encode(zlib.compress(np.packbits(pixels).tobytes(), 9)).decode()


def require_packed(mask: object) -> None:
    """Raise ConfigError unless an option `mask` is text or None."""
    if mask is not None and type(mask) is not str:
        raise ConfigError(f"mask must be packed pixels: a bundle makes it itself, got {mask!r}")


def unpack(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """Read the pixels that count, shape (height, width).

    Args:
        text: Text that `pack` has written.
        height: Height of the map.
        width: Width of the map.

    Raises:
        ConfigError: If the text is none of `pack` for this size, or no pixel counts.
    """
    require_packed(text)
    return _unpacked(text, height, width)


@lru_cache(maxsize=16)
def _unpacked(text: str, height: int, width: int) -> NDArray[np.bool_]:
    wanted = -(-height * width // 8)
    try:
        reader = zlib.decompressobj()
        data = reader.decompress(base64.b64decode(text, validate=True), wanted + 1)
    except (binascii.Error, ValueError, TypeError, zlib.error):
        data = b""
    if len(data) != wanted or not reader.eof:
        raise ConfigError(f"mask must be the packed pixels of a map of {height} x {width}: a bundle makes it itself")
    pixels = np.unpackbits(np.frombuffer(data, np.uint8), count=height * width).reshape(height, width) > 0
    if not pixels.any():
        raise ConfigError("mask leaves nothing of the map: no pixel of it counts")
    pixels.setflags(write=False)
    return pixels
