"""The region of interest: where its mask lies on an image, and what it leaves out."""

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lit_od import Preparation
from lit_od.errors import ConfigError, DataError, ImageError
from lit_od.images.preparation import counted_pixels, prepare
from lit_od.images.roi import decode_mask, encode_mask, scaled
from lit_od.images.roi_colour import colour_sums, masked, mean_colour, read_mask
from lit_od.images.sources import EncodedImage, ImageArray

RNG = np.random.default_rng(0)
MASK = np.zeros((30, 40), bool)
MASK[4:26, 6:30] = True
PNG = encode_mask(MASK)
COLOUR = (10, 200, 30)
RGB = masked(Preparation(size=(30, 40)), PNG, COLOUR)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_mask_is_scaled_to_the_pixel_that_holds_each_centre(length: int, wanted: int) -> None:
    found = scaled(np.arange(length)[:, None] * np.ones((1, length), int) % 2 > 0, (wanted, wanted))
    rows = [int((row + 0.5) * length / wanted + 1e-9) for row in range(wanted)]
    np.testing.assert_array_equal(found[:, 0], np.array(rows) % 2 > 0)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_what_is_left_out_takes_the_colour_before_anything_is_resized(scale: int) -> None:
    image = noise(30 * scale, 40 * scale)
    own = image.copy()
    inside = np.repeat(np.repeat(MASK, scale, 0), scale, 1)
    own[~inside] = COLOUR
    given_ = image.copy()
    wanted = prepare(Image.fromarray(own), Preparation(size=(30, 40)))
    np.testing.assert_array_equal(prepare(image, RGB), wanted)
    np.testing.assert_array_equal(prepare(Image.fromarray(image), RGB), wanted)
    np.testing.assert_array_equal(image, given_)  # the caller's pixels stay


def test_what_a_mask_hides_changes_no_pixel() -> None:
    image = noise(60, 80)
    hidden = image.copy()
    hidden[:8] = noise(8, 80)
    np.testing.assert_array_equal(prepare(hidden, RGB), prepare(image, RGB))


def test_the_mask_lies_on_the_upright_image() -> None:
    upright = Image.fromarray(noise(30, 40))
    exif, stored = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    turned = EncodedImage(stored.getvalue(), "turned")
    np.testing.assert_array_equal(turned.prepare(RGB), prepare(upright, RGB))


@pytest.mark.parametrize("way", ["bilinear", "graph"])
def test_a_crop_is_taken_of_the_masked_image(way: str) -> None:
    cropped = msgspec.structs.replace(RGB, crop_fraction=0.5, resize=way)
    own = noise(30, 40)
    filled = np.where(MASK[..., None], own, np.array(COLOUR, np.uint8))
    plain = Preparation(size=(30, 40), crop_fraction=0.5, resize=way)  # type: ignore[arg-type]  # one of its words
    np.testing.assert_array_equal(prepare(own, cropped), prepare(filled, plain))
    counted = counted_pixels(cropped)
    assert counted is not None
    assert counted[0].any()  # the crop cuts off what lies above the region
    assert not counted_pixels(RGB)[0].any()  # type: ignore[index]  # there is a mask


def test_grey_images_take_one_value() -> None:
    grey = masked(Preparation(size=(30, 40), mode="grey"), PNG, (7,))
    assert set(prepare(noise(30, 40), grey)[~MASK].ravel().tolist()) == {7}


@pytest.mark.parametrize("size", [(40, 30), (30, 44), (60, 60)])
def test_an_image_of_other_proportions_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="but the mask is 40x30, of other proportions"):
        prepare(noise(*size), RGB)
    with pytest.raises(DataError, match=r"odd: .* of other proportions.*Take it out"):
        colour_sums([ImageArray(noise(*size), "odd")], PNG, RGB, threads=1)


def test_proportions_may_be_rounded() -> None:
    for size in [(61, 80), (15, 20), (301, 400), (3, 4)]:
        assert prepare(noise(*size), RGB).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": (10, 10)}, "a mask and a crop in pixels exclude each other"),
        ({"mode": "grey"}, "mask_colour must be 1 values in 0..255"),
        ({"mask_colour": (1, 2, 256)}, "mask_colour must be 3 values"),
    ],
)
def test_a_preparation_that_goes_with_no_mask_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        msgspec.structs.replace(RGB, **fields)


def test_files_are_read_as_masks_where_they_are_white(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    grey = np.where(MASK, 128, 127).astype(np.uint8)
    alpha = np.dstack([np.full((30, 40, 3), 255, np.uint8), np.where(MASK, 255, 0).astype(np.uint8)])
    deep = np.where(MASK, 40_000, 20_000).astype(np.uint16)
    for pixels in (MASK, grey, np.dstack([grey] * 3), alpha, deep):
        Image.fromarray(pixels).save(file)
        np.testing.assert_array_equal(decode_mask(read_mask(file)), MASK)


def test_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    with pytest.raises(ConfigError, match=r"data\.mask .*mask\.png: no such file"):
        read_mask(file)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(file)
    with pytest.raises(ConfigError, match="leaves nothing: no pixel of it is white"):
        read_mask(file)
    with pytest.raises(ImageError, match="a mask that cannot be read"):
        decode_mask(PNG[:40])
    buffer = io.BytesIO()
    Image.fromarray(MASK.astype(np.uint8)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="one bit a pixel, got mode L"):
        decode_mask(buffer.getvalue())
    edge = np.zeros((30, 40), bool)
    edge[0, 0] = True
    with pytest.raises(ConfigError, match="leaves nothing of an image once it is cropped"):
        masked(Preparation(size=(3, 4), crop_fraction=0.5), encode_mask(edge), COLOUR)


def test_the_colour_is_the_mean_of_the_pixels_that_count() -> None:
    images = [noise(30, 40), noise(60, 80), noise(30, 40)]
    sources = [ImageArray(each, str(row)) for row, each in enumerate(images)]
    inside = [scaled(MASK, each.shape[:2]) for each in images]
    pixels = np.concatenate([each[mask] for each, mask in zip(images, inside, strict=True)]).astype(float)
    whole = colour_sums(sources, PNG, RGB, threads=2)
    assert mean_colour(whole) == tuple(np.floor(pixels.mean(axis=0) + 0.5).astype(int).tolist())
    parts = [colour_sums(sources[rows], PNG, RGB, threads=1) for rows in (slice(2, 3), slice(0, 2))]
    np.testing.assert_array_equal(parts[0] + parts[1], whole)
