"""The region of interest: the part of an image that counts, as a mask.

A mask lies in the plane of upright images and is brought to the size of each by the nearest pixel. What it leaves out
takes one constant colour before anything is resized.
"""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import ImageError

ASPECT = 0.01
"""Relative difference of proportions that mask and image may have."""

PIXELS = 2
"""Difference in pixels that they may have, as of small images whose sides were rounded."""


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Return a mask (h, w) as a PNG file of one bit a pixel, white where it counts."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@lru_cache(maxsize=8)
def decode_mask(png: bytes) -> NDArray[np.bool_]:
    """Return the mask of a PNG file of `encode_mask`, shape (h, w).

    Raises:
        ImageError: If it is no such file, or leaves nothing.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.mode != "1":
                raise ImageError(f"a mask must be a PNG of one bit a pixel, got mode {image.mode}")
            mask = np.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise ImageError(f"a mask that cannot be read: {error}") from None
    if not mask.any():
        raise ImageError("a mask that leaves nothing: no pixel of it is white")
    mask.setflags(write=False)
    return mask


def nearest(length: int, wanted: int) -> NDArray[np.int64]:
    """Return the pixel of `length` ones that holds the centre of each wanted one."""
    return (2 * np.arange(wanted) + 1) * length // (2 * wanted)


def scaled(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring a mask (h, w) to an image's height and width, by the nearest pixel.

    Raises:
        ImageError: If the image has other proportions.
    """
    (tall, wide), (height, width) = mask.shape, size
    gap = abs(width * tall - height * wide)
    if gap > max(ASPECT * height * wide, PIXELS * max(tall, wide)):
        raise ImageError(
            f"{width}x{height} pixels, but the mask is {wide}x{tall}, of other proportions: give images of the mask's"
        )
    if mask.shape == size:
        return mask
    return mask[nearest(tall, height)][:, nearest(wide, width)]


@lru_cache(maxsize=4)  # a byte for each of an image's pixels
def _outside(png: bytes, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(~scaled(decode_mask(png), size))


def filled(image: Image.Image, png: bytes, colour: tuple[int, ...]) -> Image.Image:
    """Return an upright image with what its mask leaves out in one colour.

    Args:
        image: The image, of mode L or RGB; it is not changed.
        png: The mask, as `encode_mask` writes it.
        colour: A value for each channel.

    Raises:
        ImageError: If the image has other proportions than the mask.
    """
    outside = _outside(png, (image.height, image.width))
    image = image.copy()
    image.paste(colour if len(colour) > 1 else colour[0], mask=outside)
    return image
