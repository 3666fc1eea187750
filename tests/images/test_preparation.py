"""Every stated rule of `lit_od.images.preparation`, against numpy."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import ConfigError, DataError, ImageError
from lit_od.images.colour import from_array
from lit_od.images.folder_search import EXTENSIONS
from lit_od.images.preparation import FORMATS, Preparation, open_image, prepare
from lit_od.images.sources import Source
from tests.support.image_files import tiff
from tests.support.images import encoded

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def digit(digits: list[Source]) -> Pixels:
    """A real digit, cut so that height and width differ: (24, 28)."""
    return np.asarray(digits[0].decode())[2:26]


@pytest.fixture(scope="module")
def colours(digits: list[Source]) -> Pixels:
    """Three real digits as the channels of one image: (24, 28, 3)."""
    return np.stack([np.asarray(source.decode())[2:26] for source in digits[:3]], axis=-1)


def grey(pixels: NDArray[np.generic], **options: object) -> Preparation:
    return Preparation(size=pixels.shape[:2], mode="grey", **options)  # type: ignore[arg-type]  # a test's own


def rgb(pixels: NDArray[np.generic]) -> Preparation:
    return Preparation(size=pixels.shape[:2], mode="rgb")  # type: ignore[arg-type]  # as above


def over_white(colour: NDArray[np.generic], alpha: NDArray[np.generic]) -> NDArray[np.float64]:
    share = alpha.astype(np.float64)[..., None] / 255
    return share * colour + (1 - share) * 255


# Depth


def test_every_sixteen_bit_value_is_divided_by_257_and_rounded() -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    came = prepare(open_image(encoded(Image.fromarray(values))), grey(values))[..., 0]
    np.testing.assert_array_equal(came, np.floor(values / 257 + 0.5))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_a_sixteen_bit_twin_gives_the_pixels_of_its_eight_bit_original(digit: Pixels, form: str) -> None:
    twin = open_image(encoded(Image.fromarray(digit.astype(np.uint16) * 257), form))
    assert twin.mode.startswith("I")
    for how in (grey(digit), rgb(digit), Preparation(size=(9, 11), mode="grey")):
        np.testing.assert_array_equal(prepare(twin, how), prepare(Image.fromarray(digit), how))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_byte_orders_of_sixteen_bits(digit: Pixels, mode: str) -> None:
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, digit.shape[::-1], (digit.astype(np.uint16) * 257).astype(order).tobytes())
    np.testing.assert_array_equal(prepare(image, grey(digit))[..., 0], digit)


def test_thirty_two_bit_integers_go_the_way_of_sixteen_bits(digit: Pixels) -> None:
    image = open_image(encoded(Image.fromarray(digit.astype(np.int32) * 257), "TIFF"))
    assert image.mode == "I"
    np.testing.assert_array_equal(prepare(image, grey(digit))[..., 0], digit)


@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize(
    ("kind", "values", "span"),
    [
        (np.int32, [0, -1, 9], r"-1\.\.9"),
        (np.int32, [3, 65_536, 5], r"3\.\.65536"),
        (np.int32, [2**31 - 1, 7, -(2**31)], r"-2147483648\.\.2147483647"),
        (np.int16, [300, -2, 9], r"-2\.\.300"),
    ],
)
def test_integers_out_of_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[np.signedinteger], values: list[int], span: str, banded: bool
) -> None:
    column = np.array(values, dtype=kind)[:, None]
    if banded:
        monkeypatch.setattr("lit_od.images.preparation._BAND", 1)
    if kind == np.int16:
        image = open_image(tiff(column[..., None], photometric=1, tags={339: (2,)}))
    else:
        image = Image.fromarray(column)
    with pytest.raises(ImageError, match=rf"^integers must lie in 0\.\.65535, got {span}$"):
        prepare(image, Preparation(size=(3, 1)))


def test_floating_point_is_multiplied_by_255() -> None:
    values = np.linspace(0, 1, 1001, dtype=np.float32).reshape(7, 143)
    image = open_image(encoded(Image.fromarray(values), "TIFF"))
    assert image.mode == "F"
    np.testing.assert_allclose(prepare(image, grey(values))[..., 0], values * 255.0, atol=0.5001)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.nan, np.inf])
def test_floating_point_out_of_range_is_refused(value: float) -> None:
    image = Image.fromarray(np.array([[0.5, value]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"^floating-point values must lie in \[0, 1\]$"):
        prepare(image, Preparation(size=(1, 2)))


def test_one_bit_images_are_black_and_white(digit: Pixels) -> None:
    image = open_image(encoded(Image.fromarray(digit > 99)))
    assert image.mode == "1"
    np.testing.assert_array_equal(prepare(image, grey(digit))[..., 0], np.where(digit > 99, 255, 0))
    np.testing.assert_array_equal(prepare(image, rgb(digit))[..., 2], np.where(digit > 99, 255, 0))


# Colour


def test_colour_from_grey_repeats_it(digit: Pixels) -> None:
    np.testing.assert_array_equal(prepare(Image.fromarray(digit), rgb(digit)), np.stack([digit] * 3, axis=-1))


def test_grey_from_colour_is_luma(colours: Pixels) -> None:
    luma = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(prepare(Image.fromarray(colours), grey(colours))[..., 0], luma, atol=1)


def test_grey_from_colour_is_luminosity_where_asked(colours: Pixels) -> None:
    luminosity = colours @ np.array([0.21, 0.72, 0.07])
    how = grey(colours, grey="luminosity")
    np.testing.assert_allclose(prepare(Image.fromarray(colours), how)[..., 0], luminosity, atol=0.5001)
    white = np.full((2, 2, 3), 255, dtype=np.uint8)
    assert (prepare(white, grey(white, grey="luminosity")) == 255).all()
    one = colours[..., 0]
    np.testing.assert_array_equal(prepare(one, grey(one, grey="luminosity"))[..., 0], one)


def test_palettes_become_their_colours(colours: Pixels) -> None:
    image = Image.fromarray(colours).quantize(32)
    table = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
    came = prepare(open_image(encoded(image)), rgb(colours))
    np.testing.assert_array_equal(came, table[np.asarray(image)])


def test_a_palette_with_transparency_lies_over_white(colours: Pixels) -> None:
    image = Image.fromarray(colours).quantize(32)
    table = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
    alphas = np.linspace(0, 255, 32).astype(np.uint8)
    opened = open_image(encoded(image, transparency=alphas.tobytes()))
    assert opened.mode == "P"
    index = np.asarray(image)
    np.testing.assert_allclose(prepare(opened, rgb(colours)), over_white(table[index], alphas[index]), atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_alpha_lies_over_white(colours: Pixels, digit: Pixels, mode: str) -> None:
    alpha = np.tile(np.linspace(0, 255, digit.shape[1]).astype(np.uint8), (len(digit), 1))
    if mode == "PA":
        image = Image.fromarray(digit).convert("PA")
        image.putalpha(Image.fromarray(alpha))
        colour = np.stack([digit] * 3, axis=-1)
    else:
        base = Image.fromarray(colours if mode.startswith("RGB") else digit)
        image = base.convert("RGBA" if mode.startswith("RGB") else "LA")
        image.putalpha(Image.fromarray(alpha))
        colour = np.asarray(base.convert("RGB"))
        image = image.convert(mode)  # type: ignore[arg-type]  # a mode of the list above
    assert image.mode == mode
    came = prepare(image, rgb(digit))
    # Premultiplied colours are rounded twice more.
    np.testing.assert_allclose(came, over_white(colour, alpha), atol=3 if mode[-1] == "a" else 1)


def test_a_transparent_colour_in_grey_and_rgb_files_is_white(digit: Pixels, colours: Pixels) -> None:
    image = open_image(encoded(Image.fromarray(digit), transparency=0))
    assert (image.mode, "transparency" in image.info) == ("L", True)
    np.testing.assert_array_equal(prepare(image, grey(digit))[..., 0], np.where(digit == 0, 255, digit))
    image = open_image(encoded(Image.fromarray(colours), transparency=(0, 0, 0)))
    black = (colours == 0).all(axis=-1, keepdims=True)
    np.testing.assert_array_equal(prepare(image, rgb(colours)), np.where(black, 255, colours))


def test_cmyk_becomes_rgb(colours: Pixels) -> None:
    cmyk = np.concatenate([255 - colours, np.full((*colours.shape[:2], 1), 40, dtype=np.uint8)], axis=-1)
    image = open_image(encoded(Image.frombytes("CMYK", colours.shape[1::-1], cmyk.tobytes()), "TIFF"))
    assert image.mode == "CMYK"
    np.testing.assert_allclose(prepare(image, rgb(colours)), colours * ((255 - 40) / 255), atol=1)


@pytest.mark.parametrize(("mode", "off"), [("YCbCr", 3), ("HSV", 6), ("LAB", 16), ("RGBX", 0)])
def test_other_colour_spaces_become_rgb(mode: str, off: int) -> None:
    ramp = np.linspace(40, 200, 24).astype(np.uint8)
    soft = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, ::-1], np.uint8(120)), axis=-1)
    image = Image.fromarray(soft).convert(mode)  # type: ignore[arg-type]  # a mode of the list above
    np.testing.assert_allclose(prepare(image, rgb(soft)), soft.astype(float), atol=off)


# Orientation and frames

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored),
}
"""What the EXIF standard says of each orientation, on the stored pixels."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_is_applied(digit: Pixels, orientation: int, bits: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = digit if bits == 8 else digit.astype(np.uint16) * 257
    image = open_image(encoded(Image.fromarray(stored), exif=exif))
    upright = UPRIGHT[orientation](digit)
    assert image.size == upright.shape[::-1]
    np.testing.assert_array_equal(prepare(image, grey(upright))[..., 0], upright)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animated_file_gives_its_first_frame(digits: list[Source], form: str) -> None:
    frames = [source.decode() for source in digits[:3]]
    lossless = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **lossless)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    first = np.asarray(frames[0])
    np.testing.assert_array_equal(prepare(open_image(data), grey(first))[..., 0], first)


