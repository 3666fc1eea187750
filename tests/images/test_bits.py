"""The option `bits` of a preparation, against numpy."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import ImageError
from lit_od.images.preparation import Preparation, open_image, prepare
from tests.support.image_files import tiff
from tests.support.images import encoded

TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)
"""Every value of 12 bits."""


def prepared(image: Image.Image | bytes, bits: int | None = 12) -> NDArray[np.uint8]:
    image = open_image(image) if isinstance(image, bytes) else image
    return prepare(image, Preparation(size=(image.height, image.width), mode="grey", bits=bits))[..., 0]


def pgm(values: NDArray[np.uint16], most: int, *, plain: bool = False) -> bytes:
    head = f"P{2 if plain else 5} {values.shape[1]} {values.shape[0]} {most}\n"
    return head.encode() + (" ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes())


@pytest.mark.parametrize("bits", range(9, 16))
def test_every_value_is_scaled_so_that_the_largest_is_white(bits: int) -> None:
    values = np.arange(2**bits, dtype=np.uint16).reshape(16, -1)
    want = np.floor(values.astype(np.float64) * 255 / (2**bits - 1) + 0.5)
    np.testing.assert_array_equal(prepared(encoded(Image.fromarray(values)), bits), want)
    assert (want.min(), want.max()) == (0, 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_files_and_integers_of_every_kind_are_scaled_alike(form: str, kind: type[np.generic]) -> None:
    image = Image.fromarray(TWELVE.astype(kind))
    want = np.floor(TWELVE * (255 / 4095) + 0.5)
    np.testing.assert_array_equal(prepared(image), want)
    if kind == np.uint16 or form == "TIFF":
        np.testing.assert_array_equal(prepared(encoded(image, form)), want)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_byte_orders(mode: str) -> None:
    data = TWELVE.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    np.testing.assert_array_equal(
        prepared(Image.frombytes(mode, (64, 64), data)), np.floor(TWELVE * (255 / 4095) + 0.5)
    )


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
@pytest.mark.parametrize(("bits", "value"), [(12, 4096), (12, 65_535), (9, 512), (15, 32_768)])
def test_a_larger_value_is_refused(kind: type[np.generic], bits: int, value: int) -> None:
    image = Image.fromarray(np.array([[0, value, 7]]).astype(kind))
    most = 2**bits - 1
    message = f"values above {most} for bits={bits}: wanted 16-bit grey in 0..{most}, got {value}"
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        prepared(image, bits)
    assert prepared(image, None)[0, 1] == np.floor(value / 257 + 0.5)


def test_the_transparent_grey_is_white_and_may_be_larger() -> None:
    values = TWELVE.copy()
    values[0, 0] = 65_535
    came = prepared(encoded(Image.fromarray(values), transparency=65_535))
    np.testing.assert_array_equal(came, np.where(values == 65_535, 255, np.floor(values * (255 / 4095) + 0.5)))


def test_other_images_are_as_they_were() -> None:
    eight = (TWELVE // 16).astype(np.uint8)
    for image in (
        Image.fromarray(eight),
        Image.fromarray(np.stack([eight, eight.T, eight], axis=-1)),
        Image.fromarray(TWELVE.astype(np.float32) / 4095),
        Image.fromarray(eight > 99),
    ):
        np.testing.assert_array_equal(prepared(image), prepared(image, None))


@pytest.mark.parametrize("dim", [False, True])
def test_a_file_that_says_what_is_white_is_not_scaled_twice(dim: bool) -> None:
    """Dim images would not even be refused."""
    values = TWELVE // 64 if dim else TWELVE
    want = np.floor(values * (255 / 4095) + 0.5)
    np.testing.assert_array_equal(prepared(tiff(values[..., None], photometric=1, bits=12)), want)
    for plain in (False, True):
        np.testing.assert_allclose(prepared(pgm(values, 4095, plain=plain)), want, atol=1)
        np.testing.assert_array_equal(prepared(pgm(values, 65_535, plain=plain)), want)


def test_jpeg_2000_of_fewer_bits_is_not_scaled_twice() -> None:
    """Values are coded less half of their range: by that, a file of 16 bits that is lossless becomes one of 12."""
    file = bytearray(encoded(Image.fromarray(TWELVE + np.uint16(2**15 - 2**11)), "JPEG2000"))
    size = file.find(b"\xff\x4f\xff\x51")
    assert file[size + 42] == 15  # bits less one
    file[size + 42] = file[file.find(b"ihdr") + 14] = 11
    np.testing.assert_array_equal(np.asarray(open_image(bytes(file))), TWELVE * 16)  # Pillow has scaled them
    for bits in (None, 12):
        np.testing.assert_allclose(prepared(bytes(file), bits), TWELVE * (255 / 4095), atol=1)


def test_bands_are_scaled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    image, own = Image.fromarray(TWELVE), open_image(pgm(TWELVE // 64, 4095))
    want, of_own = prepared(image), prepared(own)
    monkeypatch.setattr("lit_od.images.preparation._BAND", 64 * 5)
    np.testing.assert_array_equal(prepared(image), want)
    np.testing.assert_array_equal(prepared(own), of_own)
