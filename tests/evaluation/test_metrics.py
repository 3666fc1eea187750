from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.metrics import (
    aupr,
    auroc,
    best_balanced_accuracy,
    best_f1,
    fpr_at_tpr,
    rates,
    summary,
)


@st.composite
def two_sets(draw):
    """Inlier and outlier scores on a scale of 1e-9 to 1e9, with few distinct values or many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    scale, offset = 10.0 ** draw(st.integers(-9, 9)), draw(st.sampled_from([0.0, 1.0, -3.0]))
    scores = rng.normal(size=n + m)
    scores[n:] += draw(st.sampled_from([-1.0, 0.0, 2.0, 9.0]))
    decimals = draw(st.sampled_from([0, 1, 15]))
    scores = (np.round(scores, decimals) + offset) * scale
    return scores[:n], scores[n:]


def labelled(inliers, outliers):
    return np.repeat([0, 1], [inliers.size, outliers.size]), np.concatenate([inliers, outliers])


@given(two_sets())
@settings(max_examples=200)
def test_areas_are_those_of_scikit_learn_on_any_scale(sets):
    truth, scores = labelled(*sets)
    assert auroc(*sets) == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-9)
    assert aupr(*sets) == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-6)
    expected = sk.average_precision_score(1 - truth, -scores)
    assert aupr(*sets, positives="inliers") == pytest.approx(expected, abs=1e-6)


@given(two_sets(), st.sampled_from([0.5, 0.8, 0.95, 0.999]))
@settings(max_examples=200)
def test_fpr_at_tpr_is_that_of_scikit_learns_curve(sets, tpr):
    truth, scores = labelled(*sets)
    for positives, labels, sign in (("outliers", truth, 1), ("inliers", 1 - truth, -1)):
        false, found, _ = sk.roc_curve(labels, sign * scores, drop_intermediate=False)
        expected = false[np.argmax(found >= tpr)]
        assert fpr_at_tpr(*sets, tpr=tpr, positives=positives) == pytest.approx(expected, abs=1e-6)


@given(two_sets(), st.integers(0, 399))
@settings(max_examples=200)
def test_rates_at_a_threshold_are_those_of_scikit_learn(sets, index):
    truth, scores = labelled(*sets)
    threshold = scores[index % scores.size]  # at a score itself, which must not be flagged
    flagged = (scores > threshold).astype(int)
    result = rates(*sets, threshold)
    tn, fp, fn, tp = sk.confusion_matrix(truth, flagged, labels=[0, 1]).ravel()
    assert result.tpr == pytest.approx(tp / (tp + fn), abs=1e-12)
    assert result.fpr == pytest.approx(fp / (fp + tn), abs=1e-12)
    assert result.precision == pytest.approx(sk.precision_score(truth, flagged, zero_division=0), abs=1e-12)
    assert result.f1 == pytest.approx(sk.f1_score(truth, flagged, zero_division=0), abs=1e-12)
    assert result.balanced_accuracy == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2, abs=1e-12)


@given(two_sets())
@settings(max_examples=100)
def test_no_threshold_beats_the_best_and_the_best_is_what_its_threshold_gives(sets):
    _, scores = labelled(*sets)
    thresholds = np.append(scores, np.nextafter(scores.min(), -np.inf))
    every = [rates(*sets, threshold) for threshold in thresholds]
    f1, balanced = best_f1(*sets), best_balanced_accuracy(*sets)
    assert f1 == rates(*sets, f1.threshold)
    assert balanced == rates(*sets, balanced.threshold)
    assert f1.f1 == pytest.approx(max(one.f1 for one in every), abs=1e-12)
    assert balanced.balanced_accuracy == pytest.approx(max(one.balanced_accuracy for one in every), abs=1e-12)


@pytest.fixture
def doubles() -> Iterator[None]:
    """torchmetrics divides counts in torch's default type."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
