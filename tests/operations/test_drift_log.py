"""The record of a drift alarm: short lists, distances of windows, what moved in the images."""

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from lit_od.images.statistics import STATISTICS
from lit_od.operations.drift_log import POINTS, WINDOW, ImageMoments, Point, Thinned, Window, Windows, ks_distance


def test_the_distance_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 9, 13).astype(float), np.sort(rng.integers(1, 12, 40).astype(float))
        assert ks_distance(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert math.isnan(ks_distance(one, np.empty(0)))


def test_a_course_stays_short_and_keeps_its_peaks() -> None:
    course: Thinned[Point] = Thinned()
    rng = np.random.default_rng(1)
    values = rng.normal(size=20_000)
    values[12_345] = 50
    for row, value in enumerate(values.tolist()):
        course.add(Point(row, value, value))
        assert len(course) <= POINTS
    rows = [point.row for point in course]
    assert rows == sorted(rows)
    assert len(course) > POINTS / 4
    assert Point(12_345, 50, 50) in course


def test_windows_are_compared_with_what_began_the_bag() -> None:
    rng = np.random.default_rng(2)
    windows = Windows()
    windows.new_bag(rng.normal(size=500))
    for row, score in enumerate([*rng.normal(size=WINDOW), *(rng.normal(size=WINDOW) + 3), 1.0]):
        windows.add(row, score)
    calm, moved = windows.found
    assert (calm.first, calm.last, moved.first, moved.last) == (0, WINDOW - 1, WINDOW, 2 * WINDOW - 1)
    assert calm.distance < 0.2 < 0.8 < moved.distance
    assert calm.joined(moved) == Window(0, 2 * WINDOW - 1, moved.distance)
    assert moved.joined(Window(400, 599, math.nan)).distance == moved.distance


def test_movements_compare_rows_since_a_start_with_those_before() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(0.5, 0.1, (1500, 3))
    rows[1400:, 1] -= 0.3
    moments = ImageMoments()
    for row, values in enumerate(rows.tolist()):
        moments.add(row, values)
    found = moments.moved(1400)
    assert tuple(each.name for each in found) == STATISTICS
    for place, each in enumerate(found):
        before, after = rows[:1400, place], rows[1400:, place]
        assert each.before == pytest.approx(before.mean())
        assert each.after == pytest.approx(after.mean())
        assert each.deviations == pytest.approx((after.mean() - before.mean()) / before.std())
    assert (found[1].deviations or 0) < -2.5
    assert moments.moved(1499) == ()
    assert len(moments.moved(0)) == 3, "of rows long ago only sums are left"


def test_a_statistic_that_never_varied_has_no_deviations() -> None:
    moments = ImageMoments()
    for row in range(10):
        moments.add(row, (0.25, 0.0, float(row > 5)))
    bright, _, saturated = moments.moved(6)
    assert bright.deviations is None
    assert (saturated.before, saturated.after) == (0, 1)
