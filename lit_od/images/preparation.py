"""Prepare images as uint8 pixels: decode, orient, convert, crop, resize.

This is the only such code: training, calibration and scoring all prepare their images here.
`lit_od.images.corrections` corrects Pillow's decoding; `lit_od.images.sources` defines sources of images;
`lit_od.images.batching` prepares many of them on threads.

Every kind of image becomes 8-bit grey or RGB:
    - EXIF orientation is applied, unless it is broken, and XMP's is not; of an animated file the first frame is taken.
    - 16-bit grey: value / 257, rounded, so that 65535 is 255; with `bits`, 2**bits - 1 is 255. Signed and 32-bit
      integers must lie in 0..65535 and are treated alike. Floating point must lie in [0, 1] and is multiplied by 255.
      16-bit colour: the high byte, as Pillow decodes it. Where white is zero, values are inverted first, in all bits.
    - A file that says itself which value is white is taken at its word, never scaled twice: 12-bit TIFF (4095 is 255),
      PGM with a maximum other than 65535, JPEG 2000 of 9 to 15 bits. `bits` does not concern it.
    - Alpha, in whatever form, is laid over white. Palettes, CMYK, YCbCr, LAB and HSV become RGB.
    - Grey from colour is Pillow's luma (0.299 R + 0.587 G + 0.114 B), or luminosity
      (0.21 R + 0.72 G + 0.07 B) where the preparation says so; colour from grey repeats it.
"""

import io
import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lit_od.errors import ConfigError, ImageError
from lit_od.images import heif
from lit_od.images.bit_depth import eight_bits, require_sixteen_bits
from lit_od.images.colour import from_array, in_mode
from lit_od.images.corrections import (
    BIG_ENDIAN_BIGTIFF,
    after_decoding,
    before_decoding,
    classic_tiff,
    upright,
    xmp_set_aside,
)
from lit_od.images.decoding_errors import cause_of, unidentified
from lit_od.images.file_contents import contents
from lit_od.images.memory import BUDGET, bytes_needed
from lit_od.images.resize_graph import resized, whole_box
from lit_od.images.roi import decode_mask, filled
from lit_od.types import Images

MAX_PIXELS = 89_478_485
"""Largest number of pixels; larger images are refused unread, against decompression bombs (1 GiB of RGBA / 12)."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA", *heif.formats())
"""Formats of image files. Their size is known before they are decoded; ICO and some others decode when they are opened.
MPO is opened as JPEG. HEIF is there with its extra.
"""

_BAND = 2**20
"""Pixels that are converted at once."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conversion of images to the backbone's size and colours.

    Attributes:
        size: Height and width that the backbone takes, in pixels; with `overlap` those of a tile.
        mode: "grey" (c = 1) or "rgb" (c = 3).
        resize: Pillow's filter, antialiased when it shrinks; or "graph" and "graph-bicubic", the same filters
            by ONNX Runtime: a model file then takes images of any size. Boxes of a crop are whole pixels.
        crop: Height and width, in pixels of the original image, of a centred box that is cut out
            before resizing. None takes the whole image. A smaller image is refused.
        crop_fraction: Share, in (0, 1], of the largest centred box that has the proportions of `size`;
            it is cut out before resizing. None keeps the whole image and lets its proportions change.
        grey: Conversion of colour to grey: "pillow" or "luminosity".
        bits: Significant bits of 16-bit grey, 9 to 15, as of a 12-bit camera: 2**bits - 1 becomes 255, larger
            values are refused. Unset (also by None) takes all 16. Manifests have the key only where it is set.
        mask_colour: Value of each channel, 0 to 255, where the region of interest leaves pixels out. `data.mask` of a
            recipe sets it, and the mask. Unset, as in manifests without a region, all pixels count.
        mask: The region of interest as a PNG file of one bit a pixel. Manifests leave it out: it is a bundle's file.
        overlap: Pixels that neighbouring tiles share: images are cut into tiles at their own resolution. Unset, each is
            resized as a whole.
    """

    size: tuple[int, int]
    mode: Literal["grey", "rgb"] = "rgb"
    resize: Literal["bilinear", "bicubic", "graph", "graph-bicubic"] = "bilinear"
    crop: tuple[int, int] | None = None
    crop_fraction: float | None = None
    grey: Literal["pillow", "luminosity"] = "pillow"
    bits: int | msgspec.UnsetType | None = msgspec.UNSET
    mask_colour: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    mask: bytes | msgspec.UnsetType = msgspec.UNSET
    overlap: int | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name, pair in (("size", self.size), ("crop", self.crop)):
            if pair is not None and not all(1 <= side <= 16_384 for side in pair):
                raise ConfigError(f"{name} must be height and width in 1..16384, got {list(pair)}")
        if self.crop is not None and self.crop_fraction is not None:
            raise ConfigError("crop and crop_fraction exclude each other: give one of them")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction must lie in (0, 1], got {self.crop_fraction:g}")
        if self.bits is None:
            msgspec.structs.force_setattr(self, "bits", msgspec.UNSET)
        elif self.bits is not msgspec.UNSET and not 9 <= self.bits <= 15:
            raise ConfigError(f"bits must lie in 9..15, or be null for all 16, got {self.bits}")
        if self.mask_colour is not msgspec.UNSET:
            self._check_region(self.mask_colour)
        if self.overlap is not msgspec.UNSET:
            if not 0 < self.overlap < min(self.size):
                raise ConfigError(
                    f"overlap must be less than the {min(self.size)} pixels of a tile, got {self.overlap}"
                )
            if self.crops or self.resizes_in_graph:
                raise ConfigError("tiles are of whole images, not resized: leave crop, crop_fraction and resize out")

    def _check_region(self, colour: tuple[int, ...]) -> None:
        if len(colour) != self.channels or not all(0 <= value <= 255 for value in colour):
            raise ConfigError(f"mask_colour must be {self.channels} values in 0..255, got {list(colour)}")
        if self.crop is not None:
            raise ConfigError("a mask and a crop in pixels exclude each other: crop by crop_fraction")

    @property
    def channels(self) -> int:
        """Return the number of channels: 1 for grey, 3 for RGB."""
        return 1 if self.mode == "grey" else 3

    @property
    def white(self) -> int:
        """Return the value of 16-bit grey that becomes 255."""
        return 2**self.bits - 1 if isinstance(self.bits, int) else 65_535

    @property
    def crops(self) -> bool:
        """Return True if the image is cropped before resizing."""
        return self.crop is not None or self.crop_fraction is not None

    @property
    def region(self) -> tuple[bytes, tuple[int, ...]] | None:
        """Return the mask and the colour of what it leaves out; None if all pixels count."""
        if self.mask is msgspec.UNSET or self.mask_colour is msgspec.UNSET:
            return None
        return self.mask, self.mask_colour

    @property
    def takes_as_is(self) -> bool:
        """Return True if arrays of this shape are not cropped, masked or tiled."""
        return not self.crops and self.region is None and not self.has_tiles

    @property
    def resizes_in_graph(self) -> bool:
        """Return True if ONNX Runtime resizes: a model file takes any size then."""
        return self.resize in ("graph", "graph-bicubic")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of a prepared image, (h, w, c)."""
        return (*self.size, self.channels)

    @property
    def has_tiles(self) -> bool:
        """Return True if images are cut into tiles."""
        return self.overlap is not msgspec.UNSET

    def for_image(self, size: tuple[int, int]) -> "Preparation":
        """Return the preparation of a whole upright image; tiles leave its size."""
        return msgspec.structs.replace(self, size=size, overlap=msgspec.UNSET) if self.has_tiles else self


