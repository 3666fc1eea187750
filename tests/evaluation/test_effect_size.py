import math

import numpy as np
import pytest
from scipy import stats

from lit_od.errors import DataError
from lit_od.evaluation.effect_size import SampleMoments, difference, effect_interval, normal_ratio
from lit_od.experiments.baselines import by_brightness, by_nearest

CATS = SampleMoments(2495, 0.035493888, 0.011421803)
DOGS = SampleMoments(2494, 0.042051364, 0.0155974245)


def test_the_published_sets_differ_as_published():
    found = difference(CATS, DOGS)
    assert found.t == pytest.approx(16.94, abs=0.005)
    assert found.d == pytest.approx(0.48, abs=0.001)
    assert found.p_value < 1e-60


def test_welchs_test_is_scipys_on_the_scores_themselves():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 40), rng.normal(0.5, 3, 70)
    found = difference(SampleMoments.of(first), SampleMoments.of(second))
    wanted = stats.ttest_ind(second, first, equal_var=False)
    assert found.t == pytest.approx(wanted.statistic)
    assert found.p_value == pytest.approx(wanted.pvalue)
    pooled = math.sqrt((np.var(first, ddof=1) + np.var(second, ddof=1)) / 2)
    assert found.d == pytest.approx((second.mean() - first.mean()) / pooled)
    assert difference(SampleMoments.of(second), SampleMoments.of(first)).d == -found.d


def test_the_effects_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, covered, draws = 0.5, 0, 2000
    gap = truth * math.sqrt((1 + 4) / 2)
    for _ in range(draws):
        first, second = rng.normal(0, 1, 150), rng.normal(gap, 2, 100)
        found = effect_interval(SampleMoments.of(first), SampleMoments.of(second))
        covered += found.low <= truth <= found.high
    low, high = stats.binom.interval(0.999, draws, 0.95)
    assert low - 0.01 * draws <= covered <= high + 0.01 * draws  # it is a large-sample form
    wide = effect_interval(CATS, DOGS, level=0.99)
    close = effect_interval(CATS, DOGS)
    assert wide.low < close.low < close.value == difference(CATS, DOGS).d < close.high < wide.high
    assert (close.high - close.low) / 2 == pytest.approx(1.96 * 0.0289, rel=0.02)


def test_the_published_chances_are_the_ratio_of_densities():
    found = normal_ratio(CATS, np.array([0.04304386727035, 0.07650210412358, CATS.mean]))
    normal = stats.norm(CATS.mean, CATS.sd)
    assert found[0] == pytest.approx(0.803, abs=0.001)
    assert found[1] == pytest.approx(0.0015, abs=0.0001)
    assert found[2] == 1
    assert found[0] == pytest.approx(normal.pdf(0.04304386727035) / normal.pdf(CATS.mean))


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="at least 2 scores, got 1"):
        SampleMoments.of(np.ones(1))
    with pytest.raises(DataError, match="without any spread"):
        difference(SampleMoments(5, 1.0, 0.0), SampleMoments(5, 2.0, 0.0))
    with pytest.raises(DataError, match="needs scores that differ"):
        normal_ratio(SampleMoments(5, 1.0, 0.0), np.ones(2))


def shades(*values):
    return np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), dtype=np.uint8)


@pytest.mark.parametrize("turned", [False, True])
def test_the_best_cut_of_the_brightness_is_found_whichever_class_is_brighter(turned):
    labels = np.array([0, 0, 1, 0, 1, 1])
    found = by_brightness(shades(10, 20, 30, 40, 50, 60), 1 - labels if turned else labels, shades(0, 24, 45, 255))
    best = [False, False, True, True]
    np.testing.assert_array_equal(found, np.array(best) ^ turned)


def test_the_cut_is_as_good_as_any_other():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 30, (60, 1, 1, 1)).astype(np.uint8), rng.integers(0, 2, 60)
    right = (by_brightness(images, labels, images) == (labels == 1)).sum()
    means = images.reshape(60)
    best = max(max((above == (labels == 1)).sum() for above in (means >= cut, means < cut)) for cut in range(32))
    assert right == best


def test_the_nearest_image_decides():
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8) for count in (50, 300))
    labels = rng.integers(0, 2, 50)
    far = np.square(test[:, None].astype(int) - train[None].astype(int)).sum(axis=(2, 3, 4))
    np.testing.assert_array_equal(by_nearest(train, labels, test), labels[far.argmin(axis=1)] == 1)


@pytest.mark.parametrize("baseline", [by_brightness, by_nearest])
def test_a_baseline_needs_both_classes(baseline):
    with pytest.raises(DataError, match=r"classes 0 and 1, got \[1\]"):
        baseline(shades(1, 2), np.ones(2, dtype=int), shades(3))
