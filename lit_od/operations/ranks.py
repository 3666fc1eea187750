"""Ranks of scores among all earlier ones, in fixed bins and constant memory.

The bins are fixed before any score is seen, so that ranks of exchangeable scores stay exchangeable: scores that share a
bin count as equal, which costs power within the bin and never validity.
"""

from array import array

import numpy as np
from numpy.typing import NDArray

from lit_od.types import Scores

BITS = 20
"""Bits of a bin's number: sign, exponent and 11 bits of the fraction, bins 0.05 % wide."""

BINS = 1 << BITS

_LARGEST = float(np.finfo(np.float32).max)


def bins_of(scores: Scores) -> NDArray[np.int64]:
    """Return the bin of each score, shape (n,).

    It is the top of the order-preserving code of its float32. Scores beyond the range of float32 fall into its outermost bins; 0.0 and -0.0 share one. NaN has no bin.
    """
    singles = np.clip(scores, -_LARGEST, _LARGEST).astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    bits = singles.view(np.uint32)
    code = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # grows with the number, also below zero
    return (code >> (32 - BITS)).astype(np.int64)


class BinCounts:
    """Counters of all bins in a Fenwick tree (1994): 4 MB, 20 steps to add or to sum."""

    def __init__(self) -> None:
        self._tree = array("I", bytes(4 * (BINS + 1)))
        self.total = 0

    def add(self, place: int) -> None:
        """Count a score in its bin."""
        self.total += 1
        tree, node = self._tree, place + 1
        while node <= BINS:
            tree[node] += 1
            node += node & -node

    def below(self, place: int) -> int:
        """Return the number of scores in lower bins."""
        tree, node, found = self._tree, place, 0
        while node:
            found += tree[node]
            node &= node - 1
        return found

    def rank(self, place: int) -> tuple[int, int]:
        """Return the numbers of scores in higher bins and in the bin itself."""
        up_to = self.below(place + 1)
        return self.total - up_to, up_to - self.below(place)
