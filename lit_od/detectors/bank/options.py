"""Options of memory banks, for every detector that keeps one."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, TypedDict

from lit_od.checks import flag, integer, number, one_of
from lit_od.detectors.bank import faiss_index
from lit_od.detectors.bank.coreset import parse_size
from lit_od.errors import ConfigError

Metric: TypeAlias = Literal["l2", "cosine"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Method: TypeAlias = Literal["k-centre", "sample"]
Reduce: TypeAlias = Literal["mean", "kth"]


class BankKeywords(TypedDict, total=False):
    """Types of the options of memory banks, for callers.

    Each detector takes those of its `options_type`, and no other.
    """

    metric: Metric
    index: str
    search: dict[str, int | float] | None
    precision: Precision
    standardise: bool
    coreset: int | float | None
    memory_budget: str | None
    seed: int
    k: int
    reduce: Reduce
    coreset_method: Method
    ridge: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BankOptions:
    """Options of a memory bank, checked.

    Attributes:
        metric: "l2", or "cosine": 1 minus the cosine; a row of zeros is at 1 from every other.
        index: "flat" (exhaustive), or any FAISS factory string, such as "HNSW32" or "IVF256,Flat".
        search: The index' search settings, such as {"efSearch": 64} or {"nprobe": 16}.
        precision: Of the bank's rows: "fp32", "fp16", or "int8" with a step for each row (on disk; fp32 in memory).
        standardise: Divide each feature, less its mean, by its standard deviation.
        coreset: Keep this many rows (an integer), or this share of them (a float below 1).
        memory_budget: Keep as many rows as fit, for instance "20MB"; a flat index only.
        seed: Of the coreset.
        k: Number of neighbours.
    """

    least_k: ClassVar[int] = 1

    metric: Metric = "l2"
    index: str = "flat"
    search: dict[str, int | float] | None = None
    precision: Precision = "fp32"
    standardise: bool = False
    coreset: int | float | None = None
    memory_budget: str | None = None
    seed: int = 0
    k: int = 5

    def __post_init__(self) -> None:
        one_of("metric", self.metric, ("l2", "cosine"))
        if type(self.index) is not str or not (self.index and self.index.isascii()):
            raise ConfigError(f"index must be 'flat' or a FAISS factory string, got {self.index!r}")
        if self.search is not None:
            if type(self.search) is not dict or not all(type(name) is str and name.isascii() for name in self.search):
                raise ConfigError(f"search must be settings by name, as efSearch: 64, got {self.search!r}")
            for name, value in self.search.items():
                number(f"search setting {name}", value, above=0)
            if self.search and faiss_index.is_flat(self.index):
                raise ConfigError(f"search={self.search!r} needs an index such as HNSW32; 'flat' has no settings")
        one_of("precision", self.precision, ("fp32", "fp16", "int8"))
        flag("standardise", self.standardise)
        if type(self.coreset) is int:
            integer("coreset", self.coreset, least=1)
        elif self.coreset is not None:
            number("coreset, unless a number of rows,", self.coreset, above=0, below=1)
        if self.memory_budget is not None:
            if type(self.memory_budget) is not str:
                raise ConfigError(f"memory_budget must be a size such as 20MB, got {self.memory_budget!r}")
            parse_size(self.memory_budget)
            if self.coreset is not None:
                raise ConfigError("coreset and memory_budget both set the bank's size. Pass one of them.")
            if not faiss_index.is_flat(self.index):
                raise ConfigError(f"memory_budget counts the rows of a flat bank, got index={self.index!r}")
        integer("seed", self.seed, least=0, most=2**32 - 1)
        integer("k", self.k, least=self.least_k)

    @property
    def keeps_rows(self) -> bool:
        """True if the bank holds and searches every row, and learns nothing else."""
        whole = self.coreset is None and self.memory_budget is None and faiss_index.is_flat(self.index)
        return whole and not self.standardise and self.precision == "fp32"  # fp16 rounds about the rows' mean

    def method_of(self) -> Method:
        """Return the way a smaller bank is chosen."""
        return "sample"

    def rows_that_fit(self, width: int) -> int | None:
        """Return the number of rows within the memory budget; None without one.

        Raises:
            ConfigError: If the budget holds no row of this width.
        """
        if self.memory_budget is None:
            return None
        row = width * {"fp32": 4, "fp16": 2, "int8": 1}[self.precision]
        rows = parse_size(self.memory_budget) // row
        if rows < 1:
            raise ConfigError(f"memory_budget={self.memory_budget} is less than one row of {row} bytes")
        return rows
