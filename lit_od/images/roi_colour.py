"""Set up a region of interest: mask from a file, colour from normal images."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import ConfigError, DataError, ImageError
from lit_od.images.bit_depth import eight_bits
from lit_od.images.memory import BUDGET
from lit_od.images.preparation import Preparation, counted_pixels, frame, open_image
from lit_od.images.roi import decode_mask, encode_mask, scaled
from lit_od.images.sources import Source
from lit_od.runtime.threads import thread_count, threads_of_a_generator

WHITE = 128
"""Least value of grey, of 255, that counts."""

Sums = NDArray[np.int64]
"""Number of pixels, and the sum of their values for each channel, shape (1 + c,)."""


def read_mask(file: Path) -> bytes:
    """Read a mask, and return it as `roi.encode_mask` writes it.

    Args:
        file: An image file, in which white counts.

    Raises:
        ConfigError: If it cannot be read, or leaves nothing.
    """
    try:
        image = eight_bits(open_image(file), 65_535)
        if image.has_transparency_data:  # what is transparent is not white
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
        png = encode_mask(np.asarray(image.convert("L")) >= WHITE)
        decode_mask(png)
    except ImageError as error:
        raise ConfigError(f"data.mask {file}: {error}") from None
    return png


def masked(preparation: Preparation, png: bytes, colour: tuple[int, ...]) -> Preparation:
    """Return a preparation with a region of interest.

    Args:
        preparation: Size and colours.
        png: The mask, as `roi.encode_mask` writes it.
        colour: Value of each channel of what it leaves out.

    Raises:
        ConfigError: If the mask leaves nothing of a prepared image, or the preparation excludes a mask.
    """
    found = msgspec.structs.replace(preparation, mask=png, mask_colour=colour)
    counted = counted_pixels(found)
    if counted is not None and not counted.any():
        raise ConfigError("data.mask leaves nothing of an image once it is cropped and resized: take a larger region")
    return found


def colour_sums(images: Iterable[Source], png: bytes, preparation: Preparation, *, threads: int | None = None) -> Sums:
    """Add up the pixels of images that count, at the images' own size.

    The sums are whole numbers, so that no order and no division of the images changes them.

    Args:
        images: Normal images.
        png: The mask.
        preparation: Colours of the images.
        threads: Decoding threads. None takes one a core.

    Raises:
        DataError: If an image cannot be read, or has other proportions than the mask.
    """
    sums = np.zeros(1 + preparation.channels, np.int64)
    one = partial(_sums_of, png=png, preparation=preparation)
    with threads_of_a_generator(thread_count(threads), "lit_od-colour") as pool:
        for each in pool.map(one, images):
            sums += each
    return sums


def mean_colour(sums: Sums) -> tuple[int, ...]:
    """Return the mean of each channel, rounded; half of a step goes up."""
    count = max(int(sums[0]), 1)
    return tuple(int(2 * total + count) // (2 * count) for total in sums[1:].tolist())


def _sums_of(image: Source, png: bytes, preparation: Preparation) -> Sums:
    try:
        with BUDGET.returned():
            pixels = frame(image.decode(), preparation)
            counted = pixels[scaled(decode_mask(png), pixels.shape[:2])]
    except ImageError as error:
        raise DataError(f"{image.name}: {error}. Take it out (lit-od check lists such files)") from None
    return np.append(len(counted), counted.sum(axis=0, dtype=np.int64))
