"""Masks: matched by stem, read at their image's size, and brought to the prepared size with it."""

import numpy as np
import pytest
from PIL import Image

from lit_od import Preparation
from lit_od.errors import DataError
from lit_od.images.find_local import find
from lit_od.images.ground_truth import GroundTruth, Saturation, match_masks, read_saturations
from lit_od.images.preparation import prepare
from tests.support import categories
from tests.support.images import GREY

PREPARATIONS = [
    GREY,
    Preparation(size=(14, 21), mode="rgb"),
    Preparation(size=(20, 20), mode="grey", crop=(24, 24)),
    Preparation(size=(20, 30), mode="grey", crop_fraction=0.8),
]


def read(tmp_path, mask, preparation=GREY, *, shape=(28, 28), name="mask.png"):
    """A mask read with an image of some shape."""
    categories.save(np.zeros(shape, np.uint8), tmp_path / "image.png")
    if isinstance(mask, Image.Image):
        mask.save(tmp_path / name)
    else:
        categories.save(mask, tmp_path / name)
    (image,) = find([tmp_path / "image.png"])
    return GroundTruth({image.name: [tmp_path / name]}).masks(image, preparation)


@pytest.mark.parametrize("preparation", PREPARATIONS)
def test_a_mask_lies_on_its_image(tmp_path, preparation):
    pixels = np.zeros((32, 56), np.uint8)
    pixels[8:24, 16:40] = 255
    (found,) = read(tmp_path, pixels > 0, preparation, shape=pixels.shape)
    image = prepare(pixels, preparation).max(axis=2)
    assert found.pixels.shape == preparation.size
    assert found.pixels[image > 200].all()
    assert not found.pixels[image < 50].any()


def forms():
    values = np.zeros((28, 28), np.uint8)
    values[4:9, 3:7] = 255
    grey = Image.fromarray(values)
    palette = Image.fromarray((values > 0).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    opaque = grey.convert("RGBA")
    return {
        "one bit": grey.convert("1"),
        "ones": Image.fromarray((values > 0).astype(np.uint8)),
        "colour": grey.convert("RGB"),
        "palette": palette,
        "opacity": opaque,
        "sixteen bits": Image.fromarray(values.astype(np.uint16) * 257),
    }


@pytest.mark.parametrize("form", forms())
def test_masks_of_any_kind_of_image(tmp_path, form):
    (found,) = read(tmp_path, forms()[form])
    assert np.array_equal(np.argwhere(found.pixels).min(axis=0), [4, 3])
    assert found.pixels.sum() == 20
    assert found.saturation == 1


def test_a_jpeg_is_cut_at_half_its_range(tmp_path):
    values = np.zeros((28, 28), np.uint8)
    values[8:16, 8:16] = 255
    (found,) = read(tmp_path, values, name="mask.jpg")
    assert np.array_equal(found.pixels, values > 0)


def test_a_mask_without_a_pixel_is_none(tmp_path):
    assert read(tmp_path, np.zeros((28, 28), bool)) == []


def test_a_tiny_defect_may_vanish_at_the_prepared_size(tmp_path):
    mask = np.zeros((280, 280), bool)
    mask[10, 10] = True
    (found,) = read(tmp_path, mask, shape=(280, 280))
    assert not found.pixels.any()


def test_a_mask_of_another_size_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"has 28x20 pixels, its image .*image.png 28x28: give a mask of the image's size"
    ):
        read(tmp_path, np.ones((20, 28), bool))


def test_a_file_that_is_no_image_is_refused(tmp_path):
    categories.save(np.zeros((28, 28), np.uint8), tmp_path / "image.png")
    (tmp_path / "mask.png").write_bytes(b"no image")
    (image,) = find([tmp_path / "image.png"])
    with pytest.raises(DataError, match=r"the mask .*mask.png cannot be read"):
        GroundTruth({image.name: [tmp_path / "mask.png"]}).masks(image, GREY)


