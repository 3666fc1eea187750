"""Find all pairs of rows that are near each other, and join what is connected."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from lit_od.types import Features, Stats

BLOCK = 512
"""Rows that are compared at once."""

WINDOW = 16_384
"""Rows that they are compared with at once."""

CHECKED = 2048
"""Pairs whose distance is computed at once."""

ROUNDING = 1e-3
"""Share by which distances of float32 products may be off, among rows whose mean is 0."""


def near_pairs(rows: Features, radius: Stats) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield all pairs of rows that are no further apart than their radii.

    The Euclidean distance of a pair is at most the larger of its two radii. The rows are sorted by the column that
    varies most, and each is compared with those whose value there is no further away than the largest radius. Rounding
    may bring pairs that are slightly further apart; none is left out.

    Args:
        rows: Shape (n, d).
        radius: Radius of each row, (n,).

    Returns:
        Numbers of rows, (m,) each; a pair comes once.
    """
    if len(rows) < 2:
        return
    centred = (rows - rows.mean(axis=0, dtype=np.float64)).astype(np.float32)
    column = int(np.argmax(centred.var(axis=0)))
    order = np.argsort(centred[:, column], kind="stable")
    centred, allowed = centred[order], radius[order].astype(np.float32)
    key, squares = centred[:, column], np.square(centred).sum(axis=1)
    slack = ROUNDING * float(np.sqrt(squares.max()))
    reach = float(allowed.max()) + slack
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        last = int(np.searchsorted(key, key[stop - 1] + reach, side="right"))
        for left in range(start, last, WINDOW):
            right = min(left + WINDOW, last)
            distance = squares[start:stop, None] + squares[None, left:right]
            distance -= 2 * (centred[start:stop] @ centred[left:right].T)
            most = np.maximum(allowed[start:stop, None], allowed[None, left:right]) + slack
            one, other = np.nonzero(distance <= np.square(most))
            one, other = one + start, other + left
            once = one < other
            yield order[one[once]], order[other[once]]


def connected(
    count: int,
    pairs: Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]],
    alike: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.bool_]],
) -> NDArray[np.intp]:
    """Join rows by those of the pairs that are alike, directly or by way of others.

    Args:
        count: Number of rows, n.
        pairs: Pairs of rows that may be alike. Those that are joined already are not asked about.
        alike: Decides about pairs, (m,) each.

    Returns:
        The first row of each row's group, (n,); its own number where it is alone.
    """
    parents = np.arange(count)

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = int(parents[parents[row]])
        return row

    for one, other in pairs:
        while len(one):
            _flatten(parents)
            apart = parents[one] != parents[other]
            one, other = one[apart], other[apart]
            asked, rest = (one[:CHECKED], other[:CHECKED]), (one[CHECKED:], other[CHECKED:])
            same = alike(*asked) if len(one) else np.zeros(0, dtype=bool)
            for first, second in zip(asked[0][same].tolist(), asked[1][same].tolist(), strict=True):
                low, high = sorted((root(first), root(second)))
                parents[high] = low
            one, other = rest
    _flatten(parents)
    return parents


def _flatten(parents: NDArray[np.intp]) -> None:
    """Point every row at the first of its group."""
    while (further := parents[parents] != parents).any():
        parents[further] = parents[parents[further]]
