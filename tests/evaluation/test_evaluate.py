import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.evaluate import WIDTH, evaluate
from lit_od.evaluation.metrics import aupr, auroc, fpr_at_tpr, rates

RNG = np.random.default_rng(0)
INLIERS = RNG.normal(8, 1, size=300)
SETS = {"near": RNG.normal(9, 1, size=200), "far": RNG.normal(14, 2, size=120)}


@pytest.fixture(scope="module")
def found():
    return evaluate(INLIERS, SETS, threshold=10.0, resamples=200)


def test_each_set_has_the_figures_of_the_metrics(found):
    assert list(found.outliers) == ["near", "far"]
    for name, scores in SETS.items():
        values = {key: interval.value for key, interval in found.outliers[name].figures.items()}
        assert values == {
            "auroc": auroc(INLIERS, scores),
            "aupr_outliers": aupr(INLIERS, scores),
            "aupr_inliers": aupr(INLIERS, scores, positives="inliers"),
            "fpr95": fpr_at_tpr(INLIERS, scores),
        }
        assert found.outliers[name].at_threshold == rates(INLIERS, scores, 10.0)
        assert found.outliers[name].best_f1.f1 >= found.outliers[name].at_threshold.f1


def test_the_summary_is_the_notebooks_last_table(found):
    for summary, scores in ((found.inliers, INLIERS), (found.outliers["far"].scores, SETS["far"])):
        assert (summary.n, summary.mean, summary.sd) == (scores.size, scores.mean(), np.std(scores))
        exact = binomtest(int((scores > 10).sum()), scores.size).proportion_ci(0.95, "exact")
        assert summary.flagged.value == (scores > 10).mean()
        assert (summary.flagged.low, summary.flagged.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_the_macro_average_resamples_the_shared_inliers_once(found):
    one, other = (each.figures["auroc"] for each in found.outliers.values())
    macro = found.macro["auroc"]
    assert macro.value == pytest.approx((one.value + other.value) / 2)
    assert macro.low < macro.value < macro.high
    twice = evaluate(INLIERS, {"a": SETS["near"]}, threshold=10.0, resamples=200)
    assert twice.macro == twice.outliers["a"].figures


def test_the_seed_decides(found):
    assert evaluate(INLIERS, SETS, threshold=10.0, resamples=200) == found
    assert evaluate(INLIERS, SETS, threshold=10.0, resamples=200, seed=1).macro != found.macro


def test_json_is_plain_and_finite(found):
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tree == found.to_json()
    assert tree["outliers"]["far"]["figures"]["auroc"]["value"] == auroc(INLIERS, SETS["far"])
    assert math.isclose(tree["inliers"]["flagged"]["value"], (INLIERS > 10).mean())


@pytest.mark.parametrize(("inliers", "outliers"), [(300, 1), (1, 200), (1, 1)])
def test_one_image_a_side_gives_no_interval(inliers, outliers):
    found = evaluate(INLIERS[:inliers], {"x": SETS["near"][:outliers]}, threshold=10.0, resamples=20)
    for interval in (*found.outliers["x"].figures.values(), *found.macro.values()):
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        assert 0 <= interval.value <= 1
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tree["macro"]["auroc"]["low"] is None
    assert "[" not in found.table().splitlines()[3]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_table_fits_and_names_every_set(scale):
    sets = {"mnist digits 8 and 9": SETS["near"] * scale, "a name " * 20: np.full(1, 99 * scale)}
    table = evaluate(INLIERS * scale, sets, threshold=10 * scale, resamples=10).table()
    lines = table.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)
    assert sum(line.startswith("mnist") for line in lines) == 3
    assert sum(line.startswith("a name") for line in lines) == 3
    assert any(line.startswith("inliers ") and " 300 " in line for line in lines)
    assert f"{100 * auroc(INLIERS, SETS['near']):.2f} [" in table


def test_refusals():
    with pytest.raises(DataError, match="at least one set of outliers"):
        evaluate(INLIERS, {}, threshold=1.0)
    with pytest.raises(DataError, match="outlier scores are empty"):
        evaluate(INLIERS, {"none": np.empty(0)}, threshold=1.0)
    with pytest.raises(DataError, match="threshold must be finite, got nan"):
        evaluate(INLIERS, SETS, threshold=math.nan)
    with pytest.raises(ConfigError, match="level must lie"):
        evaluate(INLIERS, SETS, threshold=1.0, level=95)
    with pytest.raises(DataError, match="resamples must be at least 1"):
        evaluate(INLIERS, SETS, threshold=1.0, resamples=0)
