import builtins

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from lit_od.detectors import GMM
from lit_od.errors import ConfigError, DataError, MissingExtra

COVARIANCES = ["full", "tied", "diag", "spherical"]


@pytest.fixture
def inliers():
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((3, 5)) * 6
    return (centres[rng.integers(0, 3, 400)] + rng.standard_normal((400, 5)) @ rng.standard_normal((5, 5))).astype(
        np.float32
    )


@pytest.fixture
def queries():
    return np.random.default_rng(5).standard_normal((40, 5)) * 9


def test_one_gaussian_is_that_of_scipy(inliers, queries):
    rows = inliers.astype(np.float64)
    covariance = np.cov(rows.T, bias=True) + 1e-6 * np.eye(5)
    expected = -multivariate_normal(rows.mean(axis=0), covariance).logpdf(queries)
    np.testing.assert_allclose(GMM.fit(inliers).score(queries), expected, rtol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("components", [1, 3])
def test_scores_are_those_of_scikit_learn(inliers, queries, components, covariance):
    reference = GaussianMixture(components, covariance_type=covariance, random_state=7)
    reference.fit(inliers.astype(np.float64))
    got = GMM.fit(inliers, components=components, covariance=covariance, seed=7)
    np.testing.assert_allclose(got.score(queries), -reference.score_samples(queries), rtol=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_far_away_the_likelihood_does_not_underflow(inliers, covariance):
    detector = GMM.fit(inliers, components=3, covariance=covariance)
    near, far = detector.score(np.array([[1e3] * 5, [1e6] * 5]))
    assert np.isfinite([near, far]).all()
    assert far > near


def test_the_reservoir_bounds_the_rows_and_follows_the_seed(inliers, queries):
    one, same, other = (
        GMM.fit(inliers, components=2, covariance="diag", reservoir=100, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.score(queries), same.score(queries))
    assert (one.score(queries) != other.score(queries)).any()
    gathered = GMM.accumulator(components=2, reservoir=100)
    for batch in np.array_split(inliers, 7):
        gathered.update(batch)
    assert gathered.store.rows().shape == (100, 5)


def test_scoring_needs_no_scikit_learn(inliers, queries, monkeypatch):
    detector = GMM.fit(inliers, components=2)
    real = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    assert np.isfinite(GMM.from_state(detector.options(), detector.state()).score(queries)).all()
    assert np.isfinite(GMM.fit(inliers).score(queries)).all()
    with pytest.raises(MissingExtra, match=r"needs scikit-learn, .*pip install \"lit-od\[evaluate,cpu\]\""):
        GMM.fit(inliers, components=2)


def test_refusals(inliers):
    with pytest.raises(ConfigError, match="components must be an integer of at least 1, got 0"):
        GMM.fit(inliers, components=0)
    with pytest.raises(ConfigError, match="covariance must be one of full, tied, diag, spherical, got 'round'"):
        GMM.accumulator(covariance="round")
    with pytest.raises(ConfigError, match="seed must be an integer from 0 to 4294967295, got -1"):
        GMM.accumulator(seed=-1)
    with pytest.raises(DataError, match="GMM needs at least 2 rows of features, got 1"):
        GMM.fit(inliers[:1])
    with pytest.raises(DataError, match="GMM needs at least 4 rows of features, got 3"):
        GMM.fit(inliers[:3], components=4)
    with pytest.raises(DataError, match="features must vary, but all 9 rows are equal"):
        GMM.fit(np.ones((9, 2)))
    with pytest.raises(DataError, match=r"covariance of 5 features is singular.*covariance='diag'"):
        GMM.fit(np.repeat(inliers[:, :1], 5, axis=1) * 1e6)
    with pytest.raises(DataError, match=r"2 components cannot be fitted to 400 rows: .*Pass more images"):
        GMM.fit(np.repeat(inliers[:, :1], 5, axis=1) * 1e6, components=2)


def test_a_reservoir_merges_in_the_order_of_the_rows_alone(inliers):
    gathered = GMM.accumulator(components=2, reservoir=50)
    gathered.update(inliers[:100])
    late = GMM.accumulator(components=2, reservoir=50, first_row=200)
    late.update(inliers[200:])
    with pytest.raises(DataError, match="must have first_row=100, got 200"):
        gathered.merge(late)


@pytest.mark.parametrize(
    "change",
    [{"weights": np.array([0.5, 0.6])}, {"weights": np.array([1.5, -0.5])}, {"whiteners": -np.ones((2, 5))}],
)
def test_a_state_that_is_no_mixture_is_refused(inliers, change):
    detector = GMM.fit(inliers, components=2, covariance="diag")
    with pytest.raises(DataError, match="must be positive, and the weights sum to 1"):
        GMM.from_state(detector.options(), detector.state() | change)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("components", [1, 3])
def test_wide_features_score_as_by_the_densities_of_scipy(components, covariance):
    rng = np.random.default_rng(11)
    width = 150  # more than one panel of a factor, and the last one narrower
    mix = np.eye(width) + 0.2 * rng.standard_normal((width, width)) / np.sqrt(width)
    rows = rng.standard_normal((900, width)) @ mix + 8 * rng.integers(0, 3, (900, 1))
    detector = GMM.fit(rows, components=components, covariance=covariance)
    factors = {
        "full": lambda k: detector.whiteners[k],
        "tied": lambda _: detector.whiteners,
        "diag": lambda k: np.diag(detector.whiteners[k]),
        "spherical": lambda k: np.eye(width) * detector.whiteners[k],
    }[covariance]
    queries = rng.standard_normal((1200, width)) * 5
    joint = [
        np.log(detector.weights[k])
        + multivariate_normal(detector.means[k], np.linalg.inv(factors(k).T @ factors(k))).logpdf(queries)
        for k in range(components)
    ]
    np.testing.assert_allclose(detector.score(queries), -np.logaddexp.reduce(joint), rtol=1e-9)
