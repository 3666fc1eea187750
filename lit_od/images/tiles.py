"""Tiles of large images: where they lie, and how their maps weigh.

Tiles of one size lie in rows and columns that overlap. The last of a row or column is moved inward, so that each is
whole. Across an overlap the weight of one tile falls and that of the next rises; they add up to 1. Near a tile's edge,
where the backbone sees no further, the weight is 0, unless the image ends there.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, ImageError

LEAST_OVERLAP = 64
"""Pixels that two neighbouring tiles share at least: features feel a tile's edge that far."""

MOST_OVERLAP = 0.5
"""Largest share of a tile's side that its neighbour has too."""

OVERLAP = 0.25
"""Share of a tile's side that its neighbour has too, unless a recipe says otherwise or it is too few pixels."""

UNSEEN = 16
"""Pixels from a tile's edge on which its map has no weight."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tile within an image.

    Attributes:
        rows: Its rows in the image.
        columns: Its columns in the image.
        down: Weight of each of its rows, shape (h,).
        across: Weight of each of its columns, shape (w,).
    """

    rows: slice
    columns: slice
    down: NDArray[np.float32]
    across: NDArray[np.float32]


def overlap_of(tile: int, share: float | None) -> int:
    """Return the pixels that neighbouring tiles share.

    Args:
        tile: Side of a tile, in pixels.
        share: Share of the side; None takes `OVERLAP`, or as many pixels as it must be.

    Raises:
        ConfigError: If the share is out of range, or too few pixels.
    """
    if share is None:
        share = min(max(OVERLAP, LEAST_OVERLAP / tile), MOST_OVERLAP)
    if not 0 < share <= MOST_OVERLAP:
        raise ConfigError(f"data.overlap must be a share of a tile's side in (0, {MOST_OVERLAP:g}], got {share:g}")
    pixels = round(tile * share)
    if pixels < LEAST_OVERLAP:
        least = math.ceil(1000 * LEAST_OVERLAP / tile) / 1000
        mend = f"give data.overlap {least:g}" if least <= MOST_OVERLAP else "give data.tile 128 or more"
        raise ConfigError(
            f"tiles of {tile} pixels with data.overlap {share:g} share {pixels} pixels, wanted at least "
            f"{LEAST_OVERLAP}: {mend}"
        )
    return pixels


def starts(length: int, tile: int, overlap: int) -> NDArray[np.int64]:
    """Return the first pixel of each tile along one side, ascending.

    Args:
        length: Pixels of the image along the side, at least those of a tile.
        tile: Pixels of a tile along it.
        overlap: Pixels that neighbouring tiles share, fewer than a tile has.
    """
    count = 1 + -(-(length - tile) // (tile - overlap))
    return np.minimum(np.arange(count) * (tile - overlap), length - tile)


def weights(length: int, tile: int, overlap: int) -> NDArray[np.float32]:
    """Return the weights of tiles along one side, shape (number of tiles, tile).

    At each pixel of the image those of all tiles add up to 1.

    Args:
        length: Pixels of the image along the side, at least those of a tile.
        tile: Pixels of a tile along it.
        overlap: Pixels that neighbouring tiles share.
    """
    first, places = starts(length, tile, overlap), np.arange(tile) + 0.5
    margin = min(UNSEEN, overlap // 4)
    rising = np.clip((places - margin) / (overlap - 2 * margin), 0, 1)
    found = np.ones((len(first), tile))
    found[1:] *= rising
    found[:-1] *= rising[::-1]
    total = np.zeros(length)
    for start, each in zip(first.tolist(), found, strict=True):
        total[start : start + tile] += each
    for start, each in zip(first.tolist(), found, strict=True):
        each /= total[start : start + tile]
    return found.astype(np.float32)


def places_of(image: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Place]:
    """Return the tiles of an image, row by row.

    Args:
        image: Height and width of the image.
        tile: Height and width of a tile.
        overlap: Pixels that neighbouring tiles share.

    Raises:
        ImageError: If the image is smaller than a tile.
    """
    if image[0] < tile[0] or image[1] < tile[1]:
        raise ImageError(f"tiles of {tile[0]}x{tile[1]} (h x w) need a larger image than {image[0]}x{image[1]}")
    (tops, down), (lefts, across) = (
        (starts(length, side, overlap).tolist(), weights(length, side, overlap))
        for length, side in zip(image, tile, strict=True)
    )
    return [
        Place(slice(top, top + tile[0]), slice(left, left + tile[1]), of_rows, of_columns)
        for top, of_rows in zip(tops, down, strict=True)
        for left, of_columns in zip(lefts, across, strict=True)
    ]
