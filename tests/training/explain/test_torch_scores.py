"""Detectors in torch: the frozen detector's scores, and gradients that finite differences confirm."""

import numpy as np
import pytest
import torch

from lit_od.detectors import GMM, KNN, LOF, LocalResidual, Mahalanobis, PCAResidual, Reconstruction
from lit_od.errors import ConfigError
from lit_od.training.explain.torch_scores import torch_score
from tests.support.detectors import MeanDistance, MeanDistanceOptions

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 60)
INLIERS = (RNG.normal(size=(180, 6)) + 3 * LABELS[:, None]).astype(np.float32) * [1, 2, 1, 3, 1, 1]
INLIERS = INLIERS.astype(np.float32)
QUERIES = np.concatenate([INLIERS[::9], RNG.normal(4, 5, (20, 6)).astype(np.float32)])
DETECTORS = {
    "mahalanobis": Mahalanobis.fit(INLIERS),
    "mahalanobis by class": Mahalanobis.fit(INLIERS, labels=LABELS),
    "relative mahalanobis": Mahalanobis.fit(INLIERS, labels=LABELS, relative=True),
    "knn": KNN.fit(INLIERS, k=5),
    "knn kth, standardised": KNN.fit(INLIERS, k=3, reduce="kth", standardise=True),
    "knn cosine": KNN.fit(INLIERS, k=4, metric="cosine"),
    "knn fp16": KNN.fit(INLIERS, k=4, precision="fp16"),
    "knn hnsw": KNN.fit(INLIERS, k=4, index="HNSW8"),
    "lof": LOF.fit(INLIERS, k=10),
    "lof cosine": LOF.fit(INLIERS, k=10, metric="cosine"),
    "local residual": LocalResidual.fit(INLIERS, k=10),
    "pca residual": PCAResidual.fit(INLIERS, components=3),
    "pca residual, not whitened": PCAResidual.fit(INLIERS, components=0.8, whiten=False),
    "gmm": GMM.fit(INLIERS),
    **{
        f"gmm {each}": GMM.fit(INLIERS, components=3, covariance=each) for each in ("full", "tied", "diag", "spherical")
    },
}


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS.keys())
def test_torch_gives_the_detectors_scores(detector):
    wanted = detector.score(QUERIES)
    got = torch_score(detector)(torch.from_numpy(QUERIES)).numpy()
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS.keys())
def test_gradients_are_those_of_finite_differences(detector):
    """In float32 steps of the detector itself, which knows nothing of torch."""
    rows = torch.from_numpy(QUERIES[20:]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(torch_score(detector)(rows).sum(), rows)
    step = 2.0**-9
    for axis in range(6):
        moved = np.zeros(6, dtype=np.float32)
        moved[axis] = step
        up, down = (detector.score(QUERIES[20:] + sign * moved) for sign in (1, -1))
        slopes = (up - down) / (2 * step)
        close = np.isclose(gradient[:, axis].numpy(), slopes, rtol=2e-2, atol=2e-2 * np.abs(slopes).max())
        assert close.mean() >= 0.9  # a neighbour may change within a step


def test_a_row_of_the_bank_itself_has_a_gradient_without_nan():
    for name in ("knn", "knn cosine", "lof"):
        rows = torch.from_numpy(INLIERS[:5]).requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch_score(DETECTORS[name])(rows).sum(), rows)
        assert gradient.isfinite().all()


class WithForm(MeanDistance):
    """A detector elsewhere that names its own torch form."""

    torch_form = f"{__name__}:mean_distance"


def mean_distance(detector, of):
    mean = of(detector.mean)
    return lambda features: torch.linalg.vector_norm(features.double() - mean, ord=detector.settings.order, dim=1)


def test_a_detector_elsewhere_may_name_its_own_form():
    gathered = MeanDistance.start(MeanDistanceOptions(3.0))
    gathered.update(INLIERS)
    plain = gathered.finish()
    named = WithForm(plain.settings, plain.mean)
    np.testing.assert_allclose(torch_score(named)(torch.from_numpy(QUERIES)).numpy(), plain.score(QUERIES), rtol=1e-9)
    with pytest.raises(ConfigError, match="MeanDistance reads features and has no gradient here: wanted one with a"):
        torch_score(plain)


def test_a_detector_of_errors_is_refused():
    detector = Reconstruction.fit(np.zeros((3, 2, 2, 1), dtype=np.float32))
    with pytest.raises(ConfigError, match="detector reconstruction reads errors and has no gradient here"):
        torch_score(detector)
