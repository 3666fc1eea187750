r"""Mean, scatter and the higher sums that Ledoit-Wolf needs, of a stream of rows.

The sums are those about the mean m: with y = x - m and r = ||y||,

    S = sum y y^T,   C = sum r^2 y,   Q = sum r^4.

Seen from another point, y' = y + s for all n rows, they become (sum y = 0)

    S' = S + n s s^T
    C' = C + s tr S + 2 S s + n |s|^2 s
    Q' = Q + 4 s^T S s + n |s|^4 + 4 s . C + 2 |s|^2 tr S,

so that parts merge by shifting all to one point and adding (Chan, Golub and LeVeque 1983 for S). That
point need not be their common mean m + t at once, which moves with each part. About any point sum y = n t, and

    S' = S - n t t^T
    C' = C - t tr S - 2 S t + 2 n |t|^2 t
    Q' = Q + 4 t^T S t - 3 n |t|^4 - 4 t . C + 2 |t|^2 tr S

take the sums from the point to the mean. So they stay about the mean of half of the rows or more, which is
too near to the mean of all for digits to cancel, and move when the rows have doubled: a merge takes one
product with the part's matrix and none with the sum's. Everything is float64; memory does not grow with
the number of rows.
"""

import math
from typing import Self

import numpy as np

from lit_od.detectors.base import check_features
from lit_od.detectors.state import check_names, read_only, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Stats

BLOCK_ROWS = 1024
"""Rows gathered before a matrix product. Blocks are cut by row number, not by batch, so that any
batch size gives the same bits, and small batches cost no more than large ones."""

SUMS = ("count", "mean", "scatter", "third_moments", "fourth_moments")
"""Names of the arrays of a state."""

LAGGING = 128
"""Products of one vector with itself that wait to be added to the scatter: together they are one matrix product."""


def ledoit_wolf_shrinkage(count: int, scatter: Stats, fourth_moments: float) -> float:
    """Return Ledoit and Wolf's (2004) optimal weight of the identity, in [0, 1].

    Args:
        count: Number of rows, n.
        scatter: Sum of y y^T about the mean, shape (d, d).
        fourth_moments: Sum of ||y||^4 about the mean.
    """
    width = len(scatter)
    if width == 1:  # a multiple of the identity already
        return 0.0
    mu = float(np.trace(scatter)) / count / width
    squared = float(np.vdot(scatter, scatter)) / count**2
    distance = (squared - width * mu**2) / width
    error = min((fourth_moments / count - squared) / (width * count), distance)
    return min(1.0, max(0.0, error / distance)) if error > 0 else 0.0


