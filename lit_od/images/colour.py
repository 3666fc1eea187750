"""Convert arrays to images, and images of any mode to grey or RGB."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import DataError

_LUMINOSITY = np.array([0.21, 0.72, 0.07], dtype=np.float32)


def in_mode(image: Image.Image, mode: Literal["grey", "rgb"], grey: Literal["pillow", "luminosity"]) -> Image.Image:
    """Convert an image of 8 bits to mode L or RGB; alpha is laid over white.

    Args:
        image: The image.
        mode: The colours that are wanted.
        grey: Conversion of colour to grey.
    """
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow converts La to LA only
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if mode == "rgb":
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode in ("L", "1"):
        return image.convert("L")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if grey == "pillow":
        return image.convert("L")
    return Image.fromarray(np.rint(np.asarray(image) @ _LUMINOSITY).astype(np.uint8))


def from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    """Make an image from pixels of shape (h, w) or (h, w, 1 | 3 | 4), uint8.

    Raises:
        DataError: If the array has another shape or type.
    """
    if pixels.dtype != np.uint8:
        raise DataError(f"an image array must be uint8 (0 to 255), got {pixels.dtype}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or pixels.size == 0:
        raise DataError(f"an image array must have shape (h, w) or (h, w, 1 | 3 | 4), got {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))
