import math

import numpy as np
import pytest

from lit_od.detectors import Reconstruction
from lit_od.detectors.reconstruction import pixel_scores, pixel_threshold
from lit_od.errors import ConfigError, DataError


@pytest.fixture
def errors():
    return (np.random.default_rng(0).standard_normal((12, 5, 7, 3)) ** 2).astype(np.float32)


@pytest.mark.parametrize("metric", ["mse", "rmse"])
@pytest.mark.parametrize("outlier_perc", [100, 60, 33.3, 1, 1e-3])
def test_mean_of_the_largest_errors(errors, metric, outlier_perc):
    count = math.ceil(105 * outlier_perc / 100)
    expected = [sorted(map(float, image.ravel()), reverse=True)[:count] for image in errors]
    expected = np.array([math.fsum(image) / count for image in expected])
    got = Reconstruction.fit(errors, metric=metric, outlier_perc=outlier_perc).score(errors)
    np.testing.assert_allclose(got, expected**0.5 if metric == "rmse" else expected, rtol=1e-12)


def test_a_whole_percentage_is_not_rounded_up():
    errors = np.arange(100, dtype=np.float32).reshape(1, 10, 10, 1)
    assert Reconstruction.fit(errors, outlier_perc=7).score(errors)[0] == 96.0  # 93 to 99, not 92 to 99


def test_the_least_percentage_is_one_element(errors):
    found = Reconstruction.fit(errors, outlier_perc=5e-324).score(errors)
    np.testing.assert_array_equal(found, errors.reshape(len(errors), -1).max(axis=1))


def test_pixels(errors):
    scores = pixel_scores(errors)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores[3, 2, 1], errors[3, 2, 1].astype(float).mean(), rtol=1e-12)
    threshold = pixel_threshold(scores, q=90)
    assert scores.shape == (12, 5, 7)
    assert (scores > threshold).mean() == pytest.approx(0.1, abs=1 / scores.size)


def test_refusals(errors):
    with pytest.raises(ConfigError, match=r"outlier_perc must be a number in \(0, 100\], got 0"):
        Reconstruction.fit(errors, outlier_perc=0)
    with pytest.raises(ConfigError, match="metric must be one of mse, rmse, got 'mae'"):
        Reconstruction.fit(errors, metric="mae")
    with pytest.raises(DataError, match=r"must have shape \(n, h, w, c\), got \(12, 105\)"):
        Reconstruction.fit(errors.reshape(12, -1))
    with pytest.raises(DataError, match=r"must have shape \(n, 5, 7, 3\), got \(12, 7, 5, 3\)"):
        Reconstruction.fit(errors).score(errors.swapaxes(1, 2))
    with pytest.raises(DataError, match="must not be negative, got -"):
        Reconstruction.fit(-errors)
    with pytest.raises(DataError, match="errors of at least 1 image, got 0"):
        Reconstruction.fit(errors[:0])
    gathered, other = Reconstruction.accumulator(), Reconstruction.accumulator()
    gathered.update(errors)
    other.update(errors[:, 1:])
    with pytest.raises(DataError, match="must have one shape"):
        gathered.merge(other)
    with pytest.raises(DataError, match="'shape' of the state must be positive"):
        Reconstruction.from_state({}, {"shape": np.array([3, 0, 1])})
    with pytest.raises(ConfigError, match=r"q must be a number in \[0, 100\], got 101"):
        pixel_threshold(pixel_scores(errors), q=101)
    with pytest.raises(DataError, match=r"pixel scores must be finite and have shape \(n, h, w\)"):
        pixel_threshold(pixel_scores(errors)[0])
