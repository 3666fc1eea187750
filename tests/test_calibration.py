"""Thresholds against numpy, p-values against their literal definition, and what makes them valid."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.calibration import RULES, Calibration, check_rule
from lit_od.errors import ConfigError, DataError

SCORES = st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=40)
"""Scores of any size and sign, many of them equal."""


@given(calibration=SCORES, scores=SCORES, data=st.data())
def test_p_values_are_what_their_definition_says(
    calibration: list[float], scores: list[float], data: st.DataObject
) -> None:
    scores = scores + data.draw(st.lists(st.sampled_from(calibration), max_size=5))
    fitted = Calibration.from_inliers(np.array(calibration), {"rule": "percentile"})
    literal = [(1 + sum(inlier >= score for inlier in calibration)) / (1 + len(calibration)) for score in scores]
    came = fitted.p_values(np.array(scores))
    np.testing.assert_array_equal(came, literal)
    assert came.dtype == np.float64
    assert ((came > 0) & (came <= 1)).all()


@given(calibration=SCORES, n=st.floats(-5, 5), q=st.floats(0, 100))
def test_rules_are_numpys(calibration: list[float], n: float, q: float) -> None:
    scores = np.array(calibration)
    by_mean = Calibration.from_inliers(scores, {"rule": "mean_std", "n": n})
    assert math.isclose(by_mean.threshold, scores.mean() + n * scores.std(), rel_tol=1e-9, abs_tol=1e-6)
    by_rank = Calibration.from_inliers(scores, {"rule": "percentile", "q": q})
    assert by_rank.threshold == np.percentile(scores, q)
    assert by_rank.flagged_share() == np.mean(scores > by_rank.threshold)
    by_hand = Calibration.from_inliers(scores, {"rule": "value", "value": n})
    assert by_hand.threshold == n
    assert by_hand.flagged_share(q) == np.mean(scores > q)


def test_an_outlier_is_above_the_threshold_and_not_on_it() -> None:
    fitted = Calibration.from_inliers(np.array([1.0, 2.0, 3.0]), {"rule": "value", "value": 2.0})
    verdicts = fitted.is_outlier(np.array([2.0, np.nextafter(2.0, 3.0), 1.0, np.nan]))
    assert verdicts.tolist() == [False, True, False, False]
    assert verdicts.dtype == np.bool_


def test_p_values_of_exchangeable_scores_are_valid() -> None:
    """P(p <= t) <= t over the draw of calibration and test scores, at every level."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(400):
        drawn = np.round(rng.standard_t(2, size=149), 1)  # heavy tails, many ties
        p_values.append(Calibration.from_inliers(drawn[:49], {"rule": "percentile"}).p_values(drawn[49:]))
    came = np.concatenate(p_values)
    for level in (0.02, 0.05, 0.1, 0.3, 0.5, 0.9):
        assert np.mean(came <= level) <= level + 0.012  # three standard errors
    untied = Calibration.from_inliers(rng.normal(size=99), {"rule": "percentile"})
    assert np.mean(untied.p_values(rng.normal(size=50_000)) <= 0.5) > 0.4  # and they do not hide behind being large


def test_scores_are_kept_sorted_and_cannot_be_written() -> None:
    given_scores = np.array([3.0, 1.0, 2.0])
    fitted = Calibration.from_inliers(given_scores, {"rule": "percentile"})
    assert fitted.scores.tolist() == [1.0, 2.0, 3.0]
    assert given_scores.tolist() == [3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        fitted.scores[0] = 5
    other = fitted.with_rule({"rule": "mean_std"})
    assert other.scores.tolist() == fitted.scores.tolist()
    assert other.rule == {"rule": "mean_std", "n": 2}
    assert other.threshold == pytest.approx(2 + 2 * math.sqrt(2 / 3))


@pytest.mark.parametrize(
    ("scores", "message"),
    [([], "calibration needs inliers"), ([1.0, math.nan], "must be finite"), ([math.inf], "must be finite")],
)
def test_scores_that_cannot_calibrate_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Calibration.from_inliers(np.array(scores), {"rule": "percentile"})


def test_every_rule_fills_in_its_options() -> None:
    assert check_rule({"rule": "mean_std"}) == {"rule": "mean_std", "n": 2}
    assert check_rule({"rule": "percentile"}) == {"rule": "percentile", "q": 99}
    assert check_rule({"rule": "value", "value": -1.5}) == {"rule": "value", "value": -1.5}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "unknown threshold rule None"),
        ({"rule": "percentil"}, r"unknown threshold rule 'percentil': did you mean 'percentile'\? Known: mean_std"),
        ({"rule": ["percentile"]}, "unknown threshold rule"),
        ({"rule": "percentile", "n": 2}, "rule percentile has no option 'n': Known: q"),
        ({"rule": "value"}, r"value must be a number in \[-1e\+300, 1e\+300\], got None"),
        ({"rule": "value", "value": math.nan}, "value must be a number"),
        ({"rule": "value", "value": "3"}, "value must be a number"),
        ({"rule": "percentile", "q": 100.1}, r"q must be a number in \[0, 100\], got 100\.1"),
        ({"rule": "percentile", "q": -1}, "q must be a number"),
        ({"rule": "percentile", "q": True}, "q must be a number"),
        ({"rule": "mean_std", "n": math.inf}, "n must be a number"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_rule(rule)
    with pytest.raises(ConfigError, match=message):
        Calibration.from_inliers(np.array([1.0]), rule)


def test_every_rule_is_known_here() -> None:
    assert set(RULES) == {"mean_std", "percentile", "value"}
