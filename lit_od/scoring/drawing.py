"""Draw heat maps: colours, overlays and pictures side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.types import Images, Stats

GAP = 2
"""White pixels between the parts of a picture."""


OPAQUE = 0.75
"""How much of the image a colour at or above the pixel threshold covers."""


SMALLEST = 128
"""Pictures of smaller images are enlarged, pixel by pixel, until their shorter side is at least this long."""


_STEPS = ((0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70), (237, 105, 37),
          (251, 155, 6), (247, 209, 61), (252, 255, 164))  # fmt: skip
"""Ten evenly spaced colours of Matplotlib's "inferno": lightness rises evenly, as the eye sees it, also in grey."""


def heat(scores: Stats, threshold: float) -> Stats:
    """Pixel scores as heat in [0, 1]: 0.5 is the threshold, 1 twice the threshold and all above."""
    if threshold == 0:  # inliers that are reconstructed without any error
        return np.asarray(scores > 0, dtype=np.float64)
    with np.errstate(over="ignore"):  # a threshold next to nothing
        return np.clip(scores / (2 * threshold), 0.0, 1.0)


def overlay(images: Images, heats: Stats) -> Images:
    """Images (n, h, w, c), uint8, in colour under their heat (n, h, w) in [0, 1]: (n, h, w, 3), uint8.

    A pixel without heat stays as it is; from 0.5 on a colour covers it by `OPAQUE`.
    """
    cover = (OPAQUE * np.minimum(2 * heats, 1.0))[..., None]  # (n, h, w, 1)
    mixed: NDArray[np.float64] = (1 - cover) * in_colour(images) + cover * colours(heats)
    return np.rint(mixed).astype(np.uint8)


def colours(heats: Stats) -> Images:
    """The colour of each heat in [0, 1]: shape (..., 3), uint8."""
    steps = np.array(_STEPS, dtype=np.float64)  # (k, 3)
    places = np.linspace(0, 1, len(steps))
    mixed = np.stack([np.interp(heats, places, channel) for channel in steps.T], axis=-1)
    found: Images = np.rint(mixed).astype(np.uint8)
    return found


def in_colour(images: Images) -> Images:
    """Images (n, h, w, 1 or 3) as (n, h, w, 3)."""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def beside(parts: Sequence[Images]) -> Images:
    """Parts (h, w, 3) from left to right, with white between them."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    joined = [piece for part in parts for piece in (part, gap)]
    return np.concatenate(joined[:-1], axis=1)


def enlarged(pixels: Images, size: tuple[int, ...]) -> Image.Image:
    """Enlarge small pictures, pixel by pixel, until the shorter side has at least `SMALLEST` pixels."""
    factor = -(-SMALLEST // min(size))
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
