"""A record of a drift alarm in constant memory.

It holds its course, windows of scores, and statistics of the images.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lit_od.images.statistics import STATISTICS
from lit_od.types import Scores, Stats

WINDOW = 200
"""Rows of a window, whose scores are compared with those that began the bag."""

POINTS = 1024
"""Largest number of points, and of windows: when it is reached, two neighbours become one."""

RECENT = 1024
"""Rows of which statistics are kept one by one, to divide them at the start of a change."""

LEAST = 1e-6
"""Standard deviation of a statistic below which it did not vary: sums of squares leave as much by rounding."""


@dataclass(frozen=True, slots=True)
class Point:
    """The reading of a row.

    Attributes:
        row: Its number.
        evidence: log10 of the evidence since the bag's start.
        standing: log10 of the standing watch's statistic.
    """

    row: int
    evidence: float
    standing: float

    def joined(self, other: "Point") -> "Point":
        """Return the higher one of two neighbours, so that peaks stay."""
        return max(self, other, key=lambda point: point.standing)


@dataclass(frozen=True, slots=True)
class Window:
    """A window of rows.

    Attributes:
        first: Number of its first row.
        last: Number of its last row.
        distance: Kolmogorov-Smirnov distance between its scores and those that began the bag; the largest of joined
            windows; NaN where none began it.
    """

    first: int
    last: int
    distance: float

    def joined(self, other: "Window") -> "Window":
        """Return one window for two neighbours."""
        return Window(self.first, other.last, float(np.fmax(self.distance, other.distance)))


@dataclass(frozen=True, slots=True)
class Movement:
    """Movement of a statistic of the images, described and not tested.

    Attributes:
        name: Its name, one of `STATISTICS`.
        before: Mean of the bag's rows before the start.
        after: Mean of the rows from the start to the alarm.
        deviations: after - before, in standard deviations of the rows before; None where it never varied before.
    """

    name: str
    before: float
    after: float
    deviations: float | None


T = TypeVar("T", Point, Window)


class Thinned(list[T]):
    """A short list of points or windows: neighbours are joined as it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._each, self._waiting = 1, 0

    def add(self, item: T) -> None:
        """Append an item, or join it to the last one."""
        if self._waiting:
            self[-1] = self[-1].joined(item)
        else:
            self.append(item)
        self._waiting = (self._waiting + 1) % self._each
        if len(self) >= POINTS and not self._waiting:
            self[:] = [one.joined(other) for one, other in zip(self[::2], self[1::2], strict=True)]
            self._each *= 2


class Windows:
    """Kolmogorov-Smirnov distances of windows from the scores that began a bag."""

    def __init__(self) -> None:
        self.found: Thinned[Window] = Thinned()
        self.new_bag(np.empty(0))

    def new_bag(self, reference: Scores) -> None:
        """Compare with other scores from now on, shape (n,)."""
        self._reference = np.sort(reference)
        self._scores: list[float] = []
        self._first = 0

    def add(self, row: int, score: float) -> None:
        """Take a row's score."""
        if not self._scores:
            self._first = row
        self._scores.append(score)
        if len(self._scores) == WINDOW:
            distance = ks_distance(np.array(self._scores), self._reference)
            self.found.add(Window(self._first, row, distance))
            self._scores = []


class ImageMoments:
    """Sums of a bag's image statistics, and the latest of them one by one."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros((2, len(STATISTICS)))
        self._recent: deque[tuple[int, Sequence[float]]] = deque(maxlen=RECENT)

    def add(self, row: int, statistics: Sequence[float]) -> None:
        """Take a row's statistics, in the order of `STATISTICS`."""
        self._count += 1
        values = np.array(statistics)
        self._sums += np.stack([values, values**2])
        self._recent.append((row, statistics))

    def moved(self, start: int) -> tuple[Movement, ...]:
        """Compare the rows from a start with those before it.

        Returns:
            A movement for each of `STATISTICS`; none where either rows are fewer than two.
        """
        late = np.array([values for row, values in self._recent if row >= start]).reshape(-1, len(STATISTICS))
        before, after = self._count - len(late), len(late)
        if before < 2 or after < 2:
            return ()
        sums = self._sums - np.stack([late.sum(axis=0), (late**2).sum(axis=0)])
        means = sums[0] / before
        deviations = np.sqrt(np.maximum(sums[1] / before - means**2, 0))
        shifts = late.mean(axis=0) - means
        return tuple(
            Movement(name, float(mean), float(mean + shift), float(shift / sd) if sd > LEAST else None)
            for name, mean, shift, sd in zip(STATISTICS, means, shifts, deviations, strict=True)
        )


def ks_distance(scores: Scores, reference: Scores) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, in [0, 1].

    Args:
        scores: Shape (n,).
        reference: Shape (m,), ascending; with none of them the distance is NaN.
    """
    if not reference.size:
        return math.nan
    ordered = np.sort(scores)
    places = np.concatenate([ordered, reference])
    mine: Stats = np.searchsorted(ordered, places, "right") / ordered.size
    theirs: Stats = np.searchsorted(reference, places, "right") / reference.size
    return float(np.abs(mine - theirs).max())
