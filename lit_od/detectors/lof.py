"""Local outlier factor (Breunig et al. 2000) of new images."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.detector import BankDetector
from lit_od.detectors.bank.memory_bank import Bank
from lit_od.detectors.bank.onnx_search import Ids
from lit_od.detectors.bank.options import BankOptions
from lit_od.detectors.state import SMALLEST, read_only, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Scores, Stats

BLOCK = 4096
"""Rows of the bank whose neighbours are looked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LOFOptions(BankOptions):
    """Options, checked: the bank's.

    A smaller bank is a seeded sample: rows that cover all others would even out the densities that
    LOF compares.
    """

    k: int = 20


@dataclass(frozen=True, slots=True, eq=False)
class LOF(BankDetector):
    """Local outlier factor: density around the neighbours over that of the image.

    With d_k(o) the distance of o to its k-th neighbour, N(x) the k nearest rows,

        lrd(x) = 1 / mean_{o in N(x)} max(d(x, o), d_k(o)),   LOF(x) = mean_{o in N(x)} lrd(o) / lrd(x).

    About 1 for inliers, more for outliers. The values are those of scikit-learn's
    `LocalOutlierFactor(novelty=True)`.

    Attributes:
        k_distances: d_k of each row of the bank among the others, shape (m,).
        densities: lrd of each row of the bank among the others, shape (m,).

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
        >>> LOF.fit(rows, k=20).score(np.float32([[0, 0], [6, 6]])).round(1).tolist()
        [1.0, 8.4]
    """

    kind: ClassVar[str] = "lof"
    options_type: ClassVar[type[LOFOptions]] = LOFOptions
    torch_form: ClassVar[str | None] = "lit_od.training.explain.torch_scores:lof"
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.banks:lof"
    beyond_k: ClassVar[int] = 1  # a row is no neighbour of itself

    k_distances: Stats
    densities: Stats

    @classmethod
    def of_bank(cls, settings: BankOptions, bank: Bank) -> Self:
        """Make the detector of a bank of more than k rows, measuring their densities."""
        from tqdm import tqdm

        count = len(bank.rows)
        distances = np.empty((count, settings.k))
        ids = np.empty((count, settings.k), dtype=np.int64)
        blocks = [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        for block in tqdm(blocks, desc="densities", leave=False, disable=None):
            itself = np.arange(block.start, block.stop)
            distances[block], ids[block] = bank.nearest(
                bank.rows[block].astype(np.float32, copy=False), settings.k, skip=itself
            )
        k_distances = distances[:, -1].copy()
        densities = _densities(distances, k_distances[ids])
        return cls(settings, bank, read_only(k_distances), read_only(densities))

    @classmethod
    def can_leave_out(cls, settings: BankOptions) -> bool:
        """Return False: without a row the densities of the others change too."""
        del settings
        return False

    def of_neighbours(self, queries: NDArray[np.float32], distances: Stats, ids: Ids) -> Scores:
        """Return local outlier factors of shape (n,), without a unit.

        Args:
            queries: Prepared features, shape (n, d).
            distances: Distances to the k nearest rows, ascending, shape (n, k).
            ids: Their numbers, shape (n, k).
        """
        del queries
        densities = _densities(distances, self.k_distances[ids])
        factors: Scores = (self.densities[ids] / densities[:, None]).mean(axis=1)
        return factors

    def state(self) -> Arrays:
        """Return the bank's arrays, and each row's k-distance and density."""
        return self.bank.state() | {"k_distances": self.k_distances, "densities": self.densities}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings, bank = cls.bank_from_state(options, state, "k_distances", "densities")
        shape = (len(bank.rows),)
        k_distances, densities = take(state, "k_distances", shape), take(state, "densities", shape)
        if (k_distances < 0).any() or (densities < SMALLEST).any():
            raise DataError("arrays 'k_distances' and 'densities' of the state must be positive; fit it anew")
        return cls(settings, bank, k_distances, densities)


def _densities(distances: Stats, k_distances: Stats) -> Stats:
    """Return local reachability densities, (n,).

    Both arguments have shape (n, k): distances to the neighbours, and their k-distances.
    """
    # The small term is scikit-learn's: more than k equal rows have a finite density.
    densities: Stats = 1 / (np.maximum(distances, k_distances).mean(axis=1) + 1e-10)
    return densities
