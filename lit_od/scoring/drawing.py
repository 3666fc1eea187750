"""Draw heat maps: overlays, outlines of regions, and bars of colours."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lit_od.scoring.colour_scale import AT_THRESHOLD, ColourScale, colours
from lit_od.types import Images, Stats

T = TypeVar("T", bound=np.generic)

GAP = 2
"""White pixels between the parts of a picture."""


OPAQUE = 0.75
"""Share of the image that a colour at or above the pixel threshold covers."""


SMALLEST = 128
"""Smaller pictures are enlarged, pixel by pixel, until their shorter side has at least this length."""


OUTLINE = (0, 255, 255)
"""Colour around regions: cyan, which no heat has."""

_BAR, _TEXT, _MARGIN = 12, 10, 6


def overlay(images: Images, heats: Stats) -> Images:
    """Blend images (n, h, w, c), uint8, with the colours of their heats (n, h, w).

    A pixel without heat is unchanged; from the threshold on a colour covers it by `OPAQUE`.

    Returns:
        Shape (n, h, w, 3), uint8.
    """
    cover = (OPAQUE * np.minimum(heats / AT_THRESHOLD, 1.0))[..., None]  # (n, h, w, 1)
    mixed: NDArray[np.float64] = (1 - cover) * in_colour(images) + cover * colours(heats)
    return np.rint(mixed).astype(np.uint8)


def reduction(size: tuple[int, ...], most: int) -> int:
    """Return the factor that reduces a size to at most so many pixels a side."""
    return -(-max(size) // most)


def reduced(pixels: Images, factor: int) -> Images:
    """Reduce pictures (n, h, w, c) by a factor, to the means of squares."""
    if factor == 1:
        return pixels
    return np.stack(
        [
            np.asarray(Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each).reduce(factor)).reshape(
                -(-each.shape[0] // factor), -(-each.shape[1] // factor), each.shape[2]
            )
            for each in pixels
        ]
    )


def reduced_maps(maps: NDArray[T], factor: int) -> NDArray[T]:
    """Reduce maps or masks (n, h, w) by a factor, to the largest values of squares."""
    if factor == 1:
        return maps
    count, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")
    found: NDArray[T] = padded.reshape(count, -(-height // factor), factor, -1, factor).max(axis=(2, 4))
    return found


def in_colour(images: Images) -> Images:
    """Convert images (n, h, w, 1 or 3) to shape (n, h, w, 3)."""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def enlargement(size: tuple[int, ...]) -> int:
    """Return the factor by which pictures of a size are enlarged, for `SMALLEST`."""
    return -(-SMALLEST // min(size))


def enlarged(pixels: Images) -> Images:
    """Enlarge a small picture (h, w, 3), pixel by pixel."""
    factor = enlargement(pixels.shape[:2])
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def side_by_side(parts: Sequence[Images]) -> Images:
    """Join parts (h, w, 3) from left to right, with white between them."""
    height = parts[0].shape[0]
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    joined = [piece for part in parts for piece in (part, gap)]
    return np.concatenate(joined[:-1], axis=1)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the edges between the pixels of a mask (h, w) and all others.

    Returns:
        Straight lines, x and y of both ends, in corners of pixels from (0, 0) to (w, h), shape (k, 4).
    """
    padded = np.pad(mask, 1)
    rows = _stretches(padded[1:, 1:-1] != padded[:-1, 1:-1])
    columns = _stretches((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    return np.concatenate([rows[:, [1, 0, 2, 0]], columns[:, [0, 1, 0, 2]]])


def _stretches(edges: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return line, start and stop of runs of true values in (m, n), shape (k, 3)."""
    steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    lines, starts = np.nonzero(steps == 1)
    return np.stack([lines, starts, np.nonzero(steps == -1)[1]], axis=1)


def outlined(pixels: Images, mask: NDArray[np.bool_]) -> Images:
    """Enlarge a picture (h, w, 3) and draw the outline of its mask (h, w) over it."""
    picture, factor = Image.fromarray(enlarged(pixels)), enlargement(mask.shape)
    pen, wide = ImageDraw.Draw(picture), max(1, round(min(picture.size) / 128))
    last = np.array([picture.width - 1, picture.height - 1] * 2)
    for line in np.minimum(outline(mask) * factor, last).tolist():
        pen.line(line, fill=OUTLINE, width=wide)
    return np.asarray(picture)


@lru_cache(maxsize=8)
def colour_bar(scale: ColourScale, height: int) -> Images:
    """Draw a bar of a scale's colours with its values, the threshold marked.

    Args:
        scale: The scale.
        height: Height of the bar with its margins, at least `SMALLEST`.

    Returns:
        Shape (height, w, 3), uint8.
    """
    font = ImageFont.load_default(_TEXT)
    texts = [(heat, f"{value:.3g} {name}".strip()) for heat, value, name in scale.marks()]
    length = height - 2 * _MARGIN
    left = 3 * _BAR // 2
    width = left + round(max(font.getlength(text) for _, text in texts)) + _MARGIN
    picture = Image.new("RGB", (width, height), "white")
    heats = np.linspace(1, 0, length)[:, None].repeat(_BAR, axis=1)
    picture.paste(Image.fromarray(colours(heats)), (0, _MARGIN))
    pen = ImageDraw.Draw(picture)
    for heat, text in texts:
        y = _MARGIN + round((1 - heat) * (length - 1))
        if heat == AT_THRESHOLD:
            pen.line((0, y, _BAR - 1, y), fill=OUTLINE, width=2)
        pen.line((_BAR, y, _BAR + 3, y), fill="black")
        pen.text((left, y), text, fill="black", font=font, anchor="lm")
    return np.asarray(picture)
