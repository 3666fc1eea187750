"""Methods of calibration: which one is taken, what is proven of it, and what it supports."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.calibration.method import CalibrationOptions, Folds, asked_rate, shortfall
from lit_od.calibration.p_values import Calibration
from lit_od.errors import ConfigError

PERCENTILE = {"rule": "percentile", "q": 99}


@pytest.mark.parametrize(
    ("calibration", "held_out", "method"),
    [
        (PERCENTILE, 98, "cross"),  # 1 / 0.01 - 1 = 99 are needed
        (PERCENTILE, 99, "split"),
        ({"rule": "percentile", "q": 99.9}, 998, "cross"),
        ({"rule": "percentile", "q": 99.9}, 999, "split"),
        ({"rule": "percentile", "q": 0}, 1, "split"),
        ({"rule": "percentile", "q": 100}, 1, "split"),  # a rate of 0 is supported by no number of images
        ({"rule": "fpr", "rate": 0.05}, 18, "cross"),
        ({"rule": "fpr", "rate": 0.05}, 19, "split"),
        ({"rule": "mean_std"}, 1, "split"),
        ({"rule": "max_f1", "outliers": "bad"}, 1, "split"),
        ({"rule": "value", "value": 3.0}, 1, "split"),
        ({**PERCENTILE, "method": "split"}, 1, "split"),
        ({**PERCENTILE, "method": "cross"}, 9999, "cross"),
        ({"rule": "mean_std", "method": "cross"}, 9999, "cross"),
    ],
)
def test_the_method_is_asked_for_or_follows_from_the_rate(
    calibration: dict[str, Any], held_out: int, method: str
) -> None:
    before = dict(calibration)
    parsed = CalibrationOptions.parse(calibration)
    assert parsed.method_for(held_out) == method
    assert calibration == before
    assert "method" not in parsed.rule


@pytest.mark.parametrize("method", ["jackknife", 1, True, ["cross"]])
def test_other_methods_are_refused(method: object) -> None:
    with pytest.raises(ConfigError, match=r"calibration\.method must be one of split, cross, got"):
        CalibrationOptions.parse({**PERCENTILE, "method": method})


def test_a_recipe_that_takes_split_alone_refuses_cross() -> None:
    wanted = CalibrationOptions.parse({**PERCENTILE, "method": "cross"})
    with pytest.raises(ConfigError, match=r"calibration\.method cross: it is trained\. Leave calibration\.method out"):
        wanted.only_split("it is trained")
    assert CalibrationOptions.parse(PERCENTILE).only_split("it is trained").method_for(1) == "split"


@pytest.mark.parametrize(
    ("rule", "rate"),
    [
        ({"rule": "percentile", "q": 99.9}, 0.001),
        ({"rule": "percentile"}, 0.01),
        ({"rule": "percentile", "q": 100}, None),
        ({"rule": "fpr", "rate": 0.3}, 0.3),
        ({"rule": "mean_std"}, None),
    ],
)
def test_the_rate_that_a_rule_asks_for(rule: dict[str, Any], rate: float | None) -> None:
    assert asked_rate(rule) == rate


# The bound, by hand


@pytest.mark.parametrize(
    ("rate", "images", "count", "bound"),
    [
        (0.05, 50, 50, 0.10),  # each left out: 2 a
        (0.01, 100, 100, 0.02),
        (0.01, 500, 10, 0.02 + 1.8 / 51),  # 2 (1 - 1/10) / (500/10 + 1) = 0.0353 < (1 - 10/500) / 11 = 0.0891
        (0.05, 110, 10, 0.10 + (10 / 11) / 11),  # (1 - 10/110) / 11 = 0.0826 < 1.8 / 12 = 0.15
        (0.05, 209, 5, 0.10 + min(1.6 / 42, (1 - 5 / 209) / 6)),  # folds of 41 and 42
        (0.9, 50, 50, 1.0),
    ],
)
def test_the_proven_bound(rate: float, images: int, count: int, bound: float) -> None:
    assert Folds(count, bounded=True).proven(rate, images) == pytest.approx(bound, rel=1e-12)
    assert Folds(count).proven(rate, images) is None


def test_the_bound_of_the_theorem_holds_over_draws() -> None:
    """The distance to the nearest of all others: rows added only lower it."""
    rng, images, count = np.random.default_rng(0), 12, 4
    bound = Folds(count, bounded=True).proven(3 / 13, images)
    flagged = 0
    for _ in range(2000):
        rows, new = rng.standard_normal((images, 2)), rng.standard_normal(2)
        distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        fold = np.arange(images) % count
        distances[fold[:, None] == fold[None]] = np.inf
        score = np.linalg.norm(rows - new, axis=1).min()
        flagged += (1 + np.count_nonzero(distances.min(axis=1) >= score)) / (images + 1) <= 3 / 13
    assert bound is not None
    assert flagged / 2000 <= bound
    assert flagged / 2000 <= 3 / 13 + 4 * math.sqrt(3 / 13 / 2000)  # and does not reach it


# What a calibration supports


@given(count=st.integers(3, 300), q=st.floats(50, 99.9))
def test_the_promise_is_that_of_the_p_values(count: int, q: float) -> None:
    """No p-value above the promise is flagged, and some image just above the threshold reaches it."""
    fitted = Calibration.from_inliers(np.arange(float(count)), {"rule": "percentile", "q": q}, folds=Folds(count))
    promised = fitted.promised()
    assert promised is not None
    scores = np.nextafter(np.array([fitted.threshold, fitted.threshold, count]), [np.inf, -np.inf, np.inf])
    p_values = fitted.p_values(scores)
    assert p_values[0] == pytest.approx(promised)
    assert p_values[fitted.is_outlier(scores)].max() <= promised
    assert fitted.with_rule({"rule": "mean_std"}).promised() is None
    assert fitted.with_rule({"rule": "fpr", "rate": 0.5}).folds == Folds(count)


def test_a_promise_of_fpr_is_within_its_rate() -> None:
    fitted = Calibration.from_inliers(np.arange(50.0), {"rule": "fpr", "rate": 0.05})
    assert fitted.promised() == pytest.approx(2 / 51)


def test_what_too_few_inliers_support_is_said_in_one_line() -> None:
    line = (
        "percentile 99 asks for a false-positive rate of 1 %, which takes 99 calibration inliers: 10 support 9.09 % at"
    )
    assert str(shortfall(PERCENTILE, 10)).startswith(line)
    assert shortfall(PERCENTILE, 99) is None
    assert shortfall({"rule": "mean_std"}, 1) is None
    assert "percentile 99.9 asks for a false-positive rate of 0.1 %, which takes 999 " in str(
        shortfall({"rule": "percentile", "q": 99.9}, 998)
    )
