"""Bets against uniform p-values: a simple jumper, and a mixture of powers.

Each bet multiplies its capital by f(p), a density on [0, 1]: while p-values are uniform and independent, capital is a
martingale. Capital is kept as a logarithm, so that no length of a stream is too much.

References:
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman 2021, Retrain or not retrain: conformal test martingales
    for change-point detection (arXiv 2102.10439): the simple jumper, f(p) = 1 + e (p - 1/2), e in -1, 0, 1.
    Vovk, Nouretdinov and Gammerman 2003, Testing exchangeability on-line: f(p) = k p^(k - 1).
    Volkhonskiy, Burnaev, Nouretdinov, Gammerman and Vovk 2017, Inductive conformal martingales for change-point
    detection: Shiryaev-Roberts and CUSUM statistics of such martingales.
"""

import math
from collections.abc import Sequence

JUMP = 0.01
"""Share of the jumper's capital that is divided anew among its bets at each p-value."""

SLOPES = (-1.0, 0.0, 1.0)
"""Bets of the jumper: on small p-values, on none, on large ones."""

POWERS = (0.2, 0.4, 0.6, 0.8)
"""Exponents k of the mixture: the smaller, the more it bets on few, very small p-values."""

_START = (*[-math.log(len(SLOPES))] * len(SLOPES), *[-math.log(len(POWERS))] * len(POWERS))
_LOG_POWERS = [(power, math.log(power)) for power in POWERS]
_HALF = math.log(0.5)
_STAY, _MOVE = math.log1p(-JUMP), math.log(JUMP / len(SLOPES))


def log_factors(p_value: float) -> list[float]:
    """Return the logarithm of each bet's f(p), p in (0, 1].

    The jumper's come first, then those of the powers.
    """
    log_p = math.log(p_value)
    return [
        *[math.log1p(slope * (p_value - 0.5)) for slope in SLOPES],
        *[log_power + (power - 1) * log_p for power, log_power in _LOG_POWERS],
    ]


class Evidence:
    """Capital since the start: the jumper's and the mixture's, averaged; 1 at first.

    P(it ever reaches 1 / a) <= a for uniform, independent p-values (Ville 1939).
    """

    def __init__(self) -> None:
        self._parts = list(_START)

    def update(self, factors: Sequence[float]) -> float:
        """Bet on a p-value, given by its `log_factors`; return the capital's logarithm."""
        self._parts = [part + factor for part, factor in zip(_jumped(self._parts), factors, strict=True)]
        return log_sum(self._parts) + _HALF


class Standing:
    """The Shiryaev-Roberts statistic of the same bets.

    It is the sum, over all rows so far, of the capital of bets that begin there. Each p-value adds 1 to it on average
    while p-values are uniform, so that it reaches A after A of them or more, on average. What lies long ago neither
    helps nor hinders it.
    """

    def __init__(self) -> None:
        self._parts = [-math.inf] * len(_START)

    def update(self, factors: Sequence[float]) -> float:
        """Bet on a p-value, given by its `log_factors`; return the statistic's logarithm."""
        before = zip(_jumped(self._parts), _START, factors, strict=True)
        self._parts = [_log_add(part, fresh) + factor for part, fresh, factor in before]
        return log_sum(self._parts) + _HALF


class Starts:
    """The likeliest first row of a change.

    The CUSUM of each bet tells from which row on it has gained most.
    """

    def __init__(self) -> None:
        self._gains = [0.0] * len(_START)
        self._rows: list[int | None] = [None] * len(_START)

    def update(self, factors: Sequence[float], row: int) -> None:
        """Note a row and its p-value's `log_factors`."""
        for bet, factor in enumerate(factors):
            if self._gains[bet] <= 0:
                self._gains[bet], self._rows[bet] = 0.0, row
            self._gains[bet] += factor

    def likeliest(self) -> int | None:
        """Return the row from which some bet has gained most; None before the first row."""
        return self._rows[self._gains.index(max(self._gains))]


def log_sum(logs: Sequence[float]) -> float:
    """Return log(sum(exp(logs))), which no size of a logarithm overflows."""
    largest = max(logs)
    if largest == -math.inf:
        return largest
    return largest + math.log(sum([math.exp(each - largest) for each in logs]))


def _log_add(one: float, other: float) -> float:
    """Return log(exp(one) + exp(other))."""
    if one < other:
        one, other = other, one
    return one if other == -math.inf else one + math.log1p(math.exp(other - one))


def _jumped(parts: Sequence[float]) -> list[float]:
    """Divide a share of the jumper's capital anew among its bets; the powers' stays."""
    jumper, powers = parts[: len(SLOPES)], parts[len(SLOPES) :]
    anew = log_sum(jumper) + _MOVE
    return [*[_log_add(part + _STAY, anew) for part in jumper], *powers]
