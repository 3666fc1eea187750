"""Rows that a bank lacks, the farthest first."""

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.memory_bank import Bank
from lit_od.types import Stats


class FarthestFirst:
    """Rows in the order in which greedy k-centre would add them to a bank.

    Each next row is the farthest from the bank and from those before it, so the rows within the coreset's radius come
    last. The order is found as far as it is asked for.

    Args:
        bank: The bank.
        queries: Prepared rows that it may take, shape (n, d).
    """

    __slots__ = ("_bank", "_chosen", "_left", "_queries")

    def __init__(self, bank: Bank, queries: NDArray[np.float32]) -> None:
        self._bank = bank
        self._queries = queries
        self._left: Stats = bank.nearest(queries, 1)[0][:, 0]  # distance to the nearest row, taken ones included
        self._chosen: list[int] = []

    def first(self, count: int) -> NDArray[np.float32]:
        """Return the first rows, (count, d); fewer where others repeat those there."""
        while len(self._chosen) < count and self._left.max(initial=0.0) > 0:
            best = int(self._left.argmax())
            self._chosen.append(best)
            to_best = self._bank.between(self._queries, self._queries[best])
            np.minimum(self._left, to_best, out=self._left)
            self._left[best] = 0.0
        return self._queries[self._chosen[:count]]

    def grown(self, count: int) -> Bank:
        """Return the bank with the first rows."""
        return self._bank.with_rows(self.first(count))
