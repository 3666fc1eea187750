"""Every way in which an image file can be broken: an ImageError with a cause of one line, and never a crash."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import ImageError
from lit_od.images.preparation import MAX_PIXELS, Preparation, loaded, open_image, prepare
from lit_od.images.sources import Source
from tests.support.images import encoded

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def digit(digits: list[Source]) -> Pixels:
    """A real digit, cut so that height and width differ: (24, 28)."""
    return np.asarray(digits[0].decode())[2:26]


def bomb(width: int, height: int) -> bytes:
    """The first bytes of a PNG file that claims to be large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def cause(file: Path | bytes) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(file)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files(garments: list[Source], tmp_path: Path, form: str) -> None:
    whole = encoded(garments[0].decode().resize((300, 200)), form)
    file = tmp_path / "truncated.png"
    file.write_bytes(whole[: len(whole) // 2])
    assert cause(file) == cause(file.read_bytes())
    assert str(tmp_path) not in cause(file)


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert cause(tmp_path / "empty.png") == cause(b"") == "empty file"


def test_text_named_as_an_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not at all an image\n")
    assert cause(tmp_path / "text.png") == "not an image that can be decoded"


def test_a_mislabelled_image_is_read_by_its_content(digit: Pixels, tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(encoded(Image.fromarray(digit)))
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "really.jpg")), digit)


def test_names_that_are_no_image_file(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.png")
    assert cause(tmp_path) == "is a folder, wanted an image file"
    assert cause(tmp_path / "pipe.png") == "is a pipe or a device, wanted an image file"
    for missing in ("missing.png", "link.png", "nul\0.png"):
        assert cause(tmp_path / missing) == "no such file"
    assert cause(tmp_path / "file" / "a.png") == "not a directory"
    assert cause(tmp_path / "loop.png") == "too many levels of symbolic links"
    assert cause(tmp_path / f"{'x' * 300}.png") == "file name too long"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed.png").write_bytes(bomb(8, 8))
    (tmp_path / "closed.png").chmod(0)
    assert cause(tmp_path / "closed.png") == "permission denied"


def test_a_file_that_the_system_will_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "closed.png")

    (tmp_path / "closed.png").write_bytes(bomb(8, 8))
    monkeypatch.setattr(Image, "open", refuse)
    assert cause(tmp_path / "closed.png") == "permission denied"


def test_pixel_bombs(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(100_000, 100_000))
    assert cause(tmp_path / "bomb.png") == f"its pixels exceed the limit of {MAX_PIXELS:,}"
    with warnings.catch_warnings():  # between the limit and twice the limit Pillow only warns
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert cause(bomb(10_000, 9_000)) == f"10000x9000 pixels exceed the limit of {MAX_PIXELS:,}"
    assert cause(bomb(10_000, 9_000)) == f"its pixels exceed the limit of {MAX_PIXELS:,}"


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^0x5 pixels, wanted at least one$"):
        loaded(Image.new("L", (0, 5)))


def test_an_image_that_was_closed_is_refused(digit: Pixels) -> None:
    image = Image.open(io.BytesIO(encoded(Image.fromarray(digit))))
    image.close()
    with pytest.raises(ImageError, match=r"^damaged image: "):
        loaded(image)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_one_line(garments: list[Source], data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
    raw = bytearray(encoded(garments[0].decode(), form))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        pixels = prepare(open_image(damaged), Preparation(size=(8, 8)))
    except ImageError:
        cause(damaged)
    else:
        assert pixels.shape == (8, 8, 3)