def open_image(file: Path | bytes, *, most: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file, or the bytes of one, upright and whole.

    Args:
        file: Path or bytes of a file in one of `FORMATS`.
        most: Limit of its pixels, at most MAX_PIXELS.

    Raises:
        ImageError: If it cannot be read; the message holds the cause, not the path.
    """
    try:
        file = contents(file) if isinstance(file, Path) else file
        if file == b"":
            raise ImageError("empty file")
        with _opened(file) as image:
            return loaded(image, most=most)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except UnidentifiedImageError as error:
        raise ImageError(unidentified(file)) from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise ImageError(cause_of(error, most)) from error


def _opened(file: Path | bytes) -> Image.Image:
    """Open an image file, or the bytes of one."""
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file) as stream:
        if stream.read(len(BIG_ENDIAN_BIGTIFF)) == BIG_ENDIAN_BIGTIFF:
            stream.seek(0)
            return Image.open(io.BytesIO(classic_tiff(stream.read())), formats=FORMATS)
    return Image.open(file if isinstance(file, Path) else io.BytesIO(file), formats=FORMATS)


def loaded(image: Image.Image, *, most: int = MAX_PIXELS) -> Image.Image:
    """Decode an image that Pillow has opened, and turn it upright.

    Raises:
        ImageError: If it cannot be decoded, or has no pixels, or more than `most`.
    """
    if image.width * image.height == 0:
        raise ImageError(f"{image.width}x{image.height} pixels, wanted at least one")
    if image.width * image.height > most:
        raise ImageError(f"{image.width}x{image.height} pixels exceed the limit of {most:,}")
    BUDGET.take(bytes_needed(image))
    try:
        before_decoding(image)
        with xmp_set_aside(image):
            image.load()
        with xmp_set_aside(image):  # a PNG may have it behind its pixels
            return upright(after_decoding(image))
    except ImageError:
        raise
    except Exception as error:  # as in open_image
        raise ImageError(cause_of(error, most)) from error


def prepare(image: Image.Image | NDArray[np.uint8], preparation: Preparation) -> Images:
    """Convert, crop and resize an upright image to pixels of shape (h, w, c), uint8.

    An array is a decoded image of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8.

    Raises:
        ImageError: If the values of a float, integer or 16-bit image are out of range, or the image is
            smaller than the crop, or of other proportions than the mask.
        DataError: If an array has another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.shape == preparation.shape and image.dtype == np.uint8 and preparation.takes_as_is:
            return image
        image = from_array(image)
    try:
        image = _converted(image, preparation)
        if (region := preparation.region) is not None:
            image = filled(image, *region)
        return _fitted(image, preparation)
    except MemoryError:
        raise ImageError(
            f"too little memory to prepare its {image.width}x{image.height} pixels: crop it or save it smaller"
        ) from None


def frame(image: Image.Image, preparation: Preparation) -> Images:
    """Convert an upright image to (h, w, c) uint8, neither cropped nor resized.

    Raises:
        ImageError: If the values of a float, integer or 16-bit image are out of range.
    """
    return np.asarray(_converted(image, preparation)).reshape(image.height, image.width, preparation.channels)


def prepare_mask(mask: NDArray[np.bool_], preparation: Preparation) -> NDArray[np.bool_]:
    """Crop and resize a mask (h, w) as its image, by the nearest pixel."""
    image, preparation = Image.fromarray(mask.astype(np.uint8)), preparation.for_image((mask.shape[0], mask.shape[1]))
    grey = msgspec.structs.replace(preparation, mode="grey", mask=msgspec.UNSET, mask_colour=msgspec.UNSET)
    return _fitted(image, grey, Image.Resampling.NEAREST)[..., 0] > 0


def counted_pixels(preparation: Preparation) -> NDArray[np.bool_] | None:
    """Return the pixels of a prepared image that count, (h, w); None if all do.

    With tiles it is None too: they depend on the image, see `for_image`.
    """
    if preparation.region is None or preparation.has_tiles:
        return None
    return prepare_mask(decode_mask(preparation.region[0]), preparation)


def _fitted(image: Image.Image, preparation: Preparation, resampling: Image.Resampling | None = None) -> Images:
    """Crop and resize an image of mode L or RGB."""
    box = None
    if preparation.crops:
        image, box = _cut(image, crop_box((image.height, image.width), preparation))
    if resampling is None and (preparation.resize == "graph" or preparation.resize == "graph-bicubic"):
        return resized(np.asarray(image).reshape(image.height, image.width, -1), preparation.size, preparation.resize)
    size = (preparation.size[1], preparation.size[0])  # Pillow: width first
    if image.size != size or box not in (None, (0, 0, *size)):
        resampling = _RESAMPLING[preparation.resize] if resampling is None else resampling  # NEAREST is 0
        image = image.resize(size, resampling, box=box)
    return np.asarray(image, dtype=np.uint8).reshape(preparation.shape)


def _converted(image: Image.Image, preparation: Preparation) -> Image.Image:
    """Convert an image to mode L or RGB, a band of rows at a time.

    Between its mode and the wanted one a pixel takes up to 20 bytes; of a large image only a band takes them at once.
    """
    rows = max(1, _BAND // image.width)
    if image.height <= rows:
        return in_mode(eight_bits(image, preparation.white), preparation.mode, preparation.grey)
    mode = "RGB" if preparation.mode == "rgb" else "L"
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode == "I":
        require_sixteen_bits(image)  # here, to name the values of the whole image
    whole = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(in_mode(eight_bits(band, preparation.white), preparation.mode, preparation.grey), (0, top))
    return whole


def crop_box(size: tuple[int, int], preparation: Preparation) -> tuple[float, float, float, float]:
    """Return left, upper, right and lower of the part of an image that is kept.

    Args:
        size: Height and width of the upright image.
        preparation: Its preparation.

    Raises:
        ImageError: If the image is smaller than the crop.
    """
    tall, wide = size
    if preparation.crop_fraction is not None and preparation.resizes_in_graph:
        return whole_box(size, preparation.size, preparation.crop_fraction)
    if preparation.crop is not None:
        height, width = preparation.crop
        if tall < height or wide < width:
            raise ImageError(f"a crop of {height}x{width} (h x w) needs a larger image than {tall}x{wide}")
        left, upper = (wide - width) // 2, (tall - height) // 2
        return (left, upper, left + width, upper + height)
    if preparation.crop_fraction is not None:
        scale = preparation.crop_fraction * min(tall / preparation.size[0], wide / preparation.size[1])
        margin_x = max((wide - preparation.size[1] * scale) / 2, 0.0)
        margin_y = max((tall - preparation.size[0] * scale) / 2, 0.0)
        return (margin_x, margin_y, wide - margin_x, tall - margin_y)
    return (0, 0, wide, tall)


def _cut(
    image: Image.Image, box: tuple[float, float, float, float]
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Cut out the whole pixels that a box touches, and return the box within them.

    resize() alone would look beyond the box's edges.
    """
    left, upper = math.floor(box[0]), math.floor(box[1])
    image = image.crop((left, upper, math.ceil(box[2]), math.ceil(box[3])))
    return image, (box[0] - left, box[1] - upper, box[2] - left, box[3] - upper)
