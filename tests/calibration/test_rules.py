"""Threshold rules: what they take, what they refuse, and the thresholds that they give."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from lit_od.calibration.method import CalibrationOptions
from lit_od.calibration.rules import (
    RULES,
    best_f1,
    check_rule,
    conformal_rank,
    inliers_needed,
    require_applicable,
)
from lit_od.errors import ConfigError, DataError

SCORES = st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=30)
"""Scores of any size and sign, many of them equal."""


def test_every_rule_fills_in_its_options() -> None:
    assert check_rule({"rule": "mean_std"}) == {"rule": "mean_std", "n": 2}
    assert check_rule({"rule": "percentile"}) == {"rule": "percentile", "q": 99}
    assert check_rule({"rule": "fpr"}) == {"rule": "fpr", "rate": 0.01}
    assert check_rule({"rule": "max_f1"}) == {"rule": "max_f1", "outliers": None}
    assert check_rule({"rule": "max_f1", "outliers": 7}) == {"rule": "max_f1", "outliers": 7}
    assert check_rule({"rule": "value", "value": -1.5}) == {"rule": "value", "value": -1.5}
    assert set(RULES) == {"mean_std", "percentile", "fpr", "max_f1", "value"}


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
        ({"rule": "fpr", "rate": 0}, r"rate must be a number in \(0, 1\), got 0"),
        ({"rule": "fpr", "rate": 1}, r"rate must be a number in \(0, 1\), got 1"),
        ({"rule": "fpr", "rate": "1 %"}, "rate must be a number"),
        ({"rule": "fpr", "q": 99}, "rule fpr has no option 'q': Known: rate"),
        ({"rule": "max_f1", "outliers": 0}, "outliers must be an integer of at least 1, got 0"),
        ({"rule": "max_f1", "outliers": "bad/"}, "outliers must be an integer of at least 1, got 'bad/'"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_rule(rule)
    with pytest.raises(ConfigError, match=message):
        require_applicable(rule, inliers=5)


def test_what_a_rule_needs_is_known_before_there_are_scores() -> None:
    assert require_applicable({"rule": "percentile"}, inliers=1) == {"rule": "percentile", "q": 99}
    assert require_applicable({"rule": "fpr"}, inliers=99) == {"rule": "fpr", "rate": 0.01}
    assert require_applicable({"rule": "max_f1"}, inliers=1, outliers=3) == {"rule": "max_f1", "outliers": 3}
    assert require_applicable({"rule": "max_f1", "outliers": 9}, inliers=1, outliers=3)["outliers"] == 3
    with pytest.raises(ConfigError, match=r"rule max_f1 needs labelled outliers: give --outliers PATH \(in a recipe"):
        require_applicable({"rule": "max_f1", "outliers": 9}, inliers=1)
    with pytest.raises(ConfigError, match="rule fpr takes no outliers: leave them out, or take rule max_f1"):
        require_applicable({"rule": "fpr"}, inliers=99, outliers=3)
    with pytest.raises(DataError, match=r"rate=0\.01 needs at least 99 calibration inliers, got 98\. Pass more images"):
        require_applicable({"rule": "fpr"}, inliers=98)


@pytest.mark.parametrize(
    ("calibration", "rule", "paths"),
    [
        ({"rule": "percentile", "q": 95}, {"rule": "percentile", "q": 95}, []),
        ({"rule": "percentile", "outliers": None}, {"rule": "percentile"}, []),
        ({"rule": "max_f1", "outliers": "bad"}, {"rule": "max_f1"}, ["bad"]),
        ({"rule": "max_f1", "outliers": ["bad", "a.npz:images"]}, {"rule": "max_f1"}, ["bad", "a.npz:images"]),
    ],
)
def test_a_recipes_outliers_are_no_part_of_its_rule(
    calibration: dict[str, Any], rule: dict[str, Any], paths: list[str]
) -> None:
    before = dict(calibration)
    assert CalibrationOptions.parse(calibration) == CalibrationOptions(rule, paths)
    assert calibration == before


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"rule": "max_f1"}, "rule max_f1 needs labelled outliers"),
        ({"rule": "max_f1", "outliers": []}, "rule max_f1 needs labelled outliers"),
        ({"rule": "max_f1", "outliers": 5}, r"calibration\.outliers must be a PATH or a list of PATHs, got 5"),
        ({"rule": "max_f1", "outliers": ["bad", 5]}, "must be a PATH or a list of PATHs"),
        ({"rule": "max_f1", "outliers": ""}, "must be a PATH or a list of PATHs"),
        ({"rule": "percentile", "outliers": "bad"}, "rule percentile takes no outliers"),
        ({"rule": "magic", "outliers": "bad"}, "unknown threshold rule 'magic'"),
    ],
)
def test_recipes_whose_outliers_cannot_be_are_refused(calibration: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibrationOptions.parse(calibration)


# fpr


@given(inliers=st.integers(1, 3_000), rate=st.floats(1e-4, 0.9999) | st.integers(1, 999).map(lambda m: m / 1000))
def test_the_rank_is_the_smallest_that_keeps_the_rate(inliers: int, rate: float) -> None:
    """With the p-values' own division: rank k flags with probability (n + 1 - k) / (n + 1)."""
    possible = [k for k in range(1, inliers + 1) if (inliers + 1 - k) / (inliers + 1) <= rate]
    if possible:
        assert conformal_rank(inliers, rate) == possible[0]
        assert inliers_needed(rate) <= inliers
    else:
        assert inliers_needed(rate) > inliers
        with pytest.raises(DataError, match=f"needs at least {inliers_needed(rate):,} calibration inliers"):
            conformal_rank(inliers, rate)


