"""Statistics of prepared images: brightness, sharpness and saturation."""

import numpy as np
from numpy.typing import NDArray

from lit_od.types import Images, Stats

STATISTICS = ("brightness", "sharpness", "saturation")
"""Names of the statistics, in their order."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def image_statistics(images: Images) -> Stats:
    """Compute brightness, sharpness and saturation of images.

    Luma y is 0.299 R + 0.587 G + 0.114 B, or grey, over 255.

    - brightness: the mean of y, from 0 (black) to 1 (white).
    - sharpness: the root mean square, over all pixels but those at the border, of the Laplacian
      y(up) + y(down) + y(left) + y(right) - 4 y; 0 where there is no such pixel. Blur lowers it, noise and the blocks
      of a strong compression raise it.
    - saturation: the mean of (max - min) / max over the channels of a pixel (0 for black), from 0 (grey) to 1.

    Args:
        images: Prepared images, (n, h, w, c) uint8, c = 1 (grey) or 3 (RGB).

    Returns:
        Shape (n, 3), in the order of `STATISTICS`.
    """
    found = np.zeros((len(images), len(STATISTICS)))
    for row, image in enumerate(images):
        pixels = image.astype(np.float32) / 255
        luma = pixels[..., 0] if pixels.shape[2] == 1 else pixels @ _LUMA
        found[row] = luma.mean(dtype=np.float64), _sharpness(luma), _saturation(pixels)
    return found


def _sharpness(luma: NDArray[np.float32]) -> float:
    if min(luma.shape) < 3:
        return 0.0
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(np.sqrt(np.square(around - 4 * luma[1:-1, 1:-1]).mean(dtype=np.float64)))


def _saturation(pixels: NDArray[np.float32]) -> float:
    largest = pixels.max(axis=2)
    spread = largest - pixels.min(axis=2)
    return float(np.divide(spread, largest, out=np.zeros_like(largest), where=largest > 0).mean(dtype=np.float64))