# Crop and resize


def kernel(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    if name == "bilinear":
        return np.clip(1 - x, 0, None)
    a = -0.5
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    return np.where(x < 1, near, np.where(x < 2, a * (x**3 - 5 * x**2 + 8 * x - 4), 0))


def weights(name: str, source: int, target: int) -> NDArray[np.float64]:
    """Antialiased resampling as one matrix, (target, source): the kernel is as wide as the shrinking demands."""
    scale = max(source / target, 1.0)
    centres = (np.arange(target) + 0.5) * source / target
    matrix = kernel(name, (np.arange(source) + 0.5 - centres[:, None]) / scale)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 9), (24, 9), (50, 61), (13, 28)])
def test_resizing_is_antialiased(digit: Pixels, name: str, size: tuple[int, int]) -> None:
    came = prepare(Image.fromarray(digit), Preparation(size=size, mode="grey", resize=name))  # type: ignore[arg-type]
    rows = np.clip(np.rint(digit @ weights(name, 28, size[1]).T), 0, 255)  # Pillow's first pass goes along the rows
    want = np.clip(weights(name, 24, size[0]) @ rows, 0, 255)
    np.testing.assert_allclose(came[..., 0], want, atol=1.5)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_resizing_is_pillows(colours: Pixels, name: str) -> None:
    want = Image.fromarray(colours).resize((11, 10), Image.Resampling[name.upper()])
    came = prepare(colours, Preparation(size=(10, 11), resize=name))  # type: ignore[arg-type]
    np.testing.assert_array_equal(came, np.asarray(want))


