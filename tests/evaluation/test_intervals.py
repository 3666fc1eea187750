import time

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from lit_od.errors import ConfigError, DataError
from lit_od.evaluation import intervals
from lit_od.evaluation.counts import FIGURES, Tally, figures_of
from lit_od.evaluation.intervals import (
    bootstrap,
    bootstrap_draws,
    delong,
    delong_test,
    exact_binomial,
    paired_bootstrap,
)


def two_sets(n=80, m=60, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=n), decimals), np.round(rng.normal(1.0, 1.5, size=m), decimals)


class TestBootstrap:
    def test_each_resample_has_the_figures_of_scikit_learn(self):
        inliers, outliers = two_sets()
        tally = Tally.of(inliers, outliers)
        draws = bootstrap_draws(
            tally, inlier_rng=np.random.default_rng(1), outlier_rng=np.random.default_rng(2), resamples=40
        )
        places = [np.random.default_rng(seed).integers(n, size=(40, n)) for seed, n in ((1, 80), (2, 60))]
        truth = np.repeat([0, 1], [80, 60])
        for row in range(40):
            scores = np.concatenate([inliers[places[0][row]], outliers[places[1][row]]])
            false, found, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
            expected = {
                "auroc": sk.roc_auc_score(truth, scores),
                "aupr_outliers": sk.average_precision_score(truth, scores),
                "aupr_inliers": sk.average_precision_score(1 - truth, -scores),
                "fpr95": false[np.argmax(found >= 0.95)],
            }
            assert {name: draws[name][row] for name in FIGURES} == pytest.approx(expected, abs=1e-12)

    def test_the_seed_alone_decides_not_the_chunks(self, monkeypatch):
        first = bootstrap(*two_sets(), rng=np.random.default_rng(3), resamples=50)
        monkeypatch.setattr(intervals, "CHUNK_VALUES", 700)
        assert bootstrap(*two_sets(), rng=np.random.default_rng(3), resamples=50) == first
        assert bootstrap(*two_sets(), rng=np.random.default_rng(4), resamples=50) != first

    def test_the_interval_holds_the_value_and_narrows_with_its_level(self):
        wide = bootstrap(*two_sets(), rng=np.random.default_rng(0), level=0.99)
        narrow = bootstrap(*two_sets(), rng=np.random.default_rng(0), level=0.5)
        tally = Tally.of(*two_sets())
        for name, value in figures_of(tally.inliers, tally.outliers).items():
            assert wide[name].value == value
            assert wide[name].low < narrow[name].low <= value <= narrow[name].high < wide[name].high

    def test_it_agrees_with_delong_where_both_hold(self):
        sets = two_sets(2000, 1500, decimals=6)
        boot = bootstrap(*sets, rng=np.random.default_rng(0))["auroc"]
        exact = delong(*sets)
        assert (boot.low, boot.high) == pytest.approx((exact.low, exact.high), abs=2e-3)

    def test_sets_without_overlap_have_an_interval_of_no_width(self):
        found = bootstrap(np.zeros(5), np.ones(5), rng=np.random.default_rng(0), resamples=20)
        assert found["auroc"] == intervals.Interval(1.0, 1.0, 1.0)
        assert found["fpr95"] == intervals.Interval(0.0, 0.0, 0.0)

    def test_a_thousand_resamples_of_twenty_thousand_scores_are_quick(self):
        sets = two_sets(10_000, 10_000, decimals=15)
        start = time.process_time()
        bootstrap(*sets, rng=np.random.default_rng(0), resamples=1000)
        assert time.process_time() - start < 4  # seconds; twice the aim, for a machine that is busy

    def test_refusals(self):
        rng = np.random.default_rng(0)
        with pytest.raises(DataError, match="resamples must be at least 1, got 0"):
            bootstrap(*two_sets(), rng=rng, resamples=0)
        with pytest.raises(ConfigError, match="level must lie between 0 and 1, got 95"):
            bootstrap(*two_sets(), rng=rng, level=95)
        with pytest.raises(DataError, match="outlier scores are empty"):
            bootstrap([1.0], [], rng=rng)


def textbook(inliers, outliers):
    """DeLong's area and components from the full table of comparisons."""
    wins = (outliers[:, None] > inliers) + 0.5 * (outliers[:, None] == inliers)  # (m, n)
    return wins.mean(), wins.mean(axis=0), wins.mean(axis=1)


