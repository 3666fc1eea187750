"""Identify images: fingerprints of sets, and digests of single images."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_od.errors import DataError, ImageError
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, Source

_ANY_NAME = "surrogateescape"
"""Encoding error handler by which names that are not Unicode are hashed as their bytes."""


def fingerprint(sources: Sequence[Source]) -> dict[str, Any]:
    """Count images, and hash their names, labels and sizes or pixels with SHA-256.

    Files are identified by name and size and not read again; images in memory by their pixels. Bundles hold the
    hash, so the hashed bytes must not change.
    """
    digest = hashlib.sha256()
    for source in sources:
        match source:
            case ImageFile():
                digest.update(f"{source.path.name}\0{source.label}\0".encode(errors=_ANY_NAME))
                digest.update(size_or_pixels(source) + b"\n")
            case ImageArray():
                digest.update(f"{source.label}\0".encode(errors=_ANY_NAME) + size_or_pixels(source))
            case _:
                digest.update(f"{source.name}\0{source.label}\n".encode(errors=_ANY_NAME))
    return {"images": len(sources), "sha256": digest.hexdigest()}


def size_or_pixels(source: Source) -> bytes:
    """Return the size of a file or the pixels of an array.

    They tell images of one name apart without reading a file. Checkpoints hold their hash, so these bytes must not
    change. A missing file and any other image give none.
    """
    match source:
        case ImageArray():
            return f"{source.pixels.shape}\0".encode() + source.pixels.tobytes()
        case ImageFile():
            try:
                return str(source.path.stat().st_size).encode()
            except OSError:  # reading the image reports it
                return b""
        case _:
            return b""


def identity(source: Source) -> str:
    """Return a text that no other image has in this process; a file is not read."""
    match source:
        case ImageArray():
            return content_digest(source).hex()
        case ImageFile():
            state = source.path.stat() if source.path.exists() else None
            return f"{source.path} {state.st_size if state else 0} {state.st_mtime_ns if state else 0}"
        case _:
            return f"{source.name} {id(source)}"


def content_digest(source: Source) -> bytes:
    """Hash the content of an image with SHA-256.

    A file that was overwritten under its old name is another image.

    Raises:
        DataError: If the image cannot be read.
    """
    try:
        match source:
            case ImageFile():
                return hashlib.sha256(source.path.read_bytes()).digest()
            case EncodedImage():
                return hashlib.sha256(source.data).digest()
            case ImageArray():
                pixels = source.pixels
            case _:
                pixels = np.asarray(source.decode())
    except (OSError, ImageError) as error:
        raise DataError(f"{source.name}: {error}. Take it out (lit-od check lists such files)") from error
    return hashlib.sha256(f"{pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes()).digest()
