"""Distance to the affine hull of the nearest inliers (Vincent and Bengio 2001, K-local hyperplanes)."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import integer, number
from lit_od.detectors.bank.memory_bank import Bank, BankAccumulator
from lit_od.detectors.bank.options import BankOptions, Metric, Precision
from lit_od.detectors.base import BLOCK_VALUES
from lit_od.detectors.gaussian import squared_norms
from lit_od.detectors.options import read_options
from lit_od.detectors.state import check_names
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Output, Scores, Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResidualOptions(BankOptions):
    """Options, checked: the bank's, and the following.

    A smaller bank is a seeded sample.

    Attributes:
        k: Number of neighbours that span the hull.
        ridge: Price of leaving their mean, in units of their mean squared distance from it.
    """

    k: int = 30
    ridge: float = 0.05

    def __post_init__(self) -> None:
        BankOptions.__post_init__(self)
        integer("k", self.k, least=2)
        number("ridge", self.ridge, least=1e-6, most=1e6)


@dataclass(frozen=True, slots=True, eq=False)
class LocalResidual:
    """Distance to the affine hull of the k nearest rows of the bank, which bends as the inliers do.

    With m the mean of the k nearest rows and N (k, d) the rows less m, the score of x is the root of

        min_w ||x - m - N^T w||^2 + ridge t ||w||^2,   t = ||N||^2 / k.

    The penalty keeps the hull, which is endless, near its points. In comparison with the distance to the
    rows themselves, what lies between and beside the inliers counts less than what leaves their surface.

    Attributes:
        settings: The options it was fitted with.
        bank: The inliers' rows.
    """

    kind: ClassVar[str] = "local_residual"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[LocalResidualOptions]] = LocalResidualOptions

    settings: LocalResidualOptions
    bank: Bank

    @classmethod
    def fit(
        cls,
        features: Features,
        *,
        k: int = 30,
        ridge: float = 0.05,
        metric: Metric = "l2",
        index: str = "flat",
        search: dict[str, int | float] | None = None,
        precision: Precision = "fp32",
        standardise: bool = False,
        coreset: int | float | None = None,
        memory_budget: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Keep the inliers' features of shape (n, d); see `LocalResidualOptions` for the rest.

        Raises:
            ConfigError: On an option out of range, or an index that does not exist.
            DataError: If the rows do not suffice.
        """
        settings = LocalResidualOptions(
            k=k,
            ridge=ridge,
            metric=metric,
            index=index,
            search=search,
            precision=precision,
            standardise=standardise,
            coreset=coreset,
            memory_budget=memory_budget,
            seed=seed,
        )
        gathered = cls.start(settings)
        gathered.update(features)
        return cls.from_accumulator(gathered)

    @classmethod
    def start(cls, settings: LocalResidualOptions, first_row: int = 0) -> "LocalResidualAccumulator":
        """An empty accumulator for checked options."""
        return LocalResidualAccumulator(settings, first_row)

    @classmethod
    def from_accumulator(cls, gathered: "LocalResidualAccumulator") -> Self:
        """Freeze what an accumulator has gathered.

        Raises:
            DataError: If the rows do not suffice.
        """
        return cls(gathered.settings, gathered.bank("LocalResidual", gathered.settings.k))

    @property
    def width(self) -> int:
        """Features an image, d."""
        return self.bank.width

    def score(self, features: Features) -> Scores:
        """Distances of shape (n,), in units of the features; of vectors of length 1 for the cosine.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        queries = self.bank.prepare(features)
        _, ids = self.bank.nearest(queries, self.settings.k)
        scores = np.empty(len(queries))
        step = max(1, BLOCK_VALUES // (2 * self.settings.k * self.width))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            scores[rows] = _residuals(queries[rows], self.bank.rows[ids[rows]], self.settings.ridge)
        return scores

    def options(self) -> dict[str, Any]:
        """The options it was fitted with."""
        return asdict(self.settings)

    def state(self) -> Arrays:
        """The bank's arrays."""
        return self.bank.state()

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, LocalResidualOptions, options)
        check_names(cls.kind, state, Bank.names(settings))
        bank = Bank.from_state(settings, state)
        if len(bank.rows) < settings.k:
            raise DataError(f"k={settings.k} needs a bank of as many rows, got {len(bank.rows)}; fit it anew")
        return cls(settings, bank)


class LocalResidualAccumulator(BankAccumulator):
    """Gathers the bank's rows."""

    __slots__ = ()

    settings: LocalResidualOptions

    def finish(self) -> LocalResidual:
        """The fitted detector.

        Raises:
            DataError: If the rows do not suffice.
        """
        return LocalResidual.from_accumulator(self)


def _residuals(queries: NDArray[np.float32], near: NDArray[Any], ridge: float) -> Scores:
    """Penalised distances of queries (n, d) to the hulls of their neighbours (n, k, d), shape (n,)."""
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
