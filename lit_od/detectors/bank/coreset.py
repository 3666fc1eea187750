"""Smaller memory banks: greedy k-centre, budgets in bytes, rank agreement."""

import re

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError
from lit_od.types import Scores, Stats

PROJECTED = 128
"""Random directions that stand in for wider rows (Johnson and Lindenstrauss)."""

POOL = 2048
"""Farthest rows among which centres are chosen before all distances are updated."""

BLOCK = 2048
"""Rows whose distances are computed at once, so that they stay in a core's cache."""

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "20MB" or "1.5GiB".

    Raises:
        ConfigError: On anything else.
    """
    match = re.fullmatch(rf"(\d{{1,15}}(?:\.\d{{1,15}})?) ?({'|'.join(UNITS)})", text)
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"a size must be a number and one of {', '.join(UNITS)}, as in 20MB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def greedy_k_centre(rows: NDArray[np.float32], count: int, seed: int) -> NDArray[np.intp]:
    """Choose rows that cover all others (Gonzalez 1985).

    Each next row is the farthest from those chosen.

    Distances are those of a seeded random projection where rows are wider than `PROJECTED`. Rows far
    from every centre are few, so centres are chosen within a pool of the farthest as long as none
    outside can be farther; then matrix products bring the distances of all rows up to date. The choice
    is the same as one at a time.

    Args:
        rows: Shape (m, d).
        count: Rows to choose, at most m.
        seed: Of the projection and the first centre.

    Returns:
        Their numbers, ascending, shape (count,).
    """
    from tqdm import tqdm

    generator = np.random.default_rng(seed)
    points = _projected(rows, generator)
    norms = np.einsum("ij,ij->i", points, points)
    chosen = np.empty(count, dtype=np.intp)
    squared = np.full(len(rows), np.inf, np.float32)  # squared distance to the nearest centre
    chosen[0] = generator.integers(len(rows))
    done, fresh = 1, 0
    with tqdm(total=count, initial=1, desc="coreset", unit="row", leave=False, disable=None) as progress:
        while done < count:
            _approach(squared, points, norms, chosen[fresh:done])
            squared[chosen[:done]] = -1.0
            fresh = done
            size = min(POOL, len(rows))
            pool = np.sort(np.argpartition(squared, len(rows) - size)[len(rows) - size :])
            outside = np.partition(squared, len(rows) - size - 1)[-size - 1] if size < len(rows) else -np.inf
            near, pool_points, pool_norms = squared[pool], points[pool], norms[pool]
            while done < count:
                best = int(near.argmax())
                if near[best] < outside and done > fresh:
                    break
                chosen[done] = pool[best]
                done += 1
                distances = pool_norms + pool_norms[best] - 2 * (pool_points @ pool_points[best])
                np.minimum(near, np.maximum(distances, 0), out=near)
                near[best] = -1.0
            progress.update(done - fresh)
    return np.sort(chosen)


def _approach(
    squared: NDArray[np.float32], points: NDArray[np.float32], norms: NDArray[np.float32], centres: NDArray[np.intp]
) -> None:
    """Update the squared distances to the nearest centre, (m,)."""
    rows, halves = points[centres], norms[centres, None] / 2
    products = np.empty((len(rows), BLOCK), np.float32)
    for start in range(0, len(points), BLOCK):
        part = slice(start, start + BLOCK)
        block = points[part]
        near = np.matmul(rows, block.T, out=products[:, : len(block)])
        near -= halves  # |x - c|^2 = |x|^2 - 2 (c . x - |c|^2 / 2)
        np.minimum(squared[part], np.maximum(norms[part] - 2 * near.max(axis=0), 0), out=squared[part])


def _projected(rows: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    if rows.shape[1] <= PROJECTED:
        return rows
    directions = generator.standard_normal((rows.shape[1], PROJECTED)).astype(np.float32)
    return rows @ (directions / np.float32(np.sqrt(PROJECTED)))


def rank_agreement(scores: Scores, others: Scores) -> float:
    """Return Spearman's rank correlation of two sets of scores, in [-1, 1].

    Ranks of ties are averaged.

    Args:
        scores: Shape (n,).
        others: Scores of the same images, shape (n,).

    Raises:
        DataError: If the shapes differ, or a set holds fewer than two different scores.
    """
    if scores.shape != others.shape or scores.ndim != 1:
        raise DataError(f"rank agreement needs two sets of scores (n,), got {scores.shape} and {others.shape}")
    first, second = average_ranks(scores), average_ranks(others)
    first -= first.mean()
    second -= second.mean()
    spread = np.sqrt((first @ first) * (second @ second))
    if not spread > 0:
        raise DataError("rank agreement needs different scores in each set. Pass more images.")
    return float(first @ second / spread)


def average_ranks(scores: Scores) -> Stats:
    """Return ranks from 0, ties averaged, shape (n,)."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]
