"""Correct images that Pillow decodes wrongly, and refuse others.

Refused are files that would take too long, and those that cannot be corrected. `before_decoding` works on what Pillow
has read of an opened file, its head; `after_decoding` on its pixels.
"""

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from lit_od.errors import ImageError

# Broken EXIF turns nothing, so it concerns nobody. The filter is the process's, since those of catch_warnings are not
# safe with threads, and it is as narrow as the message allows.
warnings.filterwarnings("ignore", r"(Possibly )?corrupt EXIF data\.", UserWarning, r"PIL\.TiffImagePlugin$")

MAX_SCANS = 100
"""Largest number of scans of a JPEG, each of which passes over all pixels: encoders write about ten."""

BIG_ENDIAN_BIGTIFF = b"MM\0+"
"""First bytes of such a file."""

KNOWN_WHITE = "lit_od: white is 65535"
"""Key of an image's info: its file says which value is white, and Pillow has scaled that to 65535."""

_MARKER = re.compile(rb"\xff([\x01-\xfe])", re.DOTALL)
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))
"""JPEG markers without a length: TEM, RST0 to RST7 and SOI."""

_NATIVE = {
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
}
"""Raw modes of Pillow with a byte order, and the same in the machine's."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turn that brings an image of each EXIF orientation upright."""

_TURNED_BY = "lit_od_orientation"
"""Key of the orientation by which an image was turned, in what Pillow knows of it."""

_XMP = ("xmp", "XML:com.adobe.xmp")
"""Keys of XMP in what Pillow knows of an image."""

