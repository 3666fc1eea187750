"""Convert images of 16 bits, of integers and of floating point to 8 bits."""

from typing import cast

import numpy as np
from PIL import Image

from lit_od.errors import ImageError
from lit_od.images.corrections import KNOWN_WHITE


def eight_bits(image: Image.Image, white: int) -> Image.Image:
    """Convert an image to 8 bits a channel.

    Args:
        image: An upright image.
        white: Value of 16-bit grey that becomes 255, as of `Preparation.white`.

    Returns:
        An image in L, LA, RGB, RGBA or a mode that Pillow converts to them.

    Raises:
        ImageError: If the values of a float, integer or 16-bit image are out of range.
    """
    if image.mode.startswith("I;16"):
        return _halved(image, white)
    if image.mode == "I":
        require_sixteen_bits(image)
        return _halved(image, white)
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ImageError("floating-point values must lie in [0, 1]")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    return image


def require_sixteen_bits(image: Image.Image) -> None:
    """Raise ImageError unless the integers of an image lie in 0..65535."""
    lowest, highest = cast("tuple[int, int]", image.getextrema())
    if lowest < 0 or highest > 65_535:
        raise ImageError(f"integers must lie in 0..65535, got {lowest}..{highest}")


def _halved(image: Image.Image, white: int) -> Image.Image:
    """Convert grey of 0..white to 8 bits, its transparent grey to white."""
    values = np.asarray(image).astype(np.uint32)
    white = 65_535 if KNOWN_WHITE in image.info else white
    if "transparency" in image.info:
        values[values == image.info["transparency"]] = white
    largest = values.max()
    if largest > white:
        raise ImageError(
            f"values above {white} for bits={white.bit_length()}: wanted 16-bit grey in 0..{white}, got {largest}"
        )
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
