"""Views of images as sources."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import ConfigError, DataError
from lit_od.images.augment import Augment, changed, drawn
from lit_od.images.batching import load
from lit_od.images.preparation import Preparation
from lit_od.images.roi import encode_mask
from lit_od.images.sources import EncodedImage, ImageArray, Source, View
from lit_od.images.views import Views, require_views
from tests.support.images import GREY

BOTH = Augment(flip=True, turns=True)


def test_views_follow_their_image(digits: list[Source]) -> None:
    images, options = digits[:5], Augment(rotation=40, shift=0.1, views=3)
    views = Views.of(images, options, seed=7)
    assert len(views) == 15
    assert [view.name for view in views] == [image.name for image in images for _ in range(3)]
    assert views[3] is images[1]
    pixels, plain = load(views, GREY), load(images, GREY)
    for row, (image, view) in enumerate((image, view) for image in range(5) for view in range(3)):
        wanted = changed(plain[image], drawn(options, seed=7, image=image, view=view))
        np.testing.assert_array_equal(pixels[row], wanted)


def test_a_part_of_the_views_is_the_same_views(digits: list[Source]) -> None:
    views = Views.of(digits[:6], BOTH, seed=0)
    whole, part = load(views, GREY), views[5:30][2:20]
    assert isinstance(part, Views)
    np.testing.assert_array_equal(load(part, GREY), whole[7:25])
    later: Sequence[Source] = Views.of(digits[2:4], BOTH, seed=0, first=2)
    np.testing.assert_array_equal(load(later, GREY), whole[16:32])


def test_views_keep_the_class() -> None:
    image = ImageArray(np.zeros((4, 4), np.uint8), "a.npz#0", label="b")
    assert {view.label for view in Views.of([image], BOTH, seed=0)} == {"b"}


def test_images_that_are_squeezed_are_not_turned() -> None:
    image = ImageArray(np.zeros((40, 30), np.uint8), "tall.png")
    squeezed, cropped = (Preparation(size=(8, 8), mode="grey", crop_fraction=part) for part in (None, 1.0))
    turned, plain = Augment(turns=True), Augment(shift=0.1)
    message = "tall.png: a turned view needs images of the proportions of 8x8, got 30x40 pixels. Take it out, or crop"
    with pytest.raises(DataError, match=re.escape(message)):
        load(Views.of([image], turned, seed=0), squeezed)
    assert load(Views.of([image], turned, seed=0), cropped).shape == (4, 8, 8, 1)
    assert load(Views.of([image], plain, seed=0), squeezed).shape == (8, 8, 8, 1)


def test_what_has_no_views_is_refused() -> None:
    square, wide = Preparation(size=(8, 8)), Preparation(size=(8, 16))
    require_views(BOTH, square)
    require_views(Augment(flip=True), wide)
    with pytest.raises(
        ConfigError, match=r"data\.augment\.turns takes square images, and data\.prepare\.size is \[8, 16\]"
    ):
        require_views(BOTH, wide)
    with pytest.raises(ConfigError, match=r"data\.augment changes nothing"):
        require_views(Augment(), square)
    mask = encode_mask(np.ones((8, 8), bool))
    region = Preparation(size=(8, 8), mask=mask, mask_colour=(0, 0, 0))
    with pytest.raises(ConfigError, match=r"data\.augment moves images, and with them what data\.mask leaves out"):
        require_views(BOTH, region)
    tiles = Preparation(size=(128, 128), overlap=64)
    with pytest.raises(ConfigError, match=r"data\.augment makes views of whole images, and data\.tile divides them"):
        require_views(BOTH, tiles)


def test_a_view_of_a_broken_image_is_an_error() -> None:
    view = View(EncodedImage(b"no image", "bad.png"), drawn(BOTH, seed=0, image=0, view=1))
    with pytest.raises(DataError, match=r"bad\.png"):
        load([view], GREY)
    assert view.name == "bad.png"


def test_a_view_decodes_to_its_image() -> None:
    image = ImageArray(np.arange(16, dtype=np.uint8).reshape(4, 4), "a")
    decoded = View(image, drawn(BOTH, seed=0, image=0, view=1)).decode()
    assert isinstance(decoded, Image.Image)
    np.testing.assert_array_equal(np.asarray(decoded), image.pixels)
