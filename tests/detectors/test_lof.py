import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from lit_od.detectors import LOF
from lit_od.errors import ConfigError, DataError


@pytest.fixture
def inliers():
    rng = np.random.default_rng(0)
    dense, sparse = rng.standard_normal((200, 8)) * 0.3, rng.standard_normal((200, 8)) * 2 + 9
    return np.concatenate([dense, sparse]).astype(np.float32)


@pytest.fixture
def queries():
    return (np.random.default_rng(1).standard_normal((60, 8)) * 4 + 4).astype(np.float32)


@pytest.mark.parametrize(("metric", "name"), [("l2", "euclidean"), ("cosine", "cosine")])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_scores_are_those_of_scikit_learn(inliers, queries, metric, name, k):
    reference = LocalOutlierFactor(n_neighbors=k, metric=name, novelty=True, algorithm="brute")
    reference.fit(inliers.astype(np.float64))
    expected = -reference.score_samples(queries.astype(np.float64))
    np.testing.assert_allclose(LOF.fit(inliers, k=k, metric=metric).score(queries), expected, rtol=1e-5)


@pytest.mark.parametrize("n", [60, 1])
def test_from_the_same_float32_rows_the_scores_are_the_same(inliers, queries, n):
    """What remains of the difference is the rounding of the bank to float32."""
    detector = LOF.fit(inliers)
    bank = detector.bank.rows.astype(np.float64)
    reference = LocalOutlierFactor(novelty=True, algorithm="kd_tree").fit(bank)
    expected = -reference.score_samples(detector.bank.prepare(queries[:n]).astype(np.float64))
    np.testing.assert_allclose(detector.score(queries[:n]), expected, rtol=1e-9)
    np.testing.assert_allclose(detector.densities, reference._lrd, rtol=1e-9)


def test_inliers_score_about_one_in_dense_and_sparse_places(inliers):
    rng = np.random.default_rng(7)
    detector = LOF.fit(inliers)
    dense = detector.score(rng.standard_normal((100, 8)) * 0.3)
    sparse = detector.score(rng.standard_normal((100, 8)) * 2 + 9)
    assert np.median(dense) == pytest.approx(1, abs=0.1)
    assert np.median(sparse) == pytest.approx(1, abs=0.1)


def test_an_index_nears_the_exact_scores(inliers, queries):
    near = LOF.fit(inliers, index="HNSW32", search={"efSearch": 400}).score(queries)
    np.testing.assert_allclose(near, LOF.fit(inliers).score(queries), rtol=1e-6)


def test_more_equal_rows_than_neighbours_have_a_finite_density(inliers):
    rows = np.concatenate([inliers, np.repeat(inliers[:1], 100, axis=0)])
    detector = LOF.fit(rows, k=5)
    assert np.isfinite(detector.score(rows)).all()
    assert detector.score(inliers[:1])[0] == pytest.approx(1.0)


def test_a_smaller_bank_is_a_sample(inliers):
    assert len(LOF.fit(inliers, coreset=100).bank.rows) == 100
    assert len(LOF.fit(inliers, memory_budget="3.2kB").bank.rows) == 100


def test_refusals(inliers):
    with pytest.raises(ConfigError, match=r"k must be an integer of at least 1, got 2\.0"):
        LOF.fit(inliers, k=2.0)
    with pytest.raises(DataError, match="LOF needs at least 21 rows of features, got 20 of 20"):
        LOF.fit(inliers[:20])
    detector = LOF.fit(inliers)
    options, state = detector.options(), detector.state()
    with pytest.raises(DataError, match="k=400 needs a bank of more rows, got 400"):
        LOF.from_state(options | {"k": 400}, state)
    with pytest.raises(DataError, match="'k_distances' and 'densities' of the state must be positive"):
        LOF.from_state(options, state | {"densities": -detector.densities})