def test_a_crop_of_the_wanted_size_is_a_slice(garments: list[Source]) -> None:
    image = garments[0].decode().resize((32, 32))
    came = prepare(image, Preparation(size=(28, 28), mode="grey", crop=(28, 28)))
    np.testing.assert_array_equal(came[..., 0], np.asarray(image)[2:30, 2:30])


@settings(max_examples=60)
@given(
    tall=st.integers(4, 40),
    wide=st.integers(4, 40),
    crop=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_crop_is_cut_out_before_resizing(tall: int, wide: int, crop: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(tall * 41 + wide).integers(0, 256, (tall, wide), dtype=np.uint8)
    top, left = (tall - crop[0]) // 2, (wide - crop[1]) // 2
    inner = pixels[top : top + crop[0], left : left + crop[1]]
    want = Image.fromarray(inner).resize(size[::-1], Image.Resampling.BILINEAR)
    came = prepare(pixels, Preparation(size=size, mode="grey", crop=crop))
    np.testing.assert_array_equal(came[..., 0], np.asarray(want))


def test_crop_fraction_takes_the_largest_centred_box_of_the_proportions(digits: list[Source]) -> None:
    pixels = np.asarray(digits[5].decode())  # (28, 28)
    half = prepare(pixels, Preparation(size=(7, 14), mode="grey", crop_fraction=1.0))
    want = Image.fromarray(pixels[7:21]).resize((14, 7), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(half[..., 0], np.asarray(want))
    part = prepare(pixels, Preparation(size=(14, 14), mode="grey", crop_fraction=0.5))
    np.testing.assert_array_equal(part[..., 0], pixels[7:21, 7:21])


def test_a_fractional_box_is_resampled(digit: Pixels) -> None:
    """Box (24, 24) * 0.9 = 21.6 wide: the rows that the box only touches count by the share inside it."""
    how = Preparation(size=(6, 6), mode="grey", crop_fraction=0.9)
    came = prepare(digit, how)[..., 0]
    want = Image.fromarray(digit).resize((6, 6), Image.Resampling.BILINEAR, box=(3.2, 1.2, 24.8, 22.8))
    inner = (slice(1, -1), slice(1, -1))  # at the edges Pillow looks beyond the box
    np.testing.assert_array_equal(came[inner], np.asarray(want)[inner])


@settings(max_examples=100)
@given(
    tall=st.integers(1, 60),
    wide=st.integers(1, 60),
    channels=st.sampled_from([1, 3, 4]),
    value=st.integers(0, 255),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fraction=st.none() | st.floats(0.01, 1),
    resize=st.sampled_from(["bilinear", "bicubic"]),
    mode=st.sampled_from(["grey", "rgb"]),
)
def test_a_plain_image_stays_plain(
    tall: int,
    wide: int,
    channels: int,
    value: int,
    size: tuple[int, int],
    fraction: float | None,
    resize: str,
    mode: str,
) -> None:
    pixels = np.full((tall, wide, channels), value, dtype=np.uint8)
    if channels == 4:
        pixels[..., 3] = 255
    how = Preparation(size=size, mode=mode, resize=resize, crop_fraction=fraction)  # type: ignore[arg-type]
    came = prepare(pixels, how)
    assert (came.shape, came.dtype) == (how.shape, np.uint8)
    assert (came == value).all()


def test_an_image_smaller_than_the_crop_is_refused(digit: Pixels) -> None:
    with pytest.raises(ImageError, match=r"^a crop of 25x28 \(h x w\) needs a larger image than 24x28$"):
        prepare(digit, Preparation(size=(28, 28), crop=(25, 28)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 28)}, r"size must be height and width in 1\.\.16384, got \[0, 28\]"),
        ({"size": (28, 16_385)}, r"size must be .* got \[28, 16385\]"),
        ({"size": (8, 8), "crop": (8, -1)}, r"crop must be height and width .* got \[8, -1\]"),
        ({"size": (8, 8), "crop": (9, 9), "crop_fraction": 0.5}, "crop and crop_fraction exclude each other"),
        ({"size": (8, 8), "crop_fraction": 0.0}, r"crop_fraction must lie in \(0, 1\], got 0"),
        ({"size": (8, 8), "bits": 8}, r"bits must lie in 9\.\.15, or be null for all 16, got 8"),
        ({"size": (8, 8), "bits": 16}, r"bits must lie in 9\.\.15, or be null for all 16, got 16"),
        ({"size": (8, 8), "crop_fraction": 1.5}, r"crop_fraction must lie in \(0, 1\], got 1\.5"),
        ({"size": (8, 8), "crop_fraction": float("nan")}, r"crop_fraction must lie in \(0, 1\], got nan"),
    ],
)
def test_impossible_preparations_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preparation(**options)  # type: ignore[arg-type]


