"""Distance to the nearest inliers."""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeAlias

from lit_od.checks import integer, one_of
from lit_od.detectors.bank.coreset import rank_agreement
from lit_od.detectors.bank.memory_bank import Bank, BankAccumulator
from lit_od.detectors.bank.options import BankOptions, Method, Metric, Precision
from lit_od.detectors.options import read_options
from lit_od.detectors.state import check_names
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Output, Scores

Reduce: TypeAlias = Literal["mean", "kth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KNNOptions(BankOptions):
    """Options, checked: the bank's, and the following.

    Attributes:
        k: Number of neighbours.
        reduce: Their mean distance, or that of the k-th.
        coreset_method: How a smaller bank is chosen: rows that cover all others ("k-centre"; all rows
            are held while fitting), or a seeded sample.
    """

    k: int = 5
    reduce: Reduce = "mean"
    coreset_method: Method = "k-centre"

    def __post_init__(self) -> None:
        BankOptions.__post_init__(self)
        integer("k", self.k, least=1)
        one_of("reduce", self.reduce, ("mean", "kth"))
        one_of("coreset_method", self.coreset_method, ("k-centre", "sample"))

    def method_of(self) -> Method:
        """How a smaller bank is chosen."""
        return self.coreset_method


@dataclass(frozen=True, slots=True, eq=False)
class KNN:
    """Mean distance to the k nearest rows of the bank, or the distance to the k-th.

    Attributes:
        settings: The options it was fitted with.
        bank: The inliers' rows.
    """

    kind: ClassVar[str] = "knn"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[KNNOptions]] = KNNOptions

    settings: KNNOptions
    bank: Bank

    @classmethod
    def fit(
        cls,
        features: Features,
        *,
        k: int = 5,
        reduce: Reduce = "mean",
        metric: Metric = "l2",
        index: str = "flat",
        search: dict[str, int | float] | None = None,
        precision: Precision = "fp32",
        standardise: bool = False,
        coreset: int | float | None = None,
        coreset_method: Method = "k-centre",
        memory_budget: str | None = None,
        seed: int = 0,
    ) -> Self:
        """Keep the inliers' features of shape (n, d); see `KNNOptions` for the rest.

        Raises:
            ConfigError: On an option out of range, or an index that does not exist.
            DataError: If the rows do not suffice.
        """
        gathered = cls.accumulator(
            k=k,
            reduce=reduce,
            metric=metric,
            index=index,
            search=search,
            precision=precision,
            standardise=standardise,
            coreset=coreset,
            coreset_method=coreset_method,
            memory_budget=memory_budget,
            seed=seed,
        )
        gathered.update(features)
        return cls.from_accumulator(gathered)

    @classmethod
    def accumulator(
        cls,
        *,
        k: int = 5,
        reduce: Reduce = "mean",
        metric: Metric = "l2",
        index: str = "flat",
        search: dict[str, int | float] | None = None,
        precision: Precision = "fp32",
        standardise: bool = False,
        coreset: int | float | None = None,
        coreset_method: Method = "k-centre",
        memory_budget: str | None = None,
        seed: int = 0,
        first_row: int = 0,
    ) -> "KNNAccumulator":
        """The same as a stream; first_row is the number of its first row among those of all accumulators.

        Raises:
            ConfigError: On an option out of range.
        """
        settings = KNNOptions(
            k=k,
            reduce=reduce,
            metric=metric,
            index=index,
            search=search,
            precision=precision,
            standardise=standardise,
            coreset=coreset,
            coreset_method=coreset_method,
            memory_budget=memory_budget,
            seed=seed,
        )
        return cls.start(settings, first_row)

    @classmethod
    def start(cls, settings: KNNOptions, first_row: int = 0) -> "KNNAccumulator":
        """An empty accumulator for checked options."""
        return KNNAccumulator(settings, first_row)

    @classmethod
    def from_accumulator(cls, gathered: "KNNAccumulator") -> Self:
        """Freeze what an accumulator has gathered.

        Raises:
            DataError: If the rows do not suffice.
        """
        return cls(gathered.settings, gathered.bank("KNN", gathered.settings.k))

    @property
    def width(self) -> int:
        """Features an image, d."""
        return self.bank.width

    def score(self, features: Features) -> Scores:
        """Distances of shape (n,), in units of the features, or 1 minus the cosine.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        distances, _ = self.bank.nearest(self.bank.prepare(features), self.settings.k)
        return distances[:, -1].copy() if self.settings.reduce == "kth" else distances.mean(axis=1)

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
        settings = read_options(cls.kind, KNNOptions, options)
        check_names(cls.kind, state, Bank.names(settings))
        bank = Bank.from_state(settings, state)
        if len(bank.rows) < settings.k:
            raise DataError(f"k={settings.k} needs a bank of as many rows, got {len(bank.rows)}; fit it anew")
        return cls(settings, bank)


@dataclass(frozen=True, slots=True)
class BankCost:
    """What a smaller bank saves, and what it costs.

    Attributes:
        rows: Rows in the bank.
        of_rows: Rows that it was chosen from.
        size: Bytes of the bank's rows.
        agreement: Rank correlation (Spearman) of its scores with the whole bank's.
    """

    rows: int
    of_rows: int
    size: int
    agreement: float


class KNNAccumulator(BankAccumulator):
    """Gathers the bank's rows."""

    __slots__ = ()

    settings: KNNOptions

    def finish(self) -> KNN:
        """The fitted detector.

        Raises:
            DataError: If the rows do not suffice.
        """
        return KNN.from_accumulator(self)

    def cost(self, detector: KNN, validation: Features) -> BankCost:
        """Compare a detector of these rows with one that keeps them all.

        Args:
            detector: What `finish` gave.
            validation: Images that neither fitted nor will calibrate the detector, shape (n, d).

        Raises:
            DataError: If a sample was drawn, so that the other rows are gone, or the scores do not vary.
        """
        if self.store.samples:
            raise DataError("the rows outside the sample are gone. Pass coreset_method='k-centre' to compare.")
        whole = KNNAccumulator(replace(self.settings, coreset=None, memory_budget=None), self.store.first_row)
        whole.store.merge(self.store)
        agreement = rank_agreement(detector.score(validation), whole.finish().score(validation))
        rows = detector.bank.rows
        return BankCost(len(rows), self.store.seen, rows.nbytes, agreement)