class Moments:
    """Count, mean and the sums above, accumulated over batches of rows.

    Args:
        width: Values a row, d.
    """

    __slots__ = (
        "_centred",
        "_count",
        "_filled",
        "_first",
        "_fourth_moments",
        "_lag",
        "_pending",
        "_point",
        "_scatter",
        "_third_moments",
        "width",
    )

    def __init__(self, width: int) -> None:
        self.width = width
        self._count = 0
        self._point = np.zeros(width)  # the sums are taken about it: the mean of `_centred` rows
        self._centred = 0
        self._first = np.zeros(width)  # sum y, shape (d,)
        self._scatter = np.broadcast_to(0.0, (width, width))  # takes no memory; copied when it changes
        self._third_moments = np.zeros(width)
        self._fourth_moments = 0.0
        self._lag: list[Stats] = []
        self._pending = np.empty((0, width))
        self._filled = 0

    @property
    def count(self) -> int:
        """Number of rows so far, n."""
        return self._count + self._filled

    @property
    def mean(self) -> Stats:
        """Mean of the rows, shape (d,); zeros before the first row."""
        self._centre()
        return self._point.copy()

    @property
    def scatter(self) -> Stats:
        """Sum of y y^T about the mean, shape (d, d). Divided by n it is the covariance."""
        self._centre()
        return self._scatter.copy()

    @property
    def scale(self) -> Stats:
        """Standard deviations (divided by n), shape (d,); 1 for columns that do not vary.

        A column counts as constant if it varies by less than float32 resolves at its mean.
        """
        self._centre()
        deviations = np.sqrt(self._scatter.diagonal() / max(self._count, 1))
        varies = deviations > np.finfo(np.float32).eps * np.abs(self._point)
        return np.where(varies, deviations, 1.0)

    @property
    def third_moments(self) -> Stats:
        """Sum of ||y||^2 y about the mean, shape (d,)."""
        self._centre()
        return self._third_moments.copy()

    @property
    def fourth_moments(self) -> float:
        """Sum of ||y||^4 about the mean."""
        self._centre()
        return self._fourth_moments

    def update(self, batch: Features) -> None:
        """Take rows of shape (n, d); n may be 0.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        batch = check_features(batch, self.width)
        if not len(self._pending):
            self._pending = np.empty((BLOCK_ROWS, self.width))
        start = 0
        while start < len(batch):
            rows = min(BLOCK_ROWS - self._filled, len(batch) - start)
            self._pending[self._filled : self._filled + rows] = batch[start : start + rows]
            self._filled += rows
            start += rows
            if self._filled == BLOCK_ROWS:
                self._flush()

    def merge(self, other: Self) -> None:
        """Take over the rows that another accumulator has seen; the other keeps them too.

        Raises:
            DataError: If the other counts rows of another width.
        """
        if other.width != self.width:
            raise DataError(f"moments to merge must have one width, got {self.width} and {other.width}")
        self._flush()
        other._centre()
        self._absorb(other._count, other._point, other._scatter, other._third_moments, other._fourth_moments)

    def ledoit_wolf_shrinkage(self) -> float:
        """Return the Ledoit-Wolf shrinkage of the rows' covariance, in [0, 1].

        Raises:
            DataError: If there are no rows.
        """
        if self.count == 0:
            raise DataError("shrinkage needs at least one row, got none")
        self._centre()
        return ledoit_wolf_shrinkage(self._count, self._scatter, self._fourth_moments)

    def state(self) -> Arrays:
        """Return the sums as plain arrays, for another process or a file."""
        return {
            "count": np.array([self.count], dtype=np.int64),
            "mean": self.mean,
            "scatter": self.scatter,
            "third_moments": self.third_moments,
            "fourth_moments": np.array([self.fourth_moments]),
        }

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Rebuild from `state()`.

        Raises:
            DataError: If the arrays are not those of moments, or do not fit together.
        """
        check_names("moments", state, SUMS)
        mean = take(state, "mean", (None,), most=math.inf)
        moments = cls(len(mean))
        moments._count = int(take(state, "count", (1,), np.int64)[0])
        if moments._count < 0:
            raise DataError(f"array 'count' of the state must not be negative, got {moments._count}")
        moments._centred, moments._point = moments._count, mean
        moments._scatter = _finite_square(state, len(mean))  # copied when it changes
        moments._third_moments = take(state, "third_moments", (len(mean),), most=math.inf)
        moments._fourth_moments = float(take(state, "fourth_moments", (1,), most=math.inf)[0])
        return moments

    def _flush(self) -> None:
        if self._filled == 0:
            return
        rows = self._pending[: self._filled]
        self._filled = 0
        # subtracting the first row keeps every digit of the mean of rows far from the origin, and makes
        # the scatter of a constant column exactly zero
        first = rows[0].copy()
        rows -= first
        mean = rows.mean(axis=0)
        rows -= mean
        squares = np.einsum("ij,ij->i", rows, rows)
        self._absorb(len(rows), first + mean, rows.T @ rows, squares @ rows, float(squares @ squares))

    def _absorb(self, count: int, mean: Stats, scatter: Stats, third_moments: Stats, fourth_moments: float) -> None:
        """Add another part's sums about its mean, without changing them."""
        if count == 0:
            return
        if self._count + count > 2 * self._centred:
            self._centre_blocks()
            if count > self._count:  # the larger part's mean is the nearer one to that of all
                smaller = self._count, self._point, self._scatter, self._third_moments, self._fourth_moments
                self._count = self._centred = count
                self._point, self._scatter, self._third_moments, self._fourth_moments = (
                    mean,
                    scatter.copy(),
                    third_moments,
                    fourth_moments,
                )
                self._absorb(*smaller)
                return
        shift = mean - self._point
        third_moments, fourth_moments = _moved(
            shift, count, scatter @ shift, float(np.trace(scatter)), third_moments, fourth_moments
        )
        if not self._scatter.flags.writeable:
            self._scatter = self._scatter.copy()
        self._scatter += scatter
        self._lag.append(shift * math.sqrt(count))
        if len(self._lag) == LAGGING:
            self._add_lagging()
        self._first = self._first + shift * count
        self._third_moments = self._third_moments + third_moments
        self._fourth_moments += fourth_moments
        self._count += count

    def _add_lagging(self) -> None:
        """Add the products that were put off to the scatter."""
        if self._lag:
            lag = np.stack(self._lag)
            self._scatter += lag.T @ lag
            self._lag = []

    def _centre(self) -> None:
        """Take the sums of all rows about their mean."""
        self._flush()
        self._centre_blocks()

    def _centre_blocks(self) -> None:
        """Take the sums about the mean of the rows in them."""
        if self._count == self._centred:
            return
        self._add_lagging()
        count, step = self._count, self._first / self._count
        turned, trace, square = self._scatter @ step, float(np.trace(self._scatter)), float(step @ step)
        self._fourth_moments += (
            4.0 * float(step @ turned) - 3.0 * count * square**2
            - 4.0 * float(step @ self._third_moments) + 2.0 * square * trace
        )  # fmt: skip
        self._third_moments = self._third_moments + step * (2.0 * count * square - trace) - 2.0 * turned
        root = step * math.sqrt(count)
        self._scatter -= np.multiply.outer(root, root)
        self._point, self._first, self._centred = self._point + step, np.zeros(self.width), count


def _finite_square(state: Arrays, width: int) -> Stats:
    """Take the scatter, shape (d, d); a finite sum shows that all of it is finite."""
    scatter = np.asarray(state["scatter"])
    if scatter.shape == (width, width) and scatter.dtype == np.float64:
        with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs have no sum
            total = np.add.reduce(scatter, axis=None)
        if math.isfinite(total):
            return read_only(scatter)
    return take(state, "scatter", (width, width), most=math.inf)  # raises, unless only the sum is not finite


def _moved(
    shift: Stats, count: int, turned: Stats, trace: float, third_moments: Stats, fourth_moments: float
) -> tuple[Stats, float]:
    """Return C' and Q' of rows that are moved by `shift` (the module's equations).

    Args:
        shift: s, shape (d,).
        count: n.
        turned: S s, shape (d,).
        trace: tr S.
        third_moments: C, shape (d,).
        fourth_moments: Q.
    """
    square = float(shift @ shift)
    moved_third = third_moments + shift * (trace + count * square) + 2.0 * turned
    moved_fourth = (
        fourth_moments + 4.0 * float(shift @ turned) + count * square**2
        + 4.0 * float(shift @ third_moments) + 2.0 * square * trace
    )  # fmt: skip
    return moved_third, moved_fourth
