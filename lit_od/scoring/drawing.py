"""Draw heat maps: colours, overlays and pictures side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.types import Images, Stats

GAP = 2
"""White pixels between the parts of a picture."""


OPAQUE = 0.75
"""Share of the image that a colour at or above the pixel threshold covers."""


SMALLEST = 128
"""Smaller pictures are enlarged, pixel by pixel, until their shorter side has at least this length."""


_STEPS = ((0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70), (237, 105, 37),
          (251, 155, 6), (247, 209, 61), (252, 255, 164))  # fmt: skip
"""Ten evenly spaced colours of Matplotlib's "inferno", which has even steps of perceived lightness, also in grey."""


def heat(scores: Stats, threshold: float) -> Stats:
    """Scale pixel scores to [0, 1]: 0.5 at the threshold, 1 from twice it on."""
    if threshold == 0:  # all inliers are reconstructed without error
        return np.asarray(scores > 0, dtype=np.float64)
    with np.errstate(over="ignore"):  # a tiny threshold
        return np.clip(scores / (2 * threshold), 0.0, 1.0)


def overlay(images: Images, heats: Stats) -> Images:
    """Blend images (n, h, w, c), uint8, with the colours of their heats (n, h, w).

    A pixel without heat is unchanged; from 0.5 on a colour covers it by `OPAQUE`.

    Returns:
        Shape (n, h, w, 3), uint8.
    """
    cover = (OPAQUE * np.minimum(2 * heats, 1.0))[..., None]  # (n, h, w, 1)
    mixed: NDArray[np.float64] = (1 - cover) * in_colour(images) + cover * colours(heats)
    return np.rint(mixed).astype(np.uint8)


def colours(heats: Stats) -> Images:
    """Map heats in [0, 1] to colours, shape (..., 3), uint8."""
    steps = np.array(_STEPS, dtype=np.float64)  # (k, 3)
    places = np.linspace(0, 1, len(steps))
    mixed = np.stack([np.interp(heats, places, channel) for channel in steps.T], axis=-1)
    found: Images = np.rint(mixed).astype(np.uint8)
    return found


def in_colour(images: Images) -> Images:
    """Convert images (n, h, w, 1 or 3) to shape (n, h, w, 3)."""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def side_by_side(parts: Sequence[Images]) -> Images:
    """Join parts (h, w, 3) from left to right, with white between them."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    joined = [piece for part in parts for piece in (part, gap)]
    return np.concatenate(joined[:-1], axis=1)


def enlarged(pixels: Images, size: tuple[int, ...]) -> Image.Image:
    """Enlarge small pictures, pixel by pixel.

    The shorter side has at least `SMALLEST` pixels afterwards.
    """
    factor = -(-SMALLEST // min(size))
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
