"""Describe in one line why an image cannot be decoded."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lit_od.errors import first_line
from lit_od.images import heif

_MAGIC = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
}
"""Formats of which Pillow does not read every kind, by first bytes."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Names that HEIF files give their kind."""


def unidentified(file: Path | bytes) -> str:
    """Describe in one line a file in which Pillow finds no image."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            head = stream.read(12)
    else:
        head = file[:12]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and not heif.is_readable():
        return 'a HEIC image, which needs an extra. Run: pip install "lit-od[heif]"'
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    return f"a damaged {kind}, or one of a kind that is not read" if kind else "not an image that can be decoded"


def cause_of(error: Exception, most: int) -> str:
    """Describe in one line the error of an image that Pillow could not decode."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be decoded"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"its pixels exceed the limit of {most:,}"
    if isinstance(error, MemoryError):
        return "too little memory to decode it"
    if isinstance(error, OSError) and error.strerror:  # from the system, not from a decoder
        return error.strerror.lower()
    if str(error).lower().startswith(("unsupported", "unknown", "decoder error -2")):  # -2: libtiff has no such codec
        return f"damaged image, or of a kind that is not read: {first_line(error)}"
    return f"damaged image: {first_line(error)}"
