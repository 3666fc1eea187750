"""Causes that are told of images that cannot be decoded."""

import struct

import pytest

from lit_od.errors import ImageError
from lit_od.images import heif
from lit_od.images.preparation import open_image


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"II*\0\x08" + bytes(40), "a damaged TIFF, or one of a kind that is not read"),
        (b"\xff\xd8\xff" + b"\xff" * 40, "a damaged JPEG, or one of a kind that is not read"),
        (b"\xff\x0a" + bytes(40), "a damaged JPEG XL, or one of a kind that is not read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "a damaged JPEG XL, or one of a kind that is not read"),
        (b"\0" * 40, "not an image that can be decoded"),
        (
            b"BM" + struct.pack("<IHHI", 70, 0, 0, 54) + struct.pack("<IiiHHI", 40, 1, 1, 1, 32, 7) + bytes(40),
            "not read",
        ),
    ],
)
def test_a_file_of_a_kind_that_is_not_read_is_not_only_called_damaged(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError, match=f"{cause}"):
        open_image(data)


@pytest.mark.parametrize("brand", [b"heic", b"hevc", b"mif1"])
def test_a_heic_image_under_another_name_names_the_extra_where_it_is_missing(
    brand: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heif, "is_readable", lambda: False)
    with pytest.raises(ImageError, match=r'^a HEIC image, which needs an extra\. Run: pip install "lit-od\[heif\]"$'):
        open_image(b"\0\0\0\x18ftyp" + brand + bytes(40))
    monkeypatch.setattr(heif, "is_readable", lambda: True)
    with pytest.raises(ImageError, match=r"^not an image that can be decoded$"):
        open_image(b"\0\0\0\x18ftyp" + brand + bytes(40))
