"""Distance to the nearest inliers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import one_of
from lit_od.detectors.bank.detector import BankDetector
from lit_od.detectors.bank.onnx_search import Ids
from lit_od.detectors.bank.options import BankOptions, Method, Reduce
from lit_od.types import Scores, Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class KNNOptions(BankOptions):
    """Options, checked: the bank's, and the following.

    Attributes:
        reduce: Mean distance of the k neighbours, or that of the k-th.
        coreset_method: Choice of a smaller bank: rows that cover all others ("k-centre"; all rows
            are held while fitting), or a seeded sample.
    """

    reduce: Reduce = "mean"
    coreset_method: Method = "k-centre"

    def __post_init__(self) -> None:
        BankOptions.__post_init__(self)
        one_of("reduce", self.reduce, ("mean", "kth"))
        one_of("coreset_method", self.coreset_method, ("k-centre", "sample"))

    def method_of(self) -> Method:
        """Return the way a smaller bank is chosen."""
        return self.coreset_method


@dataclass(frozen=True, slots=True, eq=False)
class KNN(BankDetector):
    """Mean distance to the k nearest rows of the bank, or the distance to the k-th.

    In units of the features, or 1 - cosine.

    Example:
        >>> rows = np.float32([[0, 0], [0, 1], [0, 2]])
        >>> KNN.fit(rows, k=2).score(np.float32([[0, 1], [4, 1]])).round(3).tolist()
        [0.5, 4.062]
    """

    kind: ClassVar[str] = "knn"
    options_type: ClassVar[type[KNNOptions]] = KNNOptions
    torch_form: ClassVar[str | None] = "lit_od.training.explain.torch_scores:knn"
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.banks:knn"

    settings: KNNOptions

    @property
    def falls_with_rows(self) -> bool:
        """True if the bank holds every row and nothing else was learnt."""
        return self.settings.keeps_rows

    @property
    def only_lowers(self) -> bool:
        """True if the search is exact: more rows bring the nearest ones nearer."""
        return self.bank.is_exact

    def of_neighbours(self, queries: NDArray[np.float32], distances: Stats, ids: Ids) -> Scores:
        """Return distances of shape (n,).

        Args:
            queries: Prepared features, shape (n, d).
            distances: Distances to the k nearest rows, ascending, shape (n, k).
            ids: Their numbers, shape (n, k).
        """
        del queries, ids
        return distances[:, -1].copy() if self.settings.reduce == "kth" else distances.mean(axis=1)
