"""A drift alarm on outlier scores, row by row in constant memory.

The p-value of a row is its rank among all rows of the bag so far, itself among them: (rows in higher bins + theta times
rows in its bin) / rows, with theta uniform on (0, 1], drawn from (seed, row number). While rows are exchangeable these
p-values are independent and uniform (Vovk, Gammerman and Shafer 2005), whatever the distribution of scores, and
capital that is bet against that is a martingale: it shows how well the data contradict "nothing has changed".

Exchangeability is the condition: independent images of the same kind, in any order. Successive frames of one scene are
not exchangeable; take one row an object or scene. Whoever begins with earlier scores needs them exchangeable
with the rows as well: those of held-out images are, those of images that fitted the detector are not.
"""

import math
from dataclasses import dataclass

import numpy as np

from lit_od.checks import check_seed, integer, number
from lit_od.errors import DataError
from lit_od.operations.bets import Evidence, Standing, Starts, log_factors
from lit_od.operations.ranks import BinCounts, bin_of
from lit_od.types import Scores

BURN_IN = 100
"""Rows that begin a bag where no earlier scores do."""

LEVEL = 0.01
"""Bound on the probability of a false alarm, for each bag."""

_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftOptions:
    """Options of a drift alarm.

    Attributes:
        level: Alarm when the evidence since the bag's start reaches 1 / level. P(false alarm in a bag) <= level.
        standing: Alarm by the standing watch instead, when its statistic reaches this number: the mean number of rows
            to a false alarm is at least this, and the delay after a change does not grow with the bag's age.
        burn_in: Rows that fill a bag before the first bet, where it does not start with earlier scores.
        seed: Seed of the draws that part equal scores.

    Raises:
        ConfigError: If an option is out of range.
    """

    level: float = LEVEL
    standing: float | None = None
    burn_in: int = BURN_IN
    seed: int = 0

    def __post_init__(self) -> None:
        number("level", self.level, above=0, below=1)
        if self.standing is not None:
            number("standing", self.standing, least=1)
        integer("burn_in", self.burn_in, least=0)
        integer("seed", self.seed, least=0)
        check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm, after which a new bag begins.

    Attributes:
        row: Number of the row that raised it.
        start: Likeliest number of the first changed row.
        evidence: log10 of the evidence since the bag's start.
        standing: log10 of the standing watch's statistic.
    """

    row: int
    start: int
    evidence: float
    standing: float


@dataclass(frozen=True, slots=True)
class Reading:
    """State after a row.

    Attributes:
        row: Its number.
        p_value: Its p-value in (0, 1]; None where it only fills the bag.
        evidence: log10 of the evidence since the bag's start.
        standing: log10 of the standing watch's statistic; -inf before the first p-value.
        alarm: The alarm that it raised, or None.
    """

    row: int
    p_value: float | None
    evidence: float
    standing: float
    alarm: Alarm | None = None


class DriftMonitor:
    """A drift alarm that reads one score after the other.

    Args:
        options: Level, standing watch, burn-in and seed.
        start: Scores that begin the bag, shape (n,): of images that are exchangeable with the rows, such as the
            calibration images of a bundle whose recipe has held them out. None begins with the first rows.

    Raises:
        DataError: If a score of `start` is not finite.
    """

    def __init__(self, options: DriftOptions | None = None, *, start: Scores | None = None) -> None:
        self.options = options or DriftOptions()
        self._row = -1
        self._block = -1
        self._draws: list[float] = []
        self.new_bag(start=start)

    @property
    def in_bag(self) -> int:
        """Number of scores in the bag, those that began it among them."""
        return self._counts.total

    def new_bag(self, *, start: Scores | None = None) -> None:
        """Forget all rows so far, as where the detector has changed.

        Args:
            start: As for the monitor.

        Raises:
            DataError: If a score of `start` is not finite.
        """
        first = np.empty(0) if start is None else np.asarray(start, dtype=np.float64).reshape(-1)
        if not np.isfinite(first).all():
            raise DataError("the scores that begin a bag must be finite: leave out what could not be scored")
        self._counts = BinCounts()
        for score in first.tolist():
            self._counts.add(bin_of(score))
        self._waiting = self.options.burn_in if start is None else 0
        self._evidence, self._standing, self._starts = Evidence(), Standing(), Starts()
        self._logs = 0.0, -math.inf

    def update(self, score: float, *, row: int | None = None) -> Reading:
        """Take the next score.

        Args:
            score: An outlier score, finite.
            row: Its number, larger than all before; None counts on.

        Returns:
            The reading; after an alarm the bag is a new one.

        Raises:
            DataError: If the score is not finite, or the number is not larger than the last one.
        """
        if not math.isfinite(score):
            raise DataError(f"a score must be finite, got {score}: leave the row out")
        number = self._row + 1 if row is None else row
        if number <= self._row:
            raise DataError(f"rows are numbered upwards, got {number} after {self._row}")
        self._row = number
        place = bin_of(score)
        self._counts.add(place)
        if self._waiting:
            self._waiting -= 1
            return Reading(number, None, *self._logs)
        higher, equal = self._counts.rank(place)
        p_value = (higher + self._theta(number) * equal) / self._counts.total
        factors = log_factors(p_value)
        self._starts.update(factors, number)
        self._logs = self._evidence.update(factors), self._standing.update(factors)
        evidence, standing = (each / math.log(10) for each in self._logs)
        if not self._reached():
            return Reading(number, p_value, evidence, standing)
        likeliest = self._starts.likeliest()
        alarm = Alarm(number, number if likeliest is None else likeliest, evidence, standing)
        self.new_bag()
        return Reading(number, p_value, evidence, standing, alarm)

    def _reached(self) -> bool:
        """Return True where the statistic that counts has reached its limit."""
        evidence, standing = self._logs
        if self.options.standing is not None:
            return standing >= math.log(self.options.standing)
        return evidence >= -math.log(self.options.level)

    def _theta(self, row: int) -> float:
        """Return the draw of a row, in (0, 1], by seed and number alone."""
        block, place = divmod(row, _BLOCK)
        if block != self._block:
            self._block, self._draws = block, draws(self.options.seed, block)
        return self._draws[place]


def draws(seed: int, block: int) -> list[float]:
    """Return the draws, uniform on (0, 1], of a block of 4,096 rows."""
    found: list[float] = (1 - np.random.default_rng([seed, block]).random(_BLOCK)).tolist()
    return found
