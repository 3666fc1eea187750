"""Local outlier factor (Breunig et al. 2000), for images that were not among the inliers."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import integer
from lit_od.detectors.bank.memory_bank import Bank, BankAccumulator
from lit_od.detectors.bank.options import BankOptions, Metric, Precision
from lit_od.detectors.options import read_options
from lit_od.detectors.state import SMALLEST, check_names, read_only, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Output, Scores, Stats

BLOCK = 4096
"""Rows of the bank whose neighbours are looked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LOFOptions(BankOptions):
    """Options, checked: the bank's, and the following.

    A smaller bank is a seeded sample: rows that cover all others would even out the densities that
    LOF compares.

    Attributes:
        k: Number of neighbours.
    """

    k: int = 20

    def __post_init__(self) -> None:
        BankOptions.__post_init__(self)
        integer("k", self.k, least=1)


@dataclass(frozen=True, slots=True, eq=False)
class LOF:
    """Local outlier factor: how much denser the neighbours' surroundings are than one's own.

    With d_k(o) the distance of o to its k-th neighbour, N(x) the k nearest rows,

        lrd(x) = 1 / mean_{o in N(x)} max(d(x, o), d_k(o)),   LOF(x) = mean_{o in N(x)} lrd(o) / lrd(x).

    About 1 for inliers, more for outliers. The values are those of scikit-learn's
    `LocalOutlierFactor(novelty=True)`.

    Attributes:
        settings: The options it was fitted with.
        bank: The inliers' rows.
        k_distances: d_k of each row of the bank among the others, shape (m,).
        densities: lrd of each row of the bank among the others, shape (m,).
    """

    kind: ClassVar[str] = "lof"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[LOFOptions]] = LOFOptions

    settings: LOFOptions
    bank: Bank
    k_distances: Stats
    densities: Stats

    @classmethod
    def fit(
        cls,
        features: Features,
        *,
        k: int = 20,
        metric: Metric = "l2",
        index: str = "flat",
        search: dict[str, int | float] | None = None,
        precision: Precision = "fp32",
        standardise: bool = False,
        coreset: int | float | None = None,
        memory_budget: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Keep the inliers' features of shape (n, d) and their densities; see `LOFOptions` for the rest.

        Raises:
            ConfigError: On an option out of range, or an index that does not exist.
            DataError: If the rows do not suffice.
        """
        gathered = cls.accumulator(
            k=k,
            metric=metric,
            index=index,
            search=search,
            precision=precision,
            standardise=standardise,
            coreset=coreset,
            memory_budget=memory_budget,
            seed=seed,
        )
        gathered.update(features)
        return cls.from_accumulator(gathered)

    @classmethod
    def accumulator(
        cls,
        *,
        k: int = 20,
        metric: Metric = "l2",
        index: str = "flat",
        search: dict[str, int | float] | None = None,
        precision: Precision = "fp32",
        standardise: bool = False,
        coreset: int | float | None = None,
        memory_budget: str | None = None,
        seed: int = 0,
        first_row: int = 0,
    ) -> "LOFAccumulator":
        """The same as a stream; first_row is the number of its first row among those of all accumulators.

        Raises:
            ConfigError: On an option out of range.
        """
        settings = LOFOptions(
            k=k,
            metric=metric,
            index=index,
            search=search,
            precision=precision,
            standardise=standardise,
            coreset=coreset,
            memory_budget=memory_budget,
            seed=seed,
        )
        return cls.start(settings, first_row)

    @classmethod
    def start(cls, settings: LOFOptions, first_row: int = 0) -> "LOFAccumulator":
        """An empty accumulator for checked options."""
        return LOFAccumulator(settings, first_row)

    @classmethod
    def from_accumulator(cls, gathered: "LOFAccumulator") -> Self:
        """Freeze what an accumulator has gathered.

        Raises:
            DataError: If the rows do not suffice.
        """
        from tqdm import tqdm

        settings, bank = gathered.settings, gathered.bank("LOF", gathered.settings.k + 1)
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

    @property
    def width(self) -> int:
        """Features an image, d."""
        return self.bank.width

    def score(self, features: Features) -> Scores:
        """Local outlier factors of shape (n,), without a unit.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        distances, ids = self.bank.nearest(self.bank.prepare(features), self.settings.k)
        own = _densities(distances, self.k_distances[ids])
        factors: Scores = (self.densities[ids] / own[:, None]).mean(axis=1)
        return factors

    def options(self) -> dict[str, Any]:
        """The options it was fitted with."""
        return asdict(self.settings)

    def state(self) -> Arrays:
        """The bank's arrays, and each row's k-distance and density."""
        return self.bank.state() | {"k_distances": self.k_distances, "densities": self.densities}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, LOFOptions, options)
        check_names(cls.kind, state, [*Bank.names(settings), "k_distances", "densities"])
        bank = Bank.from_state(settings, state)
        count = len(bank.rows)
        if count <= settings.k:
            raise DataError(f"k={settings.k} needs a bank of more rows, got {count}; fit the detector anew")
        k_distances, densities = take(state, "k_distances", (count,)), take(state, "densities", (count,))
        if (k_distances < 0).any() or (densities < SMALLEST).any():
            raise DataError("arrays 'k_distances' and 'densities' of the state must be positive; fit it anew")
        return cls(settings, bank, k_distances, densities)


class LOFAccumulator(BankAccumulator):
    """Gathers the bank's rows."""

    __slots__ = ()

    settings: LOFOptions

    def finish(self) -> LOF:
        """The fitted detector.

        Raises:
            DataError: If the rows do not suffice.
        """
        return LOF.from_accumulator(self)


def _densities(distances: Stats, k_distances: Stats) -> Stats:
    """Local reachability densities, (n,), from distances to neighbours and their k-distances, (n, k)."""
    # The small term is scikit-learn's: more than k equal rows have a finite density.
    densities: Stats = 1 / (np.maximum(distances, k_distances).mean(axis=1) + 1e-10)
    return densities
