"""Ranks of scores among all earlier ones, in fixed bins and constant memory.

The bins are fixed before any score is seen, so that ranks of exchangeable scores stay exchangeable: scores that share a
bin count as equal, which costs power within the bin and never validity.
"""

import struct
from array import array

BITS = 20
"""Bits of a bin's number: sign, exponent and 11 bits of the fraction, bins 0.05 % wide."""

BINS = 1 << BITS

_LARGEST = (2 - 2**-23) * 2.0**127
"""Largest float32."""

_SIGN = 1 << 31
_SINGLE, _BITS = struct.Struct("<f"), struct.Struct("<I")


def bin_of(score: float) -> int:
    """Return the bin of a score: the top of its float32's order-preserving code.

    Scores beyond the range of float32 fall into its outermost bins; 0.0 and -0.0 share one. NaN has no bin.
    """
    bits: int = _BITS.unpack(_SINGLE.pack(min(max(score, -_LARGEST), _LARGEST)))[0]
    if bits == _SIGN:  # -0.0
        bits = 0
    code = bits ^ (_SIGN << 1) - 1 if bits & _SIGN else bits | _SIGN  # below zero bits grow as the number falls
    return code >> (32 - BITS)


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
