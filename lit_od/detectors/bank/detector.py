"""The base of detectors that search a memory bank, and its accumulator."""

from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank import faiss_index
from lit_od.detectors.bank.coreset import rank_agreement
from lit_od.detectors.bank.memory_bank import Bank
from lit_od.detectors.bank.onnx_search import Ids
from lit_od.detectors.bank.options import BankKeywords, BankOptions
from lit_od.detectors.bank.row_store import RowStore
from lit_od.detectors.base import Accumulator, Batches, Detector, check_features
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.state import check_names
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Features, Labels, Output, Scores, Stats


@dataclass(frozen=True, slots=True, eq=False)
class BankDetector(Detector):
    """A detector that compares features with the nearest rows of a memory bank.

    Attributes:
        settings: The options it was fitted with.
        bank: The inliers' rows.
    """

    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[BankOptions]]
    beyond_k: ClassVar[int] = 0
    """Rows that the bank must hold besides k."""

    settings: BankOptions
    bank: Bank

    @classmethod
    def fit(cls, features: Features, **options: Unpack[BankKeywords]) -> Self:
        """Keep the inliers' features.

        Args:
            features: Shape (n, d).
            options: Options of `options_type`, which documents them and has their defaults.

        Raises:
            ConfigError: On an option that does not exist or is out of range, or an index that does not exist.
            DataError: If the rows do not suffice.
        """
        gathered = cls.accumulator(**options)
        gathered.update(features)
        return gathered.finish()

    @classmethod
    def accumulator(cls, *, first_row: int = 0, **options: Unpack[BankKeywords]) -> "BankAccumulator[Self]":
        """Return an empty accumulator.

        Args:
            first_row: Number of the first row it will see, among the rows of all accumulators.
            options: As `fit` takes them.

        Raises:
            ConfigError: On an option that does not exist or is out of range.
        """
        return cls.start(read_options(cls.kind, cls.options_type, options), first_row)

    @classmethod
    def start(cls, settings: BankOptions, first_row: int = 0) -> "BankAccumulator[Self]":
        """Return an empty accumulator for checked options."""
        return BankAccumulator(cls, settings, first_row)

    @classmethod
    def of_bank(cls, settings: BankOptions, bank: Bank) -> Self:
        """Make the detector of a bank of at least k + `beyond_k` rows."""
        return cls(settings, bank)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's features, (d,)."""
        return (self.bank.width,)

    def score(self, features: Features, /) -> Scores:
        """Return outlier scores of shape (n,), in the unit that the class documents.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        queries = self.bank.prepare(features)
        return self.of_neighbours(queries, *self.bank.nearest(queries, self.settings.k))

    @classmethod
    def can_leave_out(cls, settings: BankOptions) -> bool:
        """Return True if the bank holds every row and nothing else is learnt."""
        return settings.keeps_rows

    def score_left_out(self, features: Features, /) -> Scores:
        """Score the rows of the bank, each among the others.

        Args:
            features: Features of the inliers that it was fitted on, in their order, shape (n, d).

        Returns:
            Scores of shape (n,).

        Raises:
            ConfigError: If more is learnt than the rows.
            DataError: If there are no k other rows, or these are not the bank's.
        """
        if not self.can_leave_out(self.settings):
            raise ConfigError(f"{self.kind} with these options scores its inliers by a fit without each of them")
        if len(features) != len(self.bank.rows):
            raise DataError(f"wanted the {len(self.bank.rows)} images that fitted the bank, got {len(features)}")
        if len(features) <= self.settings.k:
            raise DataError(
                f"{self.kind} with k={self.settings.k} needs {self.settings.k + 1} images to leave one out, got "
                f"{len(features)}. Pass more images or a lower k"
            )
        queries = self.bank.prepare(features)
        return self.of_neighbours(queries, *self.bank.nearest(queries, self.settings.k, skip=np.arange(len(queries))))

    @abstractmethod
    def of_neighbours(self, queries: NDArray[np.float32], distances: Stats, ids: Ids) -> Scores:
        """Return scores of shape (n,).

        Args:
            queries: Prepared features, shape (n, d).
            distances: Distances to the k nearest rows, ascending, shape (n, k).
            ids: Their numbers, shape (n, k).
        """

    @property
    def accepts(self) -> bool:
        """True: the bank takes rows."""
        return True

    def accept(self, batches: Batches, sums: Accumulator | None = None, /, *, limit: float) -> Self:
        """Return the detector with further rows in its bank.

        Args:
            batches: Gives the features of the images, shape (n, d) a batch.
            sums: Not needed.
            limit: Plays no part: each image is a row.

        Raises:
            ConfigError: If the bank's memory budget is used up.
            DataError: On a wrong width, or values that are not finite or too far away.
        """
        del sums, limit
        rows = [self.bank.prepare(batch) for batch in batches()]
        return self.of_bank(self.settings, self.bank.with_rows(np.concatenate(rows))) if rows else self

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with."""
        return asdict(self.settings)

    def state(self) -> Arrays:
        """Return the bank's arrays."""
        return self.bank.state()

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        return cls(*cls.bank_from_state(options, state))

    @classmethod
    def bank_from_state(cls, options: dict[str, Any], state: Arrays, *further: str) -> tuple[BankOptions, Bank]:
        """Rebuild options and bank.

        Args:
            options: As `options()` gives them.
            state: As `state()` gives it.
            further: Names of the arrays that the state holds besides the bank's.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, cls.options_type, options)
        check_names(cls.kind, state, [*Bank.names(settings), *further])
        bank = Bank.from_state(settings, state)
        if len(bank.rows) < settings.k + cls.beyond_k:
            least = "more" if cls.beyond_k else "as many"
            raise DataError(f"k={settings.k} needs a bank of {least} rows, got {len(bank.rows)}; fit the detector anew")
        return settings, bank


AnyBankDetector = TypeVar("AnyBankDetector", bound=BankDetector)


@dataclass(frozen=True, slots=True)
class BankCost:
    """Size of a smaller bank, and agreement of its scores with the whole bank's.

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


