"""Recognise resized, recompressed, mirrored and turned copies of an image.

An image is shrunk to SIDE x SIDE grey pixels g. Two images look alike where the root mean square of g_1 - R g_2 is
small for one R of the eight mirrorings and turns of a square. The hash is made of the orthonormal cosine transform D of
g; mirrorings and turns change signs of D and transpose it, and leave the hash unchanged:

    h(u, v) = sqrt(D(u, v)^2 + D(v, u)^2), u < v;  h(u, u) = |D(u, u)|

By the triangle inequality |h(g_1) - h(g_2)| <= min over R of |g_1 - R g_2|: a search by hash misses no copy.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lit_od.types import Features, Images, Stats

SIDE = 16
"""Height and width of the small copies, in pixels."""

MOST = 1.1
"""Root mean square, in grey levels of 255, below which large images count as near copies.

Chosen on 1,000 photographs of 128 pixels, 1,000 of 32, and 796 photographs of aligned parts of 256: of those, the
closest two that are no copies differ by 1.45.
"""

SMALL = 32
"""Side, in pixels, of images for which twice as much is allowed: over few pixels compression averages out less."""


def perceptual_hash(small: Images) -> Features:
    """Return the hashes of small copies.

    Args:
        small: Grey copies, (n, SIDE, SIDE) uint8.

    Returns:
        Hashes (n, SIDE * (SIDE + 1) / 2), float32; the distance of two, divided by SIDE, is at most `look_distance`.
    """
    transform = _cosines()
    spectrum = np.square(transform @ small.astype(np.float32) @ transform.T)
    both = spectrum + spectrum.transpose(0, 2, 1)
    both[:, np.arange(SIDE), np.arange(SIDE)] /= 2
    upper = np.triu_indices(SIDE)
    found: Features = np.sqrt(both[:, upper[0], upper[1]])
    return found


def look_distance(first: Images, second: Images) -> Stats:
    """Return the least root mean square over mirrorings and turns.

    Args:
        first: Grey copies, (n, SIDE, SIDE) uint8.
        second: As many others.

    Returns:
        Grey levels of 255, shape (n,).
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    turned = (np.rot90(each, turns, axes=(1, 2)) for each in (other, other[:, :, ::-1]) for turns in range(4))
    found: Stats = np.min(
        [np.sqrt(np.square(one - each).mean(axis=(1, 2), dtype=np.float64)) for each in turned], axis=0
    )
    return found


def allowed_distance(shortest: NDArray[np.int64], most: float = MOST) -> Stats:
    """Return the distances up to which images count as near copies.

    Args:
        shortest: Shortest side of each image as it was given, (n,); of two images the larger allowance counts.
        most: Allowance for large images.

    Returns:
        Grey levels of 255, shape (n,).
    """
    return most * (1 + SMALL / shortest)


@cache
def _cosines() -> NDArray[np.float32]:
    """Return the orthonormal cosine transform, (SIDE, SIDE)."""
    frequency, place = np.arange(SIDE)[:, None], np.arange(SIDE) + 0.5
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * frequency * place / SIDE)
    rows[0] /= np.sqrt(2)
    found: NDArray[np.float32] = rows.astype(np.float32)
    return found