# Large images


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("how", [{"mode": "rgb"}, {"mode": "grey"}, {"mode": "grey", "grey": "luminosity"}])
def test_bands_give_the_pixels_of_the_whole(
    digits: list[Source], monkeypatch: pytest.MonkeyPatch, mode: str, how: dict[str, Any]
) -> None:
    pixels = np.stack([np.asarray(source.decode()) for source in digits[:4]], axis=-1)[:-3]  # (25, 28, 4)
    match mode:
        case "I;16" | "I":
            image = Image.fromarray(pixels[..., 0].astype("u2" if mode == "I;16" else "i4") * 257)
            image.info["transparency"] = 0
        case "F":
            image = Image.fromarray(pixels[..., 0].astype("f4") / 255)
        case _:
            image = Image.fromarray(pixels).convert(mode)  # type: ignore[arg-type]  # a mode of the list above
    assert image.mode == mode
    preparation = Preparation(size=(20, 11), **how)
    want = prepare(image, preparation)
    monkeypatch.setattr("lit_od.images.preparation._BAND", 28 * 4)
    np.testing.assert_array_equal(prepare(image, preparation), want)


def test_an_image_too_large_to_prepare_is_unreadable(monkeypatch: pytest.MonkeyPatch, digit: Pixels) -> None:
    """A bicubic filter over tens of millions of columns has more weights than Pillow allocates."""

    def refuse(*args: object, **options: object) -> None:
        raise MemoryError

    file = encoded(Image.fromarray(digit), "BMP")
    monkeypatch.setattr(Image.Image, "resize", refuse)
    with pytest.raises(
        ImageError, match=r"^too little memory to prepare its 28x24 pixels: crop it or save it smaller$"
    ):
        prepare(digit, Preparation(size=(8, 8), resize="bicubic"))
    monkeypatch.setattr(Image.Image, "load", refuse)
    with pytest.raises(ImageError, match=r"^too little memory to decode it$"):
        open_image(file)


