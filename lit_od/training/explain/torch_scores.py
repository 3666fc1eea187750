"""Torch forms of fitted detectors, through which gradients run.

The statistics are the frozen detector's own, in float64. Which rows of a bank are the neighbours is
asked of the detector; the distances to them are taken anew.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_od.detectors import GMM, KNN, LOF, Detector, LocalResidual, Mahalanobis, PCAResidual
from lit_od.detectors.bank.memory_bank import Bank
from lit_od.errors import ConfigError
from lit_od.import_paths import named

TorchScore: TypeAlias = Callable[[Tensor], Tensor]
"""Function from features (n, d) to outlier scores (n,), float64."""

ToTorch: TypeAlias = Callable[[NDArray[Any]], Tensor]
"""Function from an array to a float64 tensor on the features' device."""

TorchForm: TypeAlias = Callable[[Any, ToTorch], TorchScore]
"""Function from a fitted detector to its scores in torch, which its class names as `torch_form`."""


def torch_score(detector: Detector, *, device: torch.device | str = "cpu") -> TorchScore:
    """Return `detector.score` as a function that torch can differentiate.

    Args:
        detector: A fitted detector of features.
        device: Device of the features.

    Raises:
        ConfigError: If the detector has no torch form, as those of errors.
    """

    def to_torch(array: NDArray[Any]) -> Tensor:
        return torch.tensor(array, dtype=torch.float64, device=device)

    if detector.torch_form is None:
        raise ConfigError(
            f"detector {detector.kind} reads {detector.reads} and has no gradient here: wanted one with a torch_form"
        )
    form: TorchForm = named(detector.torch_form, f"torch_form of {detector.kind}")
    return form(detector, to_torch)


def mahalanobis(detector: Mahalanobis, to_torch: ToTorch) -> TorchScore:
    """Return `Mahalanobis.score` in torch: distances to the nearest mean."""
    first, whitener = to_torch(detector.means[0]), to_torch(detector.whitener)
    centres = to_torch((detector.means - detector.means[0]) @ detector.whitener.T)  # (classes or 1, d)
    background = None
    if detector.background_mean is not None and detector.background_whitener is not None:
        background = to_torch(detector.background_mean), to_torch(detector.background_whitener)

    def score(features: Tensor) -> Tensor:
        rows = features.double()
        white = (rows - first) @ whitener.T
        nearest = centres[torch.cdist(white.detach(), centres).argmin(dim=1)]
        distances: Tensor = torch.linalg.vector_norm(white - nearest, dim=1)
        if background is None:
            return distances
        return distances.square() - ((rows - background[0]) @ background[1].T).square().sum(dim=1)

    return score


def knn(detector: KNN, to_torch: ToTorch) -> TorchScore:
    """Return `KNN.score` in torch: distances to the nearest rows."""
    neighbours = _neighbours(detector.bank, detector.settings.k, to_torch)
    mean = detector.settings.reduce == "mean"

    def score(features: Tensor) -> Tensor:
        distances, _ = neighbours(features)
        return distances.mean(dim=1) if mean else distances[:, -1]

    return score


def lof(detector: LOF, to_torch: ToTorch) -> TorchScore:
    """Return `LOF.score` in torch: local outlier factors."""
    neighbours = _neighbours(detector.bank, detector.settings.k, to_torch)
    k_distances, densities = to_torch(detector.k_distances), to_torch(detector.densities)

    def score(features: Tensor) -> Tensor:
        distances, ids = neighbours(features)
        reach = torch.maximum(distances, k_distances[ids]).mean(dim=1) + 1e-10  # as in the detector
        return (densities[ids] * reach[:, None]).mean(dim=1)

    return score