def test_an_image_without_masks_is_free_of_defects(tmp_path):
    categories.save(np.zeros((28, 28), np.uint8), tmp_path / "image.png")
    assert GroundTruth({}).masks(find([tmp_path / "image.png"])[0], GREY) == []


@pytest.mark.parametrize(
    ("threshold", "relative", "area", "share"),
    [(9, False, 36, 0.25), (100, False, 36, 1.0), (0.5, True, 36, 0.5), (1.0, True, 3, 1.0), (0.001, True, 10, 0.1)],
)
def test_a_saturation_is_a_share_of_the_defect(threshold, relative, area, share):
    entry = Saturation(defect_name="x", pixel_value=1, saturation_threshold=threshold, relative_saturation=relative)
    assert entry.share(area) == pytest.approx(share)


def test_saturations_belong_to_the_values_of_pixels(tmp_path):
    categories.save(np.zeros((28, 28), np.uint8), tmp_path / "image.png")
    values = np.zeros((28, 28), np.uint8)
    values[:4, :9] = 7
    categories.save(values, tmp_path / "mask.png")
    (image,) = find([tmp_path / "image.png"])
    entry = Saturation(defect_name="x", pixel_value=7, saturation_threshold=9, relative_saturation=False)
    files = {image.name: [tmp_path / "mask.png"]}
    assert GroundTruth(files, {7: entry}).masks(image, GREY)[0].saturation == 0.25
    with pytest.raises(DataError, match=r"has pixels of 7, which is no defect of defects_config.json: 8"):
        GroundTruth(files, {8: entry}).masks(image, GREY)


def test_a_file_of_saturations_is_checked(tmp_path):
    for text in ("{", "[{}]", '[{"pixel_value": "x"}]'):
        (tmp_path / "defects_config.json").write_text(text)
        with pytest.raises(DataError, match="is no list of defects with their saturation"):
            read_saturations(tmp_path / "defects_config.json")


def matched(tmp_path, images, masks):
    """Places of masks by the place of their image, and the images without one."""
    for folder, names in (("images", images), ("masks", masks)):
        for name in names:
            categories.save(np.zeros((4, 4), np.uint8), tmp_path / folder / name)
    found, without = match_masks(find([tmp_path / "images"]), tmp_path / "masks")
    shown = {
        str(name).removeprefix(f"{tmp_path}/images/"): [str(file.relative_to(tmp_path / "masks")) for file in files]
        for name, files in found.items()
    }
    return shown, [image.path.name for image in without]


@pytest.mark.parametrize(
    ("images", "masks", "expected", "without"),
    [
        (["a.jpg", "b.png"], ["a.png", "b_mask.bmp"], {"a.jpg": ["a.png"], "b.png": ["b_mask.bmp"]}, []),
        (["a.png", "b.png"], ["a.png"], {"a.png": ["a.png"]}, ["b.png"]),
        (["x/0.png", "y/0.png"], ["x/0.png", "y/0.png"], {"x/0.png": ["x/0.png"], "y/0.png": ["y/0.png"]}, []),
        (["x/0.png", "y/0.png"], ["x/0.png"], {"x/0.png": ["x/0.png"]}, ["0.png"]),
        (["bad/a.png"], ["a.png"], {"bad/a.png": ["a.png"]}, []),
        (["a.png"], ["images/a.png"], {"a.png": ["images/a.png"]}, []),
        (["x/0.png"], ["y/0.png"], {}, ["0.png"]),
        (["a.png"], ["a/0.png", "a/1.png"], {"a.png": ["a/0.png", "a/1.png"]}, []),
    ],
)
def test_masks_match_by_place_and_stem(tmp_path, images, masks, expected, without):
    assert matched(tmp_path, images, masks) == (expected, without)


def test_a_mask_that_could_be_of_several_images_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"0.png could be the mask of .*x/0.png or of .*y/0.png: put masks into folders"
    ):
        matched(tmp_path, ["x/0.png", "y/0.png"], ["0.png"])
