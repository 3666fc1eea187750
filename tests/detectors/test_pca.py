import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from lit_od.detectors import PCAResidual
from lit_od.errors import ConfigError, DataError


@pytest.fixture
def inliers():
    rng = np.random.default_rng(3)
    scales = np.array([9, 7, 4, 2, 1, 0.5, 0.3, 0.1])
    return (rng.standard_normal((200, 8)) * scales) @ rng.standard_normal((8, 8)) + 20


@pytest.fixture
def queries():
    return np.random.default_rng(5).standard_normal((40, 8)) * 30 + 20


@pytest.mark.parametrize("components", [1, 3, 0.5, 0.99])
@pytest.mark.parametrize("sklearn_whiten", [False, True])
def test_the_residual_is_that_of_scikit_learn(inliers, queries, components, sklearn_whiten):
    scaler = StandardScaler().fit(inliers)
    pca = PCA(components, whiten=sklearn_whiten, svd_solver="full").fit(scaler.transform(inliers))
    z = scaler.transform(queries)
    expected = np.linalg.norm(z - pca.inverse_transform(pca.transform(z)), axis=1)
    plain = PCAResidual.fit(inliers, components=components, whiten=False)
    assert plain.components.shape == (pca.n_components_, 8)
    np.testing.assert_allclose(plain.score(queries), expected, rtol=1e-9)


def test_whitening_gives_the_residual_its_unit_and_keeps_its_order(inliers, queries):
    plain = PCAResidual.fit(inliers, components=3, whiten=False)
    white = PCAResidual.fit(inliers, components=3)
    assert np.mean(white.score(inliers) ** 2) == pytest.approx(8 - 3, rel=1e-10)
    np.testing.assert_allclose(white.score(queries) * white.noise, plain.score(queries), rtol=1e-12)
    reference = PCA(3, svd_solver="full").fit(StandardScaler().fit_transform(inliers))
    assert white.noise[0] ** 2 == pytest.approx(reference.noise_variance_ * 199 / 200, rel=1e-9)


def test_units_and_offsets_of_features_play_no_part(inliers, queries):
    factors = 10.0 ** np.arange(-4, 4)
    one, other = PCAResidual.fit(inliers), PCAResidual.fit(inliers * factors + 50)
    np.testing.assert_allclose(other.score(queries * factors + 50), one.score(queries), rtol=1e-6)


def test_float32_jitter_of_a_constant_feature_is_not_blown_up(inliers, queries):
    rng = np.random.default_rng(0)
    level = (np.float32(1000) + rng.choice([0, 6e-5], (200, 1)).astype(np.float32)).astype(np.float64)
    detector = PCAResidual.fit(np.hstack([inliers, level]))
    assert detector.scale[8] == 1.0


def test_refusals(inliers):
    with pytest.raises(ConfigError, match=r"must be a number in \(0, 1\), got 1.0"):
        PCAResidual.fit(inliers, components=1.0)
    with pytest.raises(ConfigError, match="components must be an integer of at least 1, got 0"):
        PCAResidual.fit(inliers, components=0)
    with pytest.raises(ConfigError, match="whiten must be true or false, got 1"):
        PCAResidual.fit(inliers, whiten=1)
    with pytest.raises(DataError, match="components=8 keeps 8 of the 8 directions in which 200 rows vary"):
        PCAResidual.fit(inliers, components=8)
    with pytest.raises(DataError, match="keeps 5 of the 4 directions in which 5 rows vary"):
        PCAResidual.fit(inliers[:5], components=5)
    with pytest.raises(DataError, match="features must vary, but all 4 rows are equal"):
        PCAResidual.fit(np.full((4, 3), 0.1))
    with pytest.raises(DataError, match="at least 2 rows of features, got 1"):
        PCAResidual.fit(inliers[:1])


def test_a_state_that_divides_by_zero_is_refused(inliers):
    detector = PCAResidual.fit(inliers)
    for change in ({"noise": np.zeros(1)}, {"scale": -detector.scale}):
        with pytest.raises(DataError, match="'scale' and 'noise' of the state must be positive"):
            PCAResidual.from_state(detector.options(), detector.state() | change)
    with pytest.raises(DataError, match=r"'components' of the state must have shape \(2, 8\)"):
        PCAResidual.from_state({"components": 2}, detector.state())