def local_residual(detector: LocalResidual, to_torch: ToTorch) -> TorchScore:
    """Return `LocalResidual.score` in torch: distances to the neighbours' hull."""
    bank, settings = detector.bank, detector.settings
    prepare = _preparation(bank, to_torch)

    def score(features: Tensor) -> Tensor:
        points = prepare(features)
        hull = to_torch(bank.rows[_nearest(bank, features, settings.k)])  # (n, k, d)
        mean = hull.mean(dim=1)
        hull = hull - mean[:, None]
        offset = points - mean
        products = hull @ hull.mT
        spread = products.diagonal(dim1=1, dim2=2).mean(dim=1)
        price = settings.ridge * torch.where(spread > 0, spread, 1.0)
        products = products + price[:, None, None] * torch.eye(settings.k, dtype=products.dtype, device=products.device)
        weights = torch.linalg.solve(products, hull @ offset[..., None])  # (n, k, 1)
        left = torch.cat([offset - (weights.mT @ hull)[:, 0], price.sqrt()[:, None] * weights[..., 0]], dim=1)
        distances: Tensor = torch.linalg.vector_norm(left, dim=1)
        return distances

    return score


def pca_residual(detector: PCAResidual, to_torch: ToTorch) -> TorchScore:
    """Return `PCAResidual.score` in torch: residuals."""
    mean, scale, components = to_torch(detector.mean), to_torch(detector.scale), to_torch(detector.components)
    unit = float(detector.noise[0]) if detector.settings.whiten else 1.0

    def score(features: Tensor) -> Tensor:
        rows = (features.double() - mean) / scale
        left = rows - (rows @ components.T) @ components
        distances: Tensor = torch.linalg.vector_norm(left, dim=1)
        return distances / unit

    return score


def gmm(detector: GMM, to_torch: ToTorch) -> TorchScore:
    """Return `GMM.score` in torch: negative log-likelihoods."""
    count, width = detector.means.shape
    whiteners, matrices = detector.whiteners, detector.settings.covariance in ("full", "tied")
    if matrices:
        whiteners = np.broadcast_to(whiteners, (count, width, width))
        scales = np.diagonal(whiteners, axis1=1, axis2=2)
    else:
        whiteners = scales = np.broadcast_to(whiteners.reshape(count, -1), (count, width))
    means, factors = to_torch(detector.means), to_torch(whiteners)
    constants = to_torch(np.log(detector.weights) + np.log(scales).sum(axis=1) - 0.5 * width * math.log(2 * math.pi))

    def score(features: Tensor) -> Tensor:
        rows = features.double()[None] - means[:, None]  # (components, n, d)
        white = rows @ factors.mT if matrices else rows * factors[:, None]
        joint = constants[:, None] - 0.5 * white.square().sum(dim=2)
        return -torch.logsumexp(joint, dim=0)

    return score


def _neighbours(bank: Bank, k: int, to_torch: ToTorch) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function to distances, ascending, and numbers of the k nearest rows."""
    prepare, cosine = _preparation(bank, to_torch), bank.settings.metric == "cosine"

    def neighbours(features: Tensor) -> tuple[Tensor, Tensor]:
        ids = _nearest(bank, features, k)
        rows, points = to_torch(bank.rows[ids]), prepare(features)[:, None]
        numbers = torch.as_tensor(ids, device=features.device)
        if not cosine:
            return torch.linalg.vector_norm(points - rows, dim=2), numbers
        lengths = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        rows = rows / torch.where(lengths == 0, 1.0, lengths)
        halves = (points - rows).square().sum(dim=2) / 2
        empty = (lengths[..., 0] == 0) | (points == 0).all(dim=2)
        return torch.where(empty, 1.0, halves), numbers

    return neighbours


def _preparation(bank: Bank, to_torch: ToTorch) -> TorchScore:
    """Return a function that prepares features as the bank's rows are."""
    centre, scale, cosine = to_torch(bank.centre), to_torch(bank.scale), bank.settings.metric == "cosine"

    def prepare(features: Tensor) -> Tensor:
        points = (features.double() - centre) / scale
        if not cosine:
            return points
        lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True)
        return points / torch.where(lengths == 0, 1.0, lengths)

    return prepare


def _nearest(bank: Bank, features: Tensor, k: int) -> NDArray[np.int64]:
    _, ids = bank.nearest(bank.prepare(features.detach().cpu().numpy()), k)
    return ids
