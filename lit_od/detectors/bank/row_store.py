"""Rows kept from a stream: all in the order of the data, or a seeded sample.

Whether a row belongs to the sample depends on the seed and the row's number among all rows alone, so
that batches, processes and machines draw the same one, each holding its own part.
"""

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.base import check_features
from lit_od.detectors.state import check_names, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Features


def row_ranks(seed: int, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a pseudo-random 64-bit rank for each row number (SplitMix64).

    Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators.
    """
    golden = 0x9E3779B97F4A7C15
    start = (seed * 0xD1342543DE82EF95 + golden) % 2**64
    z = numbers * np.uint64(golden) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class RowStore:
    """Rows of features, kept as float32: all, or a seeded sample.

    Args:
        first_row: Number, among all rows, of the first one that this store will see.
        seed: Seed of the sample.
        limit: Keep a sample of this many rows (all, while there are no more).
        share: Keep each row with this probability.

    Attributes:
        seen: Number of rows so far, kept or not.
        width: Values a row, d; None before the first batch.
    """

    __slots__ = ("_chunks", "_kept", "_ranks", "first_row", "limit", "seed", "seen", "share", "width")

    def __init__(
        self, first_row: int = 0, *, seed: int = 0, limit: int | None = None, share: float | None = None
    ) -> None:
        self.first_row = first_row
        self.seed = seed
        self.limit = limit
        self.share = share
        self.seen = 0
        self.width: int | None = None
        self._chunks: list[NDArray[np.float32]] = []
        self._ranks: list[NDArray[np.uint64]] = []
        self._kept = 0

    @property
    def samples(self) -> bool:
        """True if only some rows are kept."""
        return self.limit is not None or self.share is not None

    def update(self, batch: Features) -> None:
        """Take rows of shape (n, d).

        Raises:
            DataError: On a wrong shape, or values that are not finite in float32.
        """
        batch = check_features(batch, self.width)
        self.width = batch.shape[1]
        with np.errstate(over="ignore"):
            rows = np.array(batch, dtype=np.float32)
        if not np.isfinite(rows).all():
            raise DataError("features must fit into float32, but some are larger than 3.4e38. Scale them.")
        numbers = np.arange(len(rows), dtype=np.uint64) + np.uint64(self.first_row + self.seen)
        self.seen += len(rows)
        if not self.samples:
            self._append(rows, numbers)
            return
        ranks = row_ranks(self.seed, numbers)
        if self.share is not None:
            chosen = ranks < np.uint64(min(math.floor(self.share * 2.0**64), 2**64 - 1))
            rows, ranks = rows[chosen], ranks[chosen]
        self._append(rows, ranks)

    def merge(self, other: Self) -> None:
        """Take over the rows of a store that has seen the rows after this one's.

        Raises:
            DataError: If the widths differ, or a sample is drawn and the other's rows do not follow.
        """
        if other.seen == 0:
            return
        if self.width is not None and other.width != self.width:
            raise DataError(f"accumulators to merge must have one width, got {self.width} and {other.width}")
        follows = self.first_row + self.seen
        if self.samples and other.first_row != follows:
            raise DataError(
                f"a sample is drawn by row number: the accumulator to merge must have first_row={follows}, "
                f"got {other.first_row}. Give each its first_row, and merge in the order of the rows."
            )
        self.width = other.width
        self.seen += other.seen
        for rows, ranks in zip(other._chunks, other._ranks, strict=True):
            self._append(rows, ranks)

    def rows(self) -> NDArray[np.float32]:
        """Return the kept rows in the order of the data, shape (m, d)."""
        if not self._chunks:
            return np.empty((0, self.width or 0), dtype=np.float32)
        self._prune(slack=1)
        if len(self._chunks) > 1:
            self._chunks, self._ranks = [np.concatenate(self._chunks)], [np.concatenate(self._ranks)]
        return self._chunks[0]

    def state(self) -> Arrays:
        """Return the rows and their numbers or ranks, for another process."""
        rows = self.rows()
        ranks = self._ranks[0] if self._ranks else np.empty(0, dtype=np.uint64)
        limit = -1 if self.limit is None else self.limit
        numbers = np.array([self.first_row, self.seen, self.width or 0, limit], dtype=np.int64)
        return {"numbers": numbers, "rows": rows.reshape(-1), "ranks": ranks.view(np.int64)}

    def restore(self, state: Arrays) -> None:
        """Replace the rows by those of a `state()`.

        The other store has the same seed and share.

        Raises:
            DataError: If the arrays do not fit together.
        """
        check_names("a share", state, ("numbers", "rows", "ranks"))
        first_row, seen, width, limit = (int(number) for number in take(state, "numbers", (4,), np.int64))
        rows, ranks = np.asarray(state["rows"]), np.asarray(state["ranks"])
        fits = rows.dtype == np.float32 and ranks.dtype == np.int64 and rows.shape == (ranks.size * width,)
        if not fits or ranks.ndim != 1 or not 0 <= ranks.size <= seen or limit < -1:
            raise DataError("the arrays of a store of rows do not fit together; gather its rows anew")
        self.first_row, self.seen, self.width = first_row, seen, width or None
        self.limit = None if limit < 0 else limit
        self._chunks, self._ranks, self._kept = [], [], 0
        if ranks.size:
            self._append(rows.reshape(-1, width), ranks.view(np.uint64))

    def _append(self, rows: NDArray[np.float32], ranks: NDArray[np.uint64]) -> None:
        if len(rows):
            self._chunks.append(rows)
            self._ranks.append(ranks)
            self._kept += len(rows)
            self._prune(slack=2)

    def _prune(self, slack: int) -> None:
        """Drop all but the `limit` lowest ranks, if more than `slack` times as many."""
        if self.limit is None or self._kept <= slack * self.limit:
            return
        rows, ranks = np.concatenate(self._chunks), np.concatenate(self._ranks)
        lowest = np.sort(np.argpartition(ranks, self.limit - 1)[: self.limit])  # sorted: the data's order
        self._chunks, self._ranks, self._kept = [rows[lowest]], [ranks[lowest]], self.limit