_OF_TWELVE_BITS = ((np.arange(4096) * 255 + 2047) // 4095).astype(np.uint8)
"""8 bits of each value of 12 bits, (4096,)."""

_PHOTOMETRIC, _PLANAR, _BITS, _SAMPLES, _SAMPLE_FORMAT, _FILL_ORDER = 262, 284, 258, 277, 339, 266
_EXTRA_SAMPLES, _PREDICTOR = 338, 317
_DIRECTORIES = frozenset((330, 34_665, 34_853))
"""Tags that point to further directories: of images, of EXIF and of GPS."""

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type."""

_OF_64_BITS = frozenset((16, 17, 18))
_WHITE_IS_ZERO, _SEPARATE, _SIGNED, _PREMULTIPLIED = 0, 2, 2, 1


def before_decoding(image: Image.Image) -> None:
    """Correct how Pillow is going to decode an opened file.

    An image that is decoded already stays unchanged.

    Raises:
        ImageError: If the file has too many scans, or is of a kind that Pillow decodes wrongly.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return
    if image.format in ("JPEG", "MPO"):
        _require_few_scans(image)
    elif image.format == "JPEG2000":
        _require_channels_in_order(image)
        if image.mode == "I;16" and _jpeg2000_bits(image) < 16:
            image.info[KNOWN_WHITE] = True
    elif image.format == "PPM":
        if image.mode == "I" and image.tile[0].args not in ("I;16B", ("L", 65_535)):
            image.info[KNOWN_WHITE] = True
    elif image.format == "PNG":
        _scale_transparent_grey(image)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _require_known_samples(image)
        _correct_planes(image)
        _correct_byte_order(image)


def after_decoding(image: Image.Image) -> Image.Image:
    """Correct the values of a decoded image: 0 is black, the largest is white."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    if image.mode == "I;16" and image.tag_v2.get(_BITS) == (12,):
        return Image.fromarray(_OF_TWELVE_BITS[np.asarray(image)])
    if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        if image.mode == "I;16":
            return Image.fromarray(65_535 - np.asarray(image))
        if image.mode == "F":
            return Image.fromarray(1 - np.asarray(image))
    return image


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded image as its EXIF orientation says; broken EXIF says nothing."""
    image.info.pop(_TURNED_BY, None)
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        method = _TURNS.get(orientation)
    except Exception:  # whatever broken metadata makes Pillow raise: the pixels are intact
        method = None
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info[_TURNED_BY] = orientation
    for key in ("exif", "Raw profile type exif"):  # they would turn it again
        turned.info.pop(key, None)
    return turned


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation by which an image was turned upright, or 1."""
    found: int = image.info.get(_TURNED_BY, 1)
    return found


@contextmanager
def xmp_set_aside(image: Image.Image) -> Iterator[None]:
    """Hide the XMP of an image from Pillow, which would turn the image by it."""
    aside = {key: image.info.pop(key) for key in _XMP if key in image.info}
    try:
        yield
    finally:
        image.info.update(aside)


# JPEG


def _require_few_scans(image: ImageFile.ImageFile) -> None:
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(place)
    if data.count(b"\xff\xda") > MAX_SCANS and _has_more_scans(data, MAX_SCANS):
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans, wanted at most {MAX_SCANS}: save it anew")


def _has_more_scans(data: bytes, most: int) -> bool:
    """Return True if a JPEG has more than `most` scans, by its markers."""
    scans, at = 0, 0
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == 0xD9:  # end of the image; what follows is no part of it
            return False
        if marker not in _BARE_MARKERS:
            at += int.from_bytes(data[at : at + 2], "big")
            scans += marker == 0xDA
            if scans > most:
                return True
    return False


# JPEG 2000


def _require_channels_in_order(image: ImageFile.ImageFile) -> None:
    """Refuse channel definitions (box cdef) by which channels are permuted.

    Pillow passes over them.
    """
    head = _head(image)
    begin = head.find(b"jp2h")
    found = head.find(b"cdef", begin, head.find(b"jp2c", begin)) if begin >= 0 else -1
    if found < 0:
        return
    count = int.from_bytes(head[found + 4 : found + 6], "big")
    entries = np.frombuffer(head[found + 6 : found + 6 + 6 * count], dtype=">u2").reshape(-1, 3)
    for channel, kind, colour in entries.tolist():
        if kind == 0 and 0 < colour < 65_535 and colour != channel + 1:
            raise ImageError(
                "a JPEG 2000 with its channels in another order, wanted grey or red, green, blue: save it anew"
            )


def _jpeg2000_bits(image: ImageFile.ImageFile) -> int:
    """Return the bits of a JPEG 2000's first channel.

    Marker SIZ has them; 16 where it is not found.
    """
    head = _head(image)
    begin = head.find(b"\xff\x4f\xff\x51")
    return (head[begin + 42] & 0x7F) + 1 if 0 <= begin < len(head) - 42 else 16


def _head(image: ImageFile.ImageFile) -> bytes:
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(65_536)
    image.fp.seek(place)
    return head


# PNG


def _scale_transparent_grey(image: ImageFile.ImageFile) -> None:
    """Bring the transparent grey of 2 or 4 bits to the 8 bits of the pixels.

    Pillow compares the one that is stored with pixels of 8 bits.

    Raises:
        ImageError: If the transparent colour has more bits than the pixels will have.
    """
    key, form = image.info.get("transparency"), image.tile[0].args
    bits = {"L;2": 2, "L;4": 4}.get(form) if isinstance(form, str) else None
    if bits is not None and isinstance(key, int):
        most = 2**bits - 1
        image.info["transparency"] = (key & most) * 255 // most
    if form == "RGB;16B" and isinstance(key, tuple):
        raise ImageError(
            "a transparent colour in a PNG of 16-bit colours is not read: save it with 8 bits or with alpha"
        )


# TIFF


def _require_known_samples(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse samples that Pillow takes for others."""
    tags = image.tag_v2
    if image.mode == "L" and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise ImageError("a TIFF of signed 8-bit values, wanted unsigned ones: save it anew")
    if tags.get(_BITS) == (12,) and tags.get(_PREDICTOR, 1) != 1:
        raise ImageError("a TIFF of 12-bit differences (a predictor), wanted plain values: save it without")


def _correct_planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Name the type of each uncompressed plane.

    Pillow takes separate planes for 8 bits that are not inverted.

    Raises:
        ImageError: If Pillow would put a plane elsewhere.
    """
    tags = image.tag_v2
    if tags.get(_PLANAR) != _SEPARATE:
        return
    bands, samples = len(image.getbands()), tags.get(_SAMPLES, 1)
    raw, deep = image.tile[0].codec_name == "raw", 16 in tags.get(_BITS, ())
    if bands == samples == 1:
        key = (tags.prefix, tags.get(_PHOTOMETRIC, 0), tags.get(_SAMPLE_FORMAT, (1,)), tags.get(_FILL_ORDER, 1))
        whole, end = TiffImagePlugin.OPEN_INFO.get((*key, tags.get(_BITS, (1,)), ()), ("", ""))[1], ""
    elif (
        (bands > 1 and image.mode not in ("RGB", "RGBA", "CMYK"))
        or _PREMULTIPLIED in tags.get(_EXTRA_SAMPLES, ())
        or (raw and (bands != samples or (deep and image.mode == "CMYK")))
    ):
        raise ImageError(
            f"a TIFF of {samples} separate planes ({image.mode}), wanted interleaved channels: save it with those"
        )
    else:
        whole, end = "", (";16L" if tags.prefix == b"II" else ";16B") if deep else ""
    if raw:
        image.tile = [
            each._replace(args=(whole or f"{each.args[0]}{end}", *each.args[1:]))
            for each in image.tile
            if isinstance(each.args, tuple)
        ]


def _correct_byte_order(image: TiffImagePlugin.TiffImageFile) -> None:
    """Read decompressed values in the byte order of the machine.

    libtiff gives them in that order; Pillow reads some types in the order of the file.
    """
    if image.tile[0].codec_name == "libtiff":
        image.tile = [
            each._replace(args=(_NATIVE.get(each.args[0], each.args[0]), *each.args[1:]))
            for each in image.tile
            if isinstance(each.args, tuple)
        ]


def classic_tiff(data: bytes) -> bytes:
    """Rewrite a big-endian BigTIFF, which Pillow cannot read, as a classic TIFF.

    The first directory, with 32-bit offsets, is put behind the data; everything else stays in its place.

    Raises:
        ImageError: If it is damaged, or holds more than 4 GiB.
    """
    try:
        (place,) = struct.unpack_from(">Q", data, 8)
        (count,) = struct.unpack_from(">Q", data, place)
        if count > 65_535:
            raise ImageError(f"damaged image: {count:,} entries in the directory of its BigTIFF, wanted at most 65,535")
        added, entries = bytearray(), []
        for at in range(place + 8, place + 8 + 20 * count, 20):
            tag, kind, number = struct.unpack_from(">HHQ", data, at)
            length = number * _TYPE_SIZES[kind]
            start = at + 12 if length <= 8 else struct.unpack_from(">Q", data, at + 12)[0]
            raw = data[start : start + length]
            if len(raw) < length or len(added) > len(data):  # values that overlap would multiply
                raise ImageError("damaged image: the directory of its BigTIFF is not within the file")
            if kind in _OF_64_BITS:
                kind, raw = 4, struct.pack(f">{number}I", *struct.unpack(f">{number}Q", raw))
            if len(raw) > 4:
                value = struct.pack(">I", len(data) + len(added))
                added += raw
            else:
                value = raw.ljust(4, b"\0")
            if tag not in _DIRECTORIES:
                entries.append(struct.pack(">HHI", tag, kind, number) + value)
        directory = struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
        head = b"MM\0*" + struct.pack(">I", len(data) + len(added))
    except (struct.error, KeyError):
        raise ImageError("a damaged BigTIFF, or one of more than 4 GiB") from None
    return head + data[8:] + bytes(added) + directory