@given(two_sets())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_figures_are_those_that_torchmetrics_gives_for_ranks_between_zero_and_one(sets):
    from torch import tensor
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

    truth, scores = labelled(*sets)
    ranks = np.unique(scores, return_inverse=True)[1] / (scores.size + 1)
    assert auroc(*sets) == pytest.approx(float(binary_auroc(tensor(ranks), tensor(truth))), abs=1e-12)
    for values, labels, positives in ((ranks, truth, "outliers"), (1 - ranks, 1 - truth, "inliers")):
        expected = float(binary_average_precision(tensor(values), tensor(labels)))
        assert aupr(*sets, positives=positives) == pytest.approx(expected, abs=1e-12)
        false, true, _ = (each.numpy() for each in binary_roc(tensor(values), tensor(labels)))
        expected = false[np.argmax(true >= 0.95)]
        assert fpr_at_tpr(*sets, positives=positives) == pytest.approx(expected, abs=1e-12)


def test_distances_far_above_one_are_told_apart():
    from torch import tensor
    from torchmetrics.functional.classification import binary_auroc

    inliers, outliers = np.array([20.0, 30.0]), np.array([40.0, 50.0])
    assert auroc(inliers, outliers) == 1.0
    assert auroc(outliers, inliers) == 0.0
    assert auroc(inliers, inliers) == 0.5
    assert float(binary_auroc(tensor([20.0, 30.0, 40.0, 50.0]), tensor([0, 0, 1, 1]))) == 0.5  # the hazard


def test_scores_that_say_nothing_flag_nothing_for_balanced_accuracy_and_everything_for_f1():
    same = np.full(4, 7.0)
    assert best_balanced_accuracy(same, same).threshold == 7.0
    assert best_f1(same, same).threshold < 7.0
    assert best_f1(same, same).f1 == pytest.approx(2 / 3)


def test_fpr95_says_which_class_is_found():
    inliers, outliers = np.arange(100.0), np.array([1000.0, 1001.0, 2.5])
    assert fpr_at_tpr(inliers, outliers) == 0.97
    assert fpr_at_tpr(inliers, outliers, positives="inliers") == pytest.approx(1 / 3)


def test_summary_names_each_figure():
    sets = np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0])
    assert summary(*sets) == {
        "auroc": auroc(*sets),
        "aupr_outliers": aupr(*sets),
        "aupr_inliers": aupr(*sets, positives="inliers"),
        "fpr95": fpr_at_tpr(*sets),
    }


@pytest.mark.parametrize(
    ("inliers", "outliers", "message"),
    [
        ([], [1.0], "inlier scores are empty"),
        ([1.0], [], "outlier scores are empty"),
        ([1.0, np.nan], [1.0], "inlier scores must be finite, but 1 of 2"),
        ([1.0], [np.inf, np.nan], "outlier scores must be finite, but 2 of 2"),
        ([[1.0]], [1.0], r"inlier scores must have shape \(n,\), got \(1, 1\)"),
        (["a"], [1.0], "inlier scores must be real numbers"),
        ([1.0, [2.0]], [1.0], "inlier scores must be an array of numbers"),
    ],
)
@pytest.mark.parametrize("metric", [auroc, aupr, fpr_at_tpr, best_f1, best_balanced_accuracy, summary])
def test_one_sided_and_broken_scores_are_refused(metric, inliers, outliers, message):
    with pytest.raises(DataError, match=message):
        metric(inliers, outliers)


def test_options_that_cannot_be_are_refused():
    sets = np.zeros(3), np.ones(3)
    with pytest.raises(ConfigError, match='positives must be "outliers" or "inliers"'):
        aupr(*sets, positives="both")
    with pytest.raises(ConfigError, match="tpr must lie between 0 and 1, got 1"):
        fpr_at_tpr(*sets, tpr=1.0)
    with pytest.raises(DataError, match="threshold must be a number"):
        rates(*sets, float("nan"))
    with pytest.raises(DataError, match="inlier scores are empty"):
        rates([], [1.0], 0.5)