class BankAccumulator(Generic[AnyBankDetector]):
    """An accumulator of rows for a bank: all for k-centre, else a seeded sample.

    Args:
        detector: The detector's class.
        settings: Its options.
        first_row: Number of the first row it will see, among the rows of all accumulators.

    Attributes:
        store: The rows.
    """

    __slots__ = ("detector", "settings", "store")

    def __init__(self, detector: type[AnyBankDetector], settings: BankOptions, first_row: int) -> None:
        self.detector = detector
        self.settings = settings
        share = settings.coreset
        sampled = settings.method_of() == "sample"
        self.store = RowStore(
            first_row,
            seed=settings.seed,
            limit=share if sampled and isinstance(share, int) else None,
            share=share if sampled and isinstance(share, float) else None,
        )

    def update(self, features: Features, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, d); labels play no part.

        Raises:
            ConfigError: If the index or the memory budget cannot serve features of this width.
            DataError: On a wrong shape, or values that are not finite.
        """
        if self.store.width is None:
            width = check_features(features).shape[1]
            faiss_index.check_factory(self.settings.index, width, self.settings.search)
            fit = self.settings.rows_that_fit(width)
            if fit is not None and self.settings.method_of() == "sample":
                self.store.limit = fit
        self.store.update(features)

    def merge(self, other: Self) -> None:
        """Take over an accumulator with the same options that has seen the next rows.

        Raises:
            ConfigError: If the options differ.
            DataError: If the widths differ, or a sample's rows do not follow.
        """
        same_options(self.settings, other.settings)
        if self.store.width is None:
            self.store.limit = other.store.limit
        self.store.merge(other.store)

    def state(self) -> Arrays:
        """Return the rows, and their numbers or ranks."""
        return self.store.state()

    def restore(self, state: Arrays) -> None:
        """Replace the rows by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.store.restore(state)

    def finish(self) -> AnyBankDetector:
        """Return the fitted detector.

        Raises:
            DataError: If the rows do not suffice.
        """
        name, least = self.detector.__name__, self.settings.k + self.detector.beyond_k
        kept = self.store.rows()
        if len(kept) < least:
            raise DataError(
                f"{name} needs at least {least} rows of features, got {len(kept)} of {self.store.seen}. "
                "Pass more images, a lower k or a larger bank."
            )
        bank = Bank.build(self.settings, kept)
        if len(bank.rows) < least:
            raise DataError(
                f"{name} needs a bank of at least {least} rows, got one of {len(bank.rows)}. "
                "Pass a lower k or a larger bank."
            )
        return self.detector.of_bank(self.settings, bank)

    def cost(self, fitted: BankDetector, validation: Features) -> BankCost:
        """Compare a detector of these rows with one that keeps them all.

        Args:
            fitted: The detector that `finish` returned.
            validation: Images that neither fitted nor will calibrate the detector, shape (n, d).

        Raises:
            DataError: If a sample was drawn, so that the other rows are gone, or the scores do not vary.
        """
        if self.store.samples:
            raise DataError("the rows outside the sample are gone. Pass coreset_method='k-centre' to compare.")
        whole = self.detector.start(replace(self.settings, coreset=None, memory_budget=None), self.store.first_row)
        whole.store.merge(self.store)
        agreement = rank_agreement(fitted.score(validation), whole.finish().score(validation))
        return BankCost(len(fitted.bank.rows), self.store.seen, fitted.bank.rows.nbytes, agreement)