class TestDeLong:
    def test_the_interval_is_that_of_the_full_table_of_comparisons(self):
        inliers, outliers = two_sets()
        area, of_inliers, of_outliers = textbook(inliers, outliers)
        error = np.sqrt(of_inliers.var(ddof=1) / 80 + of_outliers.var(ddof=1) / 60)
        found = delong(inliers, outliers)
        assert found.value == pytest.approx(area, abs=1e-12)
        assert found.low == pytest.approx(area - 1.959963984540054 * error, abs=1e-12)
        assert found.high == pytest.approx(area + 1.959963984540054 * error, abs=1e-12)

    def test_the_paired_test_uses_the_covariance_of_both(self):
        inliers, outliers = two_sets()
        noise = np.random.default_rng(5).normal(size=140)
        others = inliers + noise[:80], outliers + noise[80:]
        a, b = textbook(inliers, outliers), textbook(*others)
        cov = np.cov(a[1], b[1]) / 80 + np.cov(a[2], b[2]) / 60
        z = (a[0] - b[0]) / np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
        found = delong_test(inliers, outliers, *others)
        assert (found.first, found.second) == pytest.approx((a[0], b[0]), abs=1e-12)
        assert found.z == pytest.approx(z, rel=1e-10)
        assert 0 < found.p_value < 1
        turned = delong_test(*others, inliers, outliers)
        assert (turned.z, turned.p_value) == pytest.approx((-found.z, found.p_value))

    def test_equal_detectors_do_not_differ_and_opposite_ones_do(self):
        sets = two_sets()
        same = delong_test(*sets, *(2 * scores + 1 for scores in sets))
        assert (same.z, same.p_value, same.difference.value) == (0.0, 1.0, 0.0)
        low, high = np.arange(4.0), np.arange(10.0, 14.0)
        opposite = delong_test(low, high, high, low)
        assert (opposite.z, opposite.p_value) == (np.inf, 0.0)

    def test_the_test_rejects_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        rejected = 0
        for _ in range(400):
            truth = rng.normal(size=200)
            truth[100:] += 1
            a, b = (truth + rng.normal(size=200) for _ in range(2))
            rejected += delong_test(a[:100], a[100:], b[:100], b[100:]).p_value < 0.05
        assert 0.02 < rejected / 400 < 0.09

    def test_refusals(self):
        with pytest.raises(DataError, match="needs two inliers and two outliers, got 1 and 3"):
            delong([1.0], [1.0, 2.0, 3.0])
        with pytest.raises(DataError, match=r"same outlier images in the same order, got \(3,\) and \(2,\)"):
            delong_test([1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0], [1.0, 2.0])
        with pytest.raises(ConfigError, match="level must lie"):
            delong([1.0, 2.0], [1.0, 2.0], level=1.0)
        with pytest.raises(ConfigError, match="level must lie"):
            delong_test([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], level=0.0)


class TestExactBinomial:
    @pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 200), (199, 20_000)])
    @pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
    def test_it_is_scipys_clopper_pearson(self, count, total, level):
        expected = binomtest(count, total).proportion_ci(level, "exact")
        found = exact_binomial(count, total, level=level)
        assert (found.value, found.low, found.high) == pytest.approx(
            (count / total, expected.low, expected.high), rel=1e-9, abs=1e-12
        )

    @pytest.mark.parametrize(("count", "total"), [(3, 2), (-1, 2), (0, 0)])
    def test_counts_that_cannot_be_are_refused(self, count, total):
        with pytest.raises(DataError, match=f"got {count} of {total}"):
            exact_binomial(count, total)


class TestPairedBootstrap:
    def test_it_draws_the_same_images_for_both(self):
        """Against resamples drawn here, with each AUROC by counting pairs."""
        first, second = two_sets(n=30, m=20, seed=1), two_sets(n=30, m=20, seed=2)
        found = paired_bootstrap(first, second, rng=np.random.default_rng(5), resamples=60, level=0.9)
        seed = np.random.default_rng(5).integers(2**63)
        rngs = np.random.default_rng(seed).spawn(2)
        rows = [each.integers(size, size=(60, size)) for each, size in zip(rngs, (30, 20), strict=True)]
        changes = []
        for of_inliers, of_outliers in zip(*rows, strict=True):
            areas = []
            for inliers, outliers in (first, second):
                below = inliers[of_inliers][:, None] - outliers[of_outliers][None]
                areas.append((below < 0).mean() + (below == 0).mean() / 2)
            changes.append(areas[0] - areas[1])
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(changes, [0.05, 0.95])), abs=1e-12)

    def test_equal_scores_have_no_width(self):
        found = paired_bootstrap(two_sets(), two_sets(), rng=np.random.default_rng(0))
        assert (found.value, found.low, found.high) == (0, 0, 0)

    def test_other_numbers_of_scores_are_refused(self):
        with pytest.raises(DataError, match="must score the same images"):
            paired_bootstrap(two_sets(n=5), two_sets(n=6), rng=np.random.default_rng(0))
        with pytest.raises(DataError, match="needs two inliers and two outliers"):
            paired_bootstrap(two_sets(n=1), two_sets(n=1), rng=np.random.default_rng(0))
