"""The drift alarm: false alarms on exchangeable rows, power against changes, and what breaks its promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.errors import ConfigError, DataError
from lit_od.operations.bets import Evidence, log_factors
from lit_od.operations.drift import DriftMonitor, DriftOptions, draws
from lit_od.operations.ranks import bin_of
from lit_od.types import Scores


def alarms(scores: Scores, options: DriftOptions, start: Scores | None = None) -> list[tuple[int, int]]:
    """Rows and likeliest starts of all alarms on a stream."""
    monitor = DriftMonitor(options, start=start)
    found = [monitor.update(score).alarm for score in scores.tolist()]
    return [(each.row, each.start) for each in found if each is not None]


def most_by_chance(trials: int, rate: float) -> int:
    """The number of events that chance exceeds in one of 10,000 cases."""
    tail, count = 1.0, -1
    while tail > 1e-4:
        count += 1
        tail -= math.comb(trials, count) * rate**count * (1 - rate) ** (trials - count)
    return count


def distances(rng: np.random.Generator, count: int) -> Scores:
    """Scores as a detector's distances: all positive, with a tail of large ones."""
    return 30 + 5 * rng.gumbel(size=count)


LENIENT = DriftOptions(level=0.1, burn_in=30)


@pytest.mark.parametrize("begins", ["burn-in", "earlier scores", "no score"])
def test_exchangeable_streams_alarm_no_more_often_than_the_level(begins: str) -> None:
    rng = np.random.default_rng(3)
    streams = 60
    start = {"earlier scores": 60}.get(begins)
    options = DriftOptions(level=0.1, burn_in=0) if begins == "no score" else LENIENT
    alarmed = sum(
        bool(alarms(distances(rng, 200), options, None if start is None else distances(rng, start)))
        for _ in range(streams)
    )
    assert 0 < alarmed <= most_by_chance(streams, 0.1)


def test_rows_of_few_distinct_scores_alarm_no_more_often() -> None:
    rng = np.random.default_rng(4)
    streams = 60
    alarmed = sum(bool(alarms(rng.integers(0, 3, 200).astype(float), LENIENT)) for _ in range(streams))
    assert alarmed <= most_by_chance(streams, 0.1)


def test_p_values_against_a_fixed_set_alarm_in_the_end() -> None:
    """Why the bag grows: given the set, such p-values are not uniform, and bets learn how."""
    rng = np.random.default_rng(5)
    alarmed = 0
    for _ in range(40):
        fixed = np.sort(distances(rng, 40))
        evidence, reached = Evidence(), False
        for score in distances(rng, 400):
            p_value = (np.count_nonzero(fixed > score) + 1 - rng.random()) / (fixed.size + 1)
            reached = reached or evidence.update(log_factors(p_value)) >= math.log(10)
        alarmed += reached
    assert alarmed > most_by_chance(40, 0.1)


def test_a_bag_that_starts_with_scores_too_large_alarms_on_normal_rows() -> None:
    """As those of images that fitted other folds are: such a bag has to begin with the burn-in."""
    rng = np.random.default_rng(6)
    streams = [(1.05 * distances(rng, 300), distances(rng, 350)) for _ in range(25)]
    limit = most_by_chance(25, 0.1)
    assert sum(bool(alarms(rows, LENIENT, start)) for start, rows in streams) > limit
    assert sum(bool(alarms(rows, LENIENT)) for _, rows in streams) <= limit


def test_the_standing_watch_runs_long_enough_between_false_alarms() -> None:
    rng = np.random.default_rng(7)
    options = DriftOptions(standing=40, burn_in=0)
    rows, found = 8_000, []
    monitor = DriftMonitor(options)
    for score in distances(rng, rows).tolist():
        reading = monitor.update(score)
        found += [reading] if reading.alarm else []
    between = rows / len(found)
    assert between > 40 * (1 - 3 / math.sqrt(len(found)))  # times between alarms are about exponential
    assert between < 400
    assert all(reading.standing >= math.log10(40) for reading in found)


@pytest.mark.parametrize("options", [DriftOptions(), DriftOptions(standing=10_000)])
def test_a_shift_is_found_and_its_start_named(options: DriftOptions) -> None:
    rng = np.random.default_rng(8)
    stream = np.concatenate([distances(rng, 400), distances(rng, 300) + 7])
    (row, start), *others = alarms(stream, options)
    assert 400 < row < 520
    assert abs(start - 400) < 25
    assert not others, "the new bag holds the new normal"


