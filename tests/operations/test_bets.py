"""Bets in logarithms, against plain arithmetic; what they promise on uniform p-values."""

import math

import numpy as np
import pytest

from lit_od.operations.bets import Evidence, Standing, Starts, log_factors, log_sum


def plain_evidence(p_values: list[float]) -> list[float]:
    """The martingale in plain floats, as the papers write it."""
    capital = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}
    powers = dict.fromkeys((0.2, 0.4, 0.6, 0.8), 1.0)
    found = []
    for p in p_values:
        whole = sum(capital.values())
        capital = {e: (0.99 * c + 0.01 * whole / 3) * (1 + e * (p - 0.5)) for e, c in capital.items()}
        powers = {k: c * k * p ** (k - 1) for k, c in powers.items()}
        found.append((sum(capital.values()) + sum(powers.values()) / 4) / 2)
    return found


def plain_standing(p_values: list[float]) -> list[float]:
    """The sum of martingales, one begun at each row."""
    return [
        sum(plain_evidence(p_values[start : end + 1])[-1] for start in range(end + 1)) for end in range(len(p_values))
    ]


@pytest.fixture(scope="module")
def p_values() -> list[float]:
    rng = np.random.default_rng(0)
    found: list[float] = np.concatenate(
        [1 - rng.random(30), 1 - rng.random(20) ** 0.3, (1 - rng.random(20)) ** 4]
    ).tolist()
    return found


def test_evidence_is_that_of_plain_arithmetic(p_values: list[float]) -> None:
    evidence = Evidence()
    found = [math.exp(evidence.update(log_factors(p))) for p in p_values]
    np.testing.assert_allclose(found, plain_evidence(p_values), rtol=1e-12)
    assert max(found) > 100


def test_the_standing_watch_adds_up_martingales_begun_at_each_row(p_values: list[float]) -> None:
    standing = Standing()
    found = [math.exp(standing.update(log_factors(p))) for p in p_values]
    np.testing.assert_allclose(found, plain_standing(p_values), rtol=1e-12)


@pytest.mark.parametrize("bet", range(7))
def test_each_bet_is_a_density(bet: int) -> None:
    """The integral over u = p^(1/5) is smooth at 0, where powers have their pole."""
    places = (np.arange(20_000) + 0.5) / 20_000
    values = [math.exp(log_factors(u**5)[bet]) * 5 * u**4 for u in places]
    assert np.mean(values) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("p_value", [1e-6, 1.0])
def test_no_length_overflows(p_value: float) -> None:
    evidence, standing = Evidence(), Standing()
    for _ in range(5_000):
        logs = evidence.update(log_factors(p_value)), standing.update(log_factors(p_value))
    assert all(math.isfinite(each) for each in logs)
    assert max(map(abs, logs)) > 1_500


def test_the_standing_watch_forgets_what_was_long_ago() -> None:
    """Evidence does not: after 2,000 dull rows the same change lifts it less."""
    rng = np.random.default_rng(1)
    change = ((1 - rng.random(15)) ** 8).tolist()
    late = []
    for before in (50, 2_000):
        evidence, standing = Evidence(), Standing()
        for p in [*(1 - rng.random(before)).tolist(), *change]:
            logs = evidence.update(log_factors(p)), standing.update(log_factors(p))
        late.append(logs)
    (early_evidence, early_standing), (late_evidence, late_standing) = late
    assert late_evidence < early_evidence - 2
    assert late_standing > early_standing - 2


def test_the_likeliest_start_is_the_row_of_a_plain_search() -> None:
    rng = np.random.default_rng(2)
    p_values = [*(1 - rng.random(200)).tolist(), *((1 - rng.random(25)) ** 6).tolist()]
    starts = Starts()
    assert starts.likeliest() is None
    factors = []
    for row, p in enumerate(p_values):
        factors.append(log_factors(p))
        starts.update(factors[-1], row)
    sums = np.array(factors)[::-1].cumsum(axis=0)[::-1]  # of each bet from each row on
    row, _ = np.unravel_index(sums.argmax(), sums.shape)
    assert starts.likeliest() == row
    assert abs(row - 200) <= 3


def test_log_sum() -> None:
    assert log_sum([math.log(2), math.log(3)]) == pytest.approx(math.log(5))
    assert log_sum([1e5, 1e5]) == pytest.approx(1e5 + math.log(2))
    assert log_sum([-math.inf, -math.inf]) == -math.inf
