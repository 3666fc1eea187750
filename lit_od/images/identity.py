"""Identify images: fingerprints of sets, and digests of single images."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lit_od.errors import DataError, ImageError
from lit_od.formats.text import one_line
from lit_od.images.file_contents import contents
from lit_od.images.object_store import StoredImage
from lit_od.images.parquet import PackedImage
from lit_od.images.saying import say_once
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, Source
from lit_od.runtime.processes import is_first

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
                data = contents(source.path)
                return hashlib.sha256(data if isinstance(data, bytes) else data.read_bytes()).digest()
            case EncodedImage():
                return hashlib.sha256(source.data).digest()
            case ImageArray():
                pixels = source.pixels
            case _:
                pixels = np.asarray(source.decode())
    except (OSError, ImageError) as error:
        raise DataError(f"{source.name}: {error}. Take it out (lit-od check lists such files)") from error
    return hashlib.sha256(f"{pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes()).digest()


def require_apart(first: Iterable[Source], second: Iterable[Source], uses: str) -> None:
    """Check that no image is in both of two sets; log a line about copies.

    Args:
        first: Images of one set.
        second: Images of the other.
        uses: Uses of the two sets in the message, such as "inlier and outlier".

    Raises:
        DataError: If a file, or a row of an archive, is in both.
    """
    one, other = list(first), list(second)
    require_places_apart(one, other, uses)
    tell_copies(one, other, uses)


def tell_copies(first: Sequence[Source], second: Sequence[Source], uses: str) -> None:
    """Log a line about images of a set whose content is in another set too.

    Args:
        first: Images of one set.
        second: Images of the other.
        uses: Uses of the two sets in the message.
    """
    if is_first() and (copies := list(_copies(first, second))):
        say_once(f"copies of {len(copies):,} images serve as both {uses}: {_names(copies[0])}")


def require_once(images: Iterable[Source]) -> None:
    """Check that each image is named once; log a line about copies.

    Raises:
        DataError: If a file, or a row of an archive, is named twice.
    """
    each = list(images)
    require_places_once(each)
    sizes = Counter(_size(source) for source in each)
    known: dict[bytes, Source] = {}
    copies: list[tuple[Source, Source]] = []
    for source in each:
        if sizes[size := _size(source)] > 1 and size is not None and (digest := _digest(source)) is not None:
            first = known.setdefault(digest, source)
            copies += [(first, source)] if first is not source else []
    if copies:
        say_once(f"copies of {len(copies):,} images fit the detector that scores them: {_names(copies[0])}")


def _names(pair: Iterable[Source]) -> str:
    return " and ".join(one_line(source.name, most=100) for source in pair)


def require_places_once(images: Iterable[Source]) -> None:
    """Check that each image is named once; read none.

    Raises:
        DataError: If a file, a URL or a row of an archive is named twice.
    """
    known: set[str] = set()
    for source in images:
        if (place := _place(source)) in known:
            raise DataError(f"{source.name} is named twice: name each image once")
        known |= {place} if place is not None else set()


def require_places_apart(first: Iterable[Source], second: Iterable[Source], uses: str) -> None:
    """Check that no image is in both of two sets; read none.

    Args:
        first: Images of one set.
        second: Images of the other.
        uses: Uses of the two sets in the message, such as "inlier and outlier".

    Raises:
        DataError: If a file, a URL or a row of an archive is in both.
    """
    places = {place for source in first if (place := _place(source))}
    for source in second:
        if _place(source) in places:
            raise DataError(f"{source.name} serves as both {uses}: name each image once")


def _place(source: Source) -> str | None:
    """Return the place that an image is read from; None without one."""
    match source:
        case StoredImage():
            return source.url
        case ImageFile():
            return os.path.realpath(source.path)
        case ImageArray() | PackedImage() if "#" in source.name:
            archive, _, row = source.name.rpartition("#")
            return f"{os.path.realpath(archive)}#{row}"
        case _:
            return None


def _copies(first: Sequence[Source], second: Sequence[Source]) -> Iterator[tuple[Source, Source]]:
    """Yield pairs of equal content; only files of equal size are read."""
    sizes = [[_size(source) for source in sources] for sources in (first, second)]
    common = (set(sizes[0]) & set(sizes[1])) - {None}
    known = {_digest(source): source for source, size in zip(first, sizes[0], strict=True) if size in common}
    for source, size in zip(second, sizes[1], strict=True):
        if size in common and (digest := _digest(source)) in known and digest is not None:
            yield known[digest], source


def _size(source: Source) -> object:
    if isinstance(source, ImageArray):
        return source.pixels.shape
    size = size_or_pixels(source)
    return None if size in (b"", b"0") else size


def _digest(source: Source) -> bytes | None:
    try:
        return content_digest(source)
    except DataError:  # reading the image reports it
        return None