def test_scores_that_fall_are_found_too() -> None:
    rng = np.random.default_rng(9)
    stream = np.concatenate([distances(rng, 400), distances(rng, 400) - 7])
    (row, _), *_ = alarms(stream, DriftOptions())
    assert 400 < row < 600


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, -1.0, 2.5, 2.5000001, 1e30]) | st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_p_values_are_ranks_with_ties_drawn_by_seed_and_row(scores: list[float]) -> None:
    monitor = DriftMonitor(DriftOptions(burn_in=0, level=1e-9, seed=11), start=np.array([0.0, 5.0]))
    theta, bins = draws(11, 0), np.array([bin_of(score) for score in (0.0, 5.0, *scores)])
    for row, score in enumerate(scores):
        seen = bins[: row + 3]
        want = ((seen > seen[-1]).sum() + theta[row] * (seen == seen[-1]).sum()) / seen.size
        assert monitor.update(score).p_value == want
        assert monitor.in_bag == row + 3
    again = DriftMonitor(DriftOptions(burn_in=0, level=1e-9, seed=11), start=np.array([5.0, 0.0]))
    p_values = [again.update(score).p_value for score in scores]
    other = DriftMonitor(DriftOptions(burn_in=0, level=1e-9, seed=12), start=np.array([5.0, 0.0]))
    assert p_values != [other.update(score).p_value for score in scores]


def test_draws_lie_above_zero_and_differ_by_block() -> None:
    one, two = draws(0, 0), draws(0, 1)
    assert len(one) == 4096
    assert 0 < min(one) < 0.01
    assert 0.99 < max(one) <= 1
    assert one[:5] != two[:5]
    monitor = DriftMonitor(DriftOptions(burn_in=0))
    first = monitor.update(1.0, row=4096)
    assert first.p_value == two[0]


def test_a_burn_in_fills_the_bag_and_bets_nothing() -> None:
    monitor = DriftMonitor(DriftOptions(burn_in=3))
    readings = [monitor.update(score) for score in (1.0, 2.0, 3.0, 4.0)]
    assert [reading.p_value is None for reading in readings] == [True, True, True, False]
    assert [reading.evidence for reading in readings[:3]] == [0, 0, 0]
    assert readings[3].p_value <= 1 / 4  # the largest of four
    assert monitor.in_bag == 4


def test_a_new_bag_forgets_and_counts_rows_on() -> None:
    rng = np.random.default_rng(10)
    monitor = DriftMonitor(DriftOptions(burn_in=2))
    for score in distances(rng, 50).tolist():
        monitor.update(score)
    monitor.new_bag(start=distances(rng, 20))
    assert monitor.in_bag == 20
    reading = monitor.update(30.0)
    assert (reading.row, monitor.in_bag) == (50, 21)
    assert reading.p_value is not None
    monitor.new_bag()
    assert monitor.update(30.0).p_value is None


def test_after_an_alarm_the_bag_is_new() -> None:
    monitor = DriftMonitor(DriftOptions(level=0.5, burn_in=5))
    rows = [1.0, 1.1, 1.2, 1.3, 1.4, *range(10, 40)]
    readings = [monitor.update(float(score)) for score in rows]
    alarm = next(reading.alarm for reading in readings if reading.alarm)
    assert alarm.start >= 5
    assert alarm.evidence >= math.log10(2)
    after = readings[alarm.row + 1]
    assert (after.p_value, after.evidence, after.standing) == (None, 0.0, -math.inf)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 0}, "level must be a number in"),
        ({"level": 1.0}, "level must be a number in"),
        ({"standing": 0.5}, "standing must be a number in"),
        ({"standing": math.inf}, "standing must be a number in"),
        ({"burn_in": -1}, "burn_in must be an integer of at least 0"),
        ({"burn_in": 1.5}, "burn_in must be an integer"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"seed": 2**64}, r"seed must be below 2\*\*64"),
    ],
)
def test_odd_options_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DriftOptions(**options)  # type: ignore[arg-type]


def test_odd_scores_and_rows_are_refused() -> None:
    with pytest.raises(DataError, match="the scores that begin a bag must be finite"):
        DriftMonitor(start=np.array([1.0, np.nan]))
    monitor = DriftMonitor()
    for score in (math.nan, math.inf):
        with pytest.raises(DataError, match="a score must be finite, got"):
            monitor.update(score)
    monitor.update(1.0, row=7)
    with pytest.raises(DataError, match="rows are numbered upwards, got 7 after 7"):
        monitor.update(1.0, row=7)
