"""The way back from prepared pixels to the image as it was given."""

import io

import numpy as np
import pytest
from PIL import Image

from lit_od.images.geometry import Geometry
from lit_od.images.preparation import Preparation
from lit_od.images.sources import EncodedImage, ImageArray, OpenImage

HEIGHT, WIDTH = 16, 24


def turned_file(orientation: int, x: int, y: int) -> bytes:
    """Return a PNG that is black but for one white block of 4x4 pixels, to be turned by EXIF."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[y : y + 4, x : x + 4] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_block_is_found_where_the_file_has_it(orientation):
    upright = (WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH)
    preparation = Preparation(size=(upright[0] // 2, upright[1] // 2), mode="grey")
    pixels, geometry = EncodedImage(turned_file(orientation, 16, 4), "a").located(preparation)
    assert geometry == Geometry((HEIGHT, WIDTH), orientation)
    assert geometry.upright == upright
    rows, columns = np.nonzero(pixels[..., 0] > 100)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    assert geometry.box(box, preparation) == (16, 4, 20, 8)
    x, y = geometry.pixel(box[0], box[1], preparation)
    assert 16 <= x < 20
    assert 4 <= y < 8
    assert geometry.scale(preparation) == 4


def test_an_image_that_was_turned_before_is_given_upright():
    preparation = Preparation(size=(8, 8))
    turned = EncodedImage(turned_file(6, 0, 0), "a").decode()
    assert OpenImage(turned, "b").located(preparation)[1] == Geometry((WIDTH, HEIGHT))
    again = Image.open(io.BytesIO(turned_file(6, 0, 0)))
    for _ in range(2):
        assert OpenImage(again, "c").located(preparation)[1] == Geometry((HEIGHT, WIDTH), 6)


def test_an_array_has_its_own_size():
    pixels = np.zeros((5, 9, 3), np.uint8)
    assert ImageArray(pixels, "a").located(Preparation(size=(4, 4)))[1] == Geometry((5, 9))
