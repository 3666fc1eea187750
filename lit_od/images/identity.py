"""Identities of images: fingerprints of sets, and digests of single images."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_od.errors import DataError, ImageError
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, Source

_ANY_NAME = "surrogateescape"
"""How names that are not Unicode are hashed: as the bytes they are."""


def fingerprint(sources: Sequence[Source]) -> dict[str, Any]:
    """What a set of images was: how many, and a SHA-256 over names, labels and pixels or file sizes.

    Files are taken by name and size, not read again; images in memory by their pixels.
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
    """What tells an image from every other one in this process."""
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
    """What tells an image from another one under the same name, as far as that is cheap to know."""
    match source:
        case ImageArray():
            return f"{source.pixels.shape}\0".encode() + source.pixels.tobytes()
        case ImageFile():
            try:
                return str(source.path.stat().st_size).encode()
            except OSError:  # whoever reads it will say so
                return b""
        case _:
            return b""


def content_digest(source: Source) -> bytes:
    """A digest of the image itself: a file that was overwritten under its old name is another image."""
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
