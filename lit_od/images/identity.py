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
    """Return the number of images and a SHA-256 over names, labels and contents.

    The contents of a file are its size, so that it is not read again; those of an image in memory its pixels.
    """
    digest = hashlib.sha256()
    for source in sources:
        match source:
            case ImageFile():
                digest.update(
                    f"{source.path.name}\0{source.label}\0{source.path.stat().st_size}\n".encode(errors=_ANY_NAME)
                )
            case ImageArray():
                digest.update(f"{source.label}\0{source.pixels.shape}\0".encode(errors=_ANY_NAME))
                digest.update(source.pixels.tobytes())
            case _:
                digest.update(f"{source.name}\0{source.label}\n".encode(errors=_ANY_NAME))
    return {"images": len(sources), "sha256": digest.hexdigest()}


def identity(source: Source) -> str:
    """Return a key that identifies an image within this process."""
    match source:
        case ImageArray():
            pixels = source.pixels
            return hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).hexdigest()
        case ImageFile():
            state = source.path.stat() if source.path.exists() else None
            return f"{source.path} {state.st_size if state else 0} {state.st_mtime_ns if state else 0}"
        case _:
            return f"{source.name} {id(source)}"


def size_or_pixels(source: Source) -> bytes:
    """Return a cheap digest of the contents: a file's size, or an array's pixels."""
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


def content_digest(source: Source) -> bytes:
    """Return a SHA-256 of the image's contents, so that an overwritten file differs.

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