# Arrays


def test_array_forms_of_one_image(digit: Pixels, colours: Pixels) -> None:
    want = prepare(Image.fromarray(digit), grey(digit))
    for form in (digit, digit[..., None], np.asfortranarray(digit), np.repeat(digit, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(prepare(form, grey(digit)), want)
    opaque = np.concatenate([colours, np.full((*digit.shape, 1), 255, dtype=np.uint8)], axis=-1)
    np.testing.assert_array_equal(prepare(opaque, rgb(colours)), colours)


def test_an_array_that_is_prepared_is_taken_as_it_is(colours: Pixels) -> None:
    assert prepare(colours, rgb(colours)) is colours
    cropped = prepare(colours, Preparation(size=(24, 28), crop_fraction=0.5))
    assert not np.array_equal(cropped, colours)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4)), r"must be uint8 \(0 to 255\), got float64"),
        (np.zeros((4, 4), dtype=np.uint16), "got uint16"),
        (np.zeros((4, 4, 2), dtype=np.uint8), r"\(h, w\) or \(h, w, 1 \| 3 \| 4\), got \(4, 4, 2\)"),
        (np.zeros(4, dtype=np.uint8), r"got \(4,\)"),
        (np.zeros((1, 4, 4, 3), dtype=np.uint8), r"got \(1, 4, 4, 3\)"),
        (np.zeros((0, 4), dtype=np.uint8), r"got \(0, 4\)"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: Pixels, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_array(array)
    with pytest.raises(DataError, match=message):
        prepare(array, Preparation(size=(8, 8)))


def test_formats_that_decode_when_they_are_opened_are_refused_unread(digit: Pixels, monkeypatch: pytest.MonkeyPatch):
    """An ICO holds a PNG whose size its own head need not tell."""
    icon = encoded(Image.fromarray(digit[:24, :24]), "ICO", sizes=[(16, 16)])
    assert Image.open(io.BytesIO(icon)).size == (16, 16)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"^not an image that can be decoded$"):
        open_image(icon, most=10)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA"])
def test_every_format_that_a_folder_is_searched_for_is_read(digit: Pixels, form: str) -> None:
    assert form in FORMATS
    image = open_image(encoded(Image.fromarray(digit), form))
    assert np.abs(np.asarray(image.convert("L")).astype(int) - digit).mean() < 12


def test_every_ending_is_that_of_a_format_that_is_read() -> None:
    Image.init()
    assert {Image.EXTENSION[ending] for ending in EXTENSIONS} == {*FORMATS, "MPO"} - {"HEIF"}  # MPO is opened as JPEG
    assert set(FORMATS) <= set(Image.OPEN)


def test_an_mpo_is_opened_as_the_jpeg_that_it_begins_with(digit: Pixels) -> None:
    two = encoded(Image.fromarray(digit), "MPO", save_all=True, append_images=[Image.fromarray(255 - digit)])
    assert Image.open(io.BytesIO(two)).format == "MPO"
    assert np.abs(np.asarray(open_image(two).convert("L")).astype(int) - digit).mean() < 12
