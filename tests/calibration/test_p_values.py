"""Thresholds against numpy, p-values against their literal definition, and what makes them valid."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from lit_od.calibration.binomial import clopper_pearson
from lit_od.calibration.p_values import Calibration
from lit_od.errors import ConfigError, DataError
from lit_od.images.sources import Source
from lit_od.types import Scores

SCORES = st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=40)
"""Scores of any size and sign, many of them equal."""


@given(calibration=SCORES, scores=SCORES, data=st.data())
def test_p_values_are_what_their_definition_says(
    calibration: list[float], scores: list[float], data: st.DataObject
) -> None:
    scores = scores + data.draw(st.lists(st.sampled_from(calibration), max_size=5))
    fitted = Calibration.from_inliers(np.array(calibration), {"rule": "percentile"})
    raised = fitted.scores
    literal = [(1 + sum(inlier >= score for inlier in raised)) / (1 + len(calibration)) for score in scores]
    came = fitted.p_values(np.array(scores))
    np.testing.assert_array_equal(came, literal)
    assert came.dtype == np.float64
    assert ((came > 0) & (came <= 1)).all()


@given(calibration=SCORES, n=st.floats(-5, 5), q=st.floats(0, 100))
def test_rules_are_numpys(calibration: list[float], n: float, q: float) -> None:
    scores = Calibration.from_inliers(np.array(calibration), {"rule": "percentile"}).scores  # raised by a hair
    by_mean = Calibration.from_inliers(np.array(calibration), {"rule": "mean_std", "n": n})
    assert math.isclose(by_mean.threshold, scores.mean() + n * scores.std(), rel_tol=1e-9, abs_tol=1e-6)
    by_rank = Calibration.from_inliers(np.array(calibration), {"rule": "percentile", "q": q})
    assert by_rank.threshold == np.percentile(scores, q)
    assert by_rank.flagged_share() == np.mean(scores > by_rank.threshold)
    by_hand = Calibration.from_inliers(np.array(calibration), {"rule": "value", "value": n})
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
    assert fitted.scores.tolist() == pytest.approx([1.0, 2.0, 3.0], abs=2e-6)  # raised by a hair
    assert given_scores.tolist() == [3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        fitted.scores[0] = 5
    other = fitted.with_rule({"rule": "mean_std"})
    assert other.scores.tolist() == fitted.scores.tolist()
    assert other.rule == {"rule": "mean_std", "n": 2}
    assert other.threshold == pytest.approx(2 + 2 * math.sqrt(2 / 3), abs=2e-6)


@pytest.mark.parametrize(
    ("scores", "hair"),
    [
        ([1.0, 2.0, 3.0], 1e-6),
        ([-5e3, 0.0, 5e3, 1e6], 1e-6 * (253_750.0 + 1_250.0)),
        ([7.0, 7.0, 7.0, 7.0, 900.0], 7e-6),
        ([-7.0], 7e-6),
        ([0.25, 0.25], 1e-6),
    ],
)
def test_scores_are_raised_once_by_a_share_of_their_interquartile_range(scores: list[float], hair: float) -> None:
    """By max(1, |median|) in its place where it is zero; another rule raises them no further."""
    fitted = Calibration.from_inliers(np.array(scores), {"rule": "percentile"})
    np.testing.assert_allclose(fitted.scores, np.array(scores) + hair, rtol=1e-15)
    again = fitted.with_rule({"rule": "percentile", "q": 50}).with_rule({"rule": "mean_std"})
    assert again.scores.tolist() == fitted.scores.tolist()


@given(
    calibration=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20),
    rule=st.sampled_from([{"rule": "percentile", "q": 100}, {"rule": "fpr", "rate": 0.5}]),
)
def test_last_bits_decide_nothing_for_an_image_that_equals_a_calibration_image(
    calibration: list[float], rule: dict[str, Any]
) -> None:
    fitted = Calibration.from_inliers(np.array(calibration), rule)
    equal = np.array(calibration)
    other_batch = equal + 1e-7  # in steps of a quarter at least
    assert fitted.p_values(equal).tolist() == fitted.p_values(other_batch).tolist()
    assert fitted.is_outlier(equal).tolist() == fitted.is_outlier(other_batch).tolist()


@pytest.mark.parametrize(
    ("scores", "message"),
    [([], "calibration needs inliers"), ([1.0, math.nan], "must be finite"), ([math.inf], "must be finite")],
)
def test_scores_that_cannot_calibrate_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Calibration.from_inliers(np.array(scores), {"rule": "percentile"})


# Rule fpr and the p-values are one statement


@given(calibration=SCORES, scores=SCORES, rate=st.floats(0.02, 0.98) | st.integers(1, 49).map(lambda m: m / 50))
def test_the_fpr_rule_flags_exactly_the_p_values_up_to_its_rate(
    calibration: list[float], scores: list[float], rate: float
) -> None:
    try:
        fitted = Calibration.from_inliers(np.array(calibration), {"rule": "fpr", "rate": rate})
    except DataError:
        assert 1 / (len(calibration) + 1) > rate  # then no p-value is as small as the rate
        return
    every = np.array(scores + calibration)
    np.testing.assert_array_equal(fitted.is_outlier(every), fitted.p_values(every) <= rate)
    assert fitted.threshold in fitted.scores


@pytest.fixture(scope="module")
def inlier_scores(made_bundle: Bundle, digits: list[Source]) -> Scores:
    """Scores of a thousand real digits that the detector has not seen."""
    results = Scorer.of(made_bundle, threads=1).stream(digits[800:1800])
    return np.concatenate([result.score for result in results])


def divided(scores: Scores, inliers: int, splits: int, seed: int) -> Iterator[tuple[Scores, Scores]]:
    """Random divisions into calibration and new inliers."""
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        mixed = rng.permutation(scores)
        yield mixed[:inliers], mixed[inliers:]


@pytest.mark.parametrize("inliers", [199, 480])
def test_p_values_are_valid_over_random_splits_of_real_scores(inlier_scores: Scores, inliers: int) -> None:
    shares = [
        np.mean(Calibration.from_inliers(held_out, {"rule": "percentile"}).p_values(new) <= 0.05)
        for held_out, new in divided(inlier_scores, inliers, 2_000, seed=1)
    ]
    error = np.std(shares) / math.sqrt(len(shares))
    assert 0.04 <= np.mean(shares) <= 0.05 + 3 * error


@pytest.mark.parametrize(("inliers", "rate"), [(9, 0.1), (30, 0.05), (99, 0.01), (150, 0.2), (700, 0.01)])
def test_the_fpr_rule_keeps_its_rate_over_random_splits(inlier_scores: Scores, inliers: int, rate: float) -> None:
    shares = [
        np.mean(Calibration.from_inliers(held_out, {"rule": "fpr", "rate": rate}).is_outlier(new))
        for held_out, new in divided(inlier_scores, inliers, 1_000, seed=2)
    ]
    error = np.std(shares) / math.sqrt(len(shares))
    expected = math.floor(rate * (inliers + 1) + 1e-9) / (inliers + 1)  # what the rank gives without ties
    assert expected <= rate
    assert abs(np.mean(shares) - expected) <= 3.5 * error


@given(inliers=st.integers(20, 60), rate=st.floats(0.06, 0.5), digits=st.integers(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_ties_only_make_the_fpr_rule_more_cautious(inliers: int, rate: float, digits: int, seed: int) -> None:
    drawn = np.round(np.random.default_rng(seed).normal(size=(1_000, inliers + 1)), digits)
    flagged = [
        Calibration.from_inliers(row[:-1], {"rule": "fpr", "rate": rate}).is_outlier(row[-1:])[0] for row in drawn
    ]
    assert np.mean(flagged) <= rate + 5 * math.sqrt(rate * (1 - rate) / len(drawn))


# max_f1


def test_outliers_give_the_threshold_with_the_best_f1() -> None:
    fitted = Calibration.from_inliers(
        np.array([3.0, 1.0, 2.0]), {"rule": "max_f1"}, outliers=np.array([9.0, 5.0], dtype=np.float32)
    )
    assert fitted.threshold == pytest.approx(4.0, abs=2e-6)  # the inliers are raised by a hair
    assert fitted.rule == {"rule": "max_f1", "outliers": 2}
    again = fitted.with_rule(fitted.rule, outliers=np.array([4.0, 5.0, 6.0]))
    assert again.threshold == pytest.approx(3.5, abs=2e-6)
    assert again.rule == {"rule": "max_f1", "outliers": 3}


def test_outliers_are_asked_for_and_refused_where_they_are_no_use() -> None:
    fitted = Calibration.from_inliers(np.array([1.0]), {"rule": "percentile"})
    with pytest.raises(ConfigError, match="rule max_f1 needs labelled outliers"):
        fitted.with_rule({"rule": "max_f1"})
    with pytest.raises(ConfigError, match="rule max_f1 needs labelled outliers"):
        fitted.with_rule({"rule": "max_f1", "outliers": 5}, outliers=np.empty(0))
    with pytest.raises(ConfigError, match="rule percentile takes no outliers"):
        fitted.with_rule({"rule": "percentile"}, outliers=np.array([2.0]))
    with pytest.raises(DataError, match="must be finite"):
        fitted.with_rule({"rule": "max_f1"}, outliers=np.array([math.nan]))
    assert fitted.with_rule({"rule": "percentile"}, outliers=np.empty(0)).threshold == 1.0 + 1e-6


# The interval of the false-positive rate


def test_the_interval_is_of_the_inliers_above() -> None:
    fitted = Calibration.from_inliers(np.arange(100.0), {"rule": "value", "value": 95.5})
    assert fitted.flagged() == 4
    assert fitted.fpr_interval() == clopper_pearson(4, 100)
    assert fitted.fpr_interval(98.5, confidence=0.5) == clopper_pearson(1, 100, confidence=0.5)
    assert fitted.fpr_interval(1e9)[0] == 0.0
    assert fitted.fpr_interval(-1.0)[1] == 1.0


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "value", "value": 0.96},
        {"rule": "fpr", "rate": 0.05},
        {"rule": "percentile", "q": 95},
        {"rule": "percentile", "q": 90.3},
    ],
)
def test_the_interval_holds_the_true_rate_as_often_as_it_says(rule: dict[str, Any]) -> None:
    """Uniform scores: the true rate of a threshold t is 1 - t. Each end may miss it in 2.5 % of the draws."""
    rng = np.random.default_rng(0)
    below = above = 0
    for _ in range(4_000):
        fitted = Calibration.from_inliers(rng.random(120), rule)
        low, high = fitted.fpr_interval()
        below += 1 - fitted.threshold < low
        above += 1 - fitted.threshold > high
    error = math.sqrt(0.025 * 0.975 / 4_000)
    assert below / 4_000 <= 0.025 + 3 * error
    assert above / 4_000 <= 0.025 + 3 * error
    if rule["rule"] == "fpr":  # the upper end is exact at a calibration score
        assert above / 4_000 >= 0.025 - 3 * error


def test_at_a_calibration_score_the_upper_end_is_that_of_the_order_statistic() -> None:
    """The rate above the k-th smallest of n is Beta(n + 1 - k, k); its own interval lies within this one."""
    fitted = Calibration.from_inliers(np.random.default_rng(0).random(400), {"rule": "fpr", "rate": 0.05})
    low, high = fitted.fpr_interval()
    exact = beta(20, 381)
    assert high == pytest.approx(exact.isf(0.025), rel=1e-9)
    assert low < exact.ppf(0.025) < high


@pytest.mark.parametrize("scores", [[3.0, 1, 4, 1, 5, 9, 2, 6], [0.0, 0, 0], [-7.5, -7.5], [1e-9, 2e-9, 5e-9]])
def test_scores_are_lowered_to_what_they_were(scores: list[float]) -> None:
    found = Calibration.from_inliers(np.array(scores), {"rule": "mean_std"}).as_scored()
    np.testing.assert_allclose(found, sorted(scores), rtol=1e-9, atol=1e-15)
