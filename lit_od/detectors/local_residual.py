"""Distance to the affine hull of the nearest inliers.

Vincent and Bengio 2001, K-local hyperplane and convex distance nearest neighbor algorithms.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import number
from lit_od.detectors.bank.detector import BankDetector
from lit_od.detectors.bank.onnx_search import Ids
from lit_od.detectors.bank.options import BankOptions
from lit_od.detectors.base import BLOCK_VALUES
from lit_od.detectors.gaussian import squared_norms
from lit_od.types import Scores, Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResidualOptions(BankOptions):
    """Options, checked: the bank's, and the following.

    A smaller bank is a seeded sample.

    Attributes:
        ridge: Price of leaving their mean, in units of their mean squared distance from it.
    """

    least_k: ClassVar[int] = 2

    k: int = 30
    ridge: float = 0.05

    def __post_init__(self) -> None:
        BankOptions.__post_init__(self)
        number("ridge", self.ridge, least=1e-6, most=1e6)


@dataclass(frozen=True, slots=True, eq=False)
class LocalResidual(BankDetector):
    """Distance to the affine hull of the k nearest rows of the bank.

    With m the mean of the k nearest rows and N (k, d) the rows less m, the score of x is the root of

        min_w ||x - m - N^T w||^2 + ridge t ||w||^2,   t = ||N||^2 / k.

    The penalty keeps the hull, which is endless, near its points. In comparison with the distance to the
    rows themselves, what lies between and beside the inliers counts less than what leaves their surface.

    Example:
        >>> line = np.stack([np.linspace(0, 1, 50), np.zeros(50)], 1).astype(np.float32)
        >>> LocalResidual.fit(line, k=5).score(np.float32([[0.505, 0], [0.505, 2]])).round(2).tolist()
        [0.0, 2.0]
    """

    kind: ClassVar[str] = "local_residual"
    options_type: ClassVar[type[LocalResidualOptions]] = LocalResidualOptions
    torch_form: ClassVar[str | None] = "lit_od.training.explain.torch_scores:local_residual"
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.banks:local_residual"

    settings: LocalResidualOptions

    def of_neighbours(self, queries: NDArray[np.float32], distances: Stats, ids: Ids) -> Scores:
        """Return distances of shape (n,), in units of the features.

        For the cosine the features have length 1.

        Args:
            queries: Prepared features, shape (n, d).
            distances: Distances to the k nearest rows, ascending, shape (n, k).
            ids: Their numbers, shape (n, k).
        """
        del distances
        scores = np.empty(len(queries))
        step = max(1, BLOCK_VALUES // (2 * self.settings.k * self.bank.width))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            scores[rows] = _residuals(queries[rows], self.bank.rows[ids[rows]], self.settings.ridge)
        return scores


def _residuals(queries: NDArray[np.float32], near: NDArray[Any], ridge: float) -> Scores:
    """Return penalised distances of queries (n, d) to hulls (n, k, d), shape (n,)."""
    hull = near.astype(np.float64)
    mean = hull.mean(axis=1)
    hull -= mean[:, None]
    offset = queries - mean
    products: Stats = hull @ hull.transpose(0, 2, 1)  # (n, k, k)
    count = products.shape[1]
    spread = np.trace(products, axis1=1, axis2=2) / count
    price = ridge * np.where(spread > 0, spread, 1.0)  # neighbours that are all equal span a point
    products[:, range(count), range(count)] += price[:, None]
    weights = np.linalg.solve(products, hull @ offset[..., None])  # (n, k, 1)
    left = offset - (weights.transpose(0, 2, 1) @ hull)[:, 0]
    scores: Scores = np.sqrt(squared_norms(left) + price * squared_norms(weights[..., 0]))
    return scores
