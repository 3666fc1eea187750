"""The exact interval of a rate, in plain Python: scorers have no scipy.

Reference:
    Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the
    binomial. Tails are summed term by term from a probability in Loader's form (2000, Fast and accurate
    computation of binomial probabilities), which keeps its digits where the gamma functions are large.
"""

import math

from lit_od.checks import number
from lit_od.errors import DataError

_NEGLIGIBLE = 1e-17
"""A term of a sum below this share of the sum does not change it."""


def clopper_pearson(count: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate.

    The ends are the rates under which so many, or so few, come about with probability (1 - confidence) / 2.

    Args:
        count: Number of hits, from 0 to `total`.
        total: Number of trials, at least 1.
        confidence: Least coverage of the interval, in (0, 1).

    Returns:
        Both ends, in [0, 1].

    Raises:
        ConfigError: If `confidence` is not between 0 and 1.
        DataError: If not 0 <= count <= total with total at least 1.
    """
    number("confidence", confidence, above=0, below=1)
    if total < 1 or not 0 <= count <= total:
        raise DataError(f"a rate needs 0 <= count <= total and total >= 1, got {count} of {total}")
    tail = (1 - confidence) / 2
    low = _solve(count, total, tail)
    return low, _complement(total - count, total, tail)


def _solve(count: int, total: int, tail: float) -> float:
    """Return the rate p with P(X >= count) = tail, X binomial (total, p)."""
    if count == 0:
        return 0.0
    if count == total:
        return float(tail ** (1 / total))
    return math.exp(_log_rate(count, total, tail))


def _complement(count: int, total: int, tail: float) -> float:
    """Return 1 - `_solve`, with the digits of a small rate that a difference loses."""
    if count == 0:
        return 1.0
    if count == total:
        return -math.expm1(math.log(tail) / total)
    return -math.expm1(_log_rate(count, total, tail))


def _log_rate(count: int, total: int, tail: float) -> float:
    """Find log p by Newton's steps from p = count / total.

    The logarithm of the tail is increasing and concave in log p, so that every step after the first
    comes nearer from below; there P(X >= count) >= 1/2, on the right of every root.
    """
    log_p = math.log(count / total)
    for _ in range(200):
        p = math.exp(log_p)
        terms = _terms(count, total, p)
        step = (math.log(tail) - _log_probability(count, total, p) - math.log(terms)) * terms / count
        log_p += step
        if abs(step) < 1e-10:  # its error is quadratic in this
            break
    return log_p


def _terms(count: int, total: int, p: float) -> float:
    """Return P(X >= count) / P(X = count) for p of at most count / total.

    The terms of the sum fall from the first one on.
    """
    odds = p / (1 - p)
    term = terms = 1.0
    for k in range(count, total):
        term *= (total - k) / (k + 1) * odds
        terms += term
        if term < _NEGLIGIBLE * terms:
            break
    return terms


def _log_probability(count: int, total: int, p: float) -> float:
    """Return log P(X = count), for 0 < count < total."""
    rest = total - count
    deviance = count * math.log(count / (total * p)) + rest * math.log(rest / (total * (1 - p)))
    stirling = _stirling(total) - _stirling(count) - _stirling(rest)
    return 0.5 * math.log(total / (2 * math.pi * count * rest)) + stirling - deviance


def _stirling(n: int) -> float:
    """Return log n! less Stirling's formula for it."""
    if n < 16:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
    square = float(n) * n
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / n