@pytest.mark.parametrize(("inliers", "rate", "rank"), [(99, 0.29, 71), (99, 0.07, 93), (2, 1 / 3, 2), (1, 0.5, 1)])
def test_rounding_costs_no_rank(inliers: int, rate: float, rank: int) -> None:
    assert conformal_rank(inliers, rate) == rank


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.01, 99), (0.001, 999), (0.5, 1), (0.9, 1), (1 / 3, 2), (0.3, 3), (1e-9, 999_999_999)]
)
def test_how_many_inliers_a_rate_needs(rate: float, needed: int) -> None:
    assert inliers_needed(rate) == needed
    assert conformal_rank(needed, rate) == needed or rate > 0.5


def test_a_rate_that_nobody_can_keep_is_refused_all_the_same() -> None:
    assert inliers_needed(5e-324) > 10**320
    with pytest.raises(DataError, match="needs at least"):
        conformal_rank(1_000_000, 5e-324)


# max_f1


def f1_at(threshold: float, inliers: np.ndarray, outliers: np.ndarray) -> float:
    hits, false, missed = sum(outliers > threshold), sum(inliers > threshold), sum(outliers <= threshold)
    return float(2 * hits / (2 * hits + false + missed))


def f1_of_sklearn(threshold: float, inliers: np.ndarray, outliers: np.ndarray) -> float:
    truth = np.repeat([0, 1], [inliers.size, outliers.size])
    return float(f1_score(truth, np.concatenate([inliers, outliers]) > threshold, zero_division=0.0))


@given(inliers=SCORES, outliers=SCORES, data=st.data())
def test_no_threshold_has_a_better_f1(inliers: list[float], outliers: list[float], data: st.DataObject) -> None:
    outliers = outliers + data.draw(st.lists(st.sampled_from(inliers), max_size=3))
    x, y = np.sort(inliers), np.array(outliers)
    every = sorted({-math.inf, *inliers, *outliers})
    f1 = {threshold: f1_at(threshold, x, y) for threshold in every}
    best = max(f1.values())
    if max([f1[threshold] for threshold in every[1:]], default=0.0) < f1[-math.inf]:
        with pytest.raises(DataError, match="is that of calling every image an outlier"):
            best_f1(x, y)
        return
    came = best_f1(x, y)
    assert f1_at(came, x, y) == best
    assert f1_of_sklearn(came, x, y) == pytest.approx(best, abs=1e-12)
    highest = max(threshold for threshold in every if f1[threshold] == best)
    assert highest <= came < min(threshold for threshold in every if threshold > highest)


def test_best_f1_by_hand() -> None:
    assert best_f1(np.array([1.0, 2.0, 3.0]), np.array([5.0, 9.0])) == 4.0  # halfway between the sets
    # 4 of 4 outliers with 1 inlier above is 8/9, 3 of 4 with none 6/7
    assert best_f1(np.array([0.0, 1.0, 6.0]), np.array([9.0, 8.0, 3.0, 7.0])) == 2.0
    # 1 of 2 alone and 2 of 2 with two inliers are both 2/3: the higher one flags no inlier
    assert best_f1(np.array([0.0, 2.0, 2.0]), np.array([1.0, 4.0])) == 3.0
    # 1 of 2 alone is as good as all images: 2/3 both
    assert best_f1(np.array([0.0, 0.0]), np.array([-1.0, 5.0])) == 2.5
    # an outlier that ties with an inlier stays or goes with it
    assert best_f1(np.array([0.0, 1.0, 1.0, 1.0]), np.array([1.0, 2.0])) == 1.5


def test_neighbouring_floats_and_the_largest_ones_divide_too() -> None:
    above = float(np.nextafter(1.0, 2.0))
    assert best_f1(np.array([1.0]), np.array([above])) == 1.0
    assert best_f1(np.array([-5e-324]), np.array([0.0])) == -5e-324
    assert best_f1(np.array([-1.7e308]), np.array([1.7e308])) == 0.0


@pytest.mark.parametrize(("inliers", "outliers"), [([1.0, 2.0], [0.5]), ([1.0], [1.0]), ([3.0, 4.0], [1.0, 2.0])])
def test_outliers_below_the_inliers_give_no_threshold(inliers: list[float], outliers: list[float]) -> None:
    with pytest.raises(DataError, match="Pass outliers that score higher, more inliers, or another rule"):
        best_f1(np.array(inliers), np.array(outliers))
