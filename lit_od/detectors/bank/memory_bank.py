"""A memory bank and its nearest rows.

A search proposes a few more rows than are asked for: a matrix product with the whole bank, or a FAISS index. Their
distances are recomputed in float64, sorted anew, ties by row number. So scores depend neither on the batch nor on
the processor, and a row is at distance 0 from itself.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank import faiss_index
from lit_od.detectors.bank.coreset import greedy_k_centre
from lit_od.detectors.bank.onnx_search import ExactSearch, Ids
from lit_od.detectors.bank.options import BankOptions, Metric, Precision
from lit_od.detectors.base import CACHED_VALUES, check_features
from lit_od.detectors.state import SMALLEST, read_only, take
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Features, Stats

BLOCK = 8192
"""Rows that are prepared at once; cut by row number, so that sums do not depend on batches."""

MOST_STEPS = 127
"""Steps of an int8 row, either way."""

REACH = 1e15
"""Largest absolute value in a bank, so that squares can be added in float32."""


_TYPES: dict[Precision, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Rows in the order of the data, ready to be compared.

    Attributes:
        settings: Options by which they are kept and searched.
        rows: (x - centre) / scale, of length 1 for the cosine, float32 or float16, shape (m, d).
        centre: Shape (d,); zeros for the cosine of features that are not standardised.
        scale: Shape (d,); ones unless standardised.
        steps: Value of one step of each int8 row, float32, shape (m, 1); None otherwise. Such rows are int8 on disk,
            and float32 in memory.
        index: The FAISS index; None for a flat bank.
    """

    settings: BankOptions
    rows: NDArray[Any]
    centre: Stats
    scale: Stats
    steps: NDArray[np.float32] | None
    index: Any
    _searches: list[ExactSearch] = field(default_factory=list, init=False, repr=False)
    """The search of the whole bank, once it has been wanted."""

    @classmethod
    def build(cls, settings: BankOptions, kept: NDArray[np.float32]) -> Self:
        """Build the bank of rows of shape (n, d), reduced to the coreset if there is one.

        Raises:
            DataError: If the rows do not suit the precision or the index.
        """
        centre, scale = _standard(kept)
        if not settings.standardise:
            scale = np.ones_like(scale)
            if settings.metric == "cosine":
                centre = np.zeros_like(centre)
        prepared = _prepare(kept, centre, scale, settings.metric)
        if np.abs(prepared).max() > REACH:
            raise DataError(f"features must lie within {REACH:g} of their mean to be measured. Scale them.")
        count = len(kept)
        if (fit := settings.rows_that_fit(kept.shape[1])) is not None:
            count = min(count, fit)
        elif settings.coreset is not None:
            share = settings.coreset
            count = min(count, share if isinstance(share, int) else max(1, round(share * count)))
        if count < len(kept) and settings.method_of() == "k-centre":
            prepared = prepared[greedy_k_centre(prepared, count, settings.seed)]
        steps = _steps(prepared) if settings.precision == "int8" else None
        return cls._of(settings, _stored(prepared, settings), centre, scale, steps)._indexed()

    def with_rows(self, rows: NDArray[np.float32]) -> Self:
        """Return the bank with further rows behind its own; centre and scale stay.

        Args:
            rows: Prepared, shape (n, d).

        Raises:
            ConfigError: If the memory budget is used up.
            DataError: If the rows do not suit the precision or the index, or are not finite.
        """
        if not len(rows):
            return self
        if not np.abs(rows).max() <= REACH:  # NaN is not either
            raise DataError(f"features must lie within {REACH:g} of the bank's mean to be measured")
        fit = self.settings.rows_that_fit(self.width)
        if fit is not None and len(self.rows) + len(rows) > fit:
            raise ConfigError(
                f"memory_budget={self.settings.memory_budget} holds {fit:,} rows, and {len(self.rows):,} are there: "
                f"{len(rows):,} more do not fit. Fit anew with lit-od refit, which thins the bank"
            )
        kept = np.concatenate([self.rows, _stored(rows, self.settings)])
        steps = None if self.steps is None else np.concatenate([self.steps, _steps(rows)])
        return self._of(self.settings, kept, self.centre, self.scale, steps)._indexed()

    def _indexed(self) -> Self:
        """Return the bank with an index of all rows, where the options want one."""
        if self.is_exact:
            return self
        index = faiss_index.build(self.settings.index, _single(self.rows), self.settings.search)
        return replace(self, index=index)

    @property
    def is_exact(self) -> bool:
        """True if the search finds the nearest rows for certain."""
        return faiss_index.is_flat(self.settings.index)

    @classmethod
    def _of(
        cls, settings: BankOptions, rows: NDArray[Any], centre: Stats, scale: Stats, steps: NDArray[np.float32] | None
    ) -> Self:
        return cls(settings, read_only(rows), read_only(centre), read_only(scale), steps, None)

    @property
    def width(self) -> int:
        """Features an image, d."""
        return len(self.centre)

    def prepare(self, features: Features) -> NDArray[np.float32]:
        """Prepare features of shape (n, d) as the bank's rows are, in float32.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        return _prepare(check_features(features, self.width), self.centre, self.scale, self.settings.metric)

    def nearest(self, queries: NDArray[np.float32], k: int, skip: Ids | None = None) -> tuple[Stats, Ids]:
        """Return distances, ascending, and numbers of the k nearest rows, each (n, k).

        Args:
            queries: Prepared features, shape (n, d).
            k: Number of rows, less than the bank's if some are skipped.
            skip: A row of the bank that does not count, for each query: itself; shape (n,).

        Raises:
            DataError: If the queries lie too far away to be measured.
        """
        if not np.isfinite(queries).all():
            raise DataError("features lie too far from the bank to be measured in float32. Check their scale.")
        if skip is None:
            return self._nearest(queries, k)
        distances, ids = self._nearest(queries, k + 1)
        distances[ids == skip[:, None]] = np.inf
        return _first(distances, ids, k)

    def _nearest(self, queries: NDArray[np.float32], wanted: int) -> tuple[Stats, Ids]:
        count = candidates(len(self.rows), wanted)
        if self.index is None:
            return self._nearest_of_all(queries, wanted, count)
        ids = faiss_index.propose(self.index, queries, count)
        if ids.size and (ids.max() >= len(self.rows) or ids.min() < -1):
            raise DataError("the FAISS index names rows that the bank does not hold; fit the detector anew")
        distances, found = self._decided(queries, ids, wanted)
        short = np.flatnonzero((ids < 0).any(axis=1))  # an inverted list that holds too few
        if len(short):
            distances[short], found[short] = self._nearest_of_all(queries[short], wanted, count)
        return distances, found

    def _nearest_of_all(self, queries: NDArray[np.float32], wanted: int, count: int) -> tuple[Stats, Ids]:
        near, ids = self._exact.nearest(queries, count)
        distances, found = self._decided(queries, ids, wanted)
        for row in self._exact.incomplete(queries, near, wanted) if count < len(self.rows) else ():
            query = queries[row : row + 1]
            distances[row], found[row] = self._decided(query, self._exact.possible(query[0], wanted)[None], wanted)
        return distances, found

    @property
    def _exact(self) -> ExactSearch:
        if not self._searches:
            self._searches.append(ExactSearch.of(self.rows, cosine=self.settings.metric == "cosine"))
        return self._searches[0]

    def _decided(self, queries: NDArray[np.float32], ids: Ids, wanted: int) -> tuple[Stats, Ids]:
        """Return exact distances and numbers of the nearest among some rows.

        Both have shape (n, wanted), nearest first; ids (n, c) are the rows to choose from.
        """
        distances = np.empty(ids.shape)
        across = max(1, CACHED_VALUES // self.width)  # rows of the bank that are compared at once
        down = max(1, across // ids.shape[1])
        for start in range(0, len(queries), down):
            part = slice(start, start + down)
            for first in range(0, ids.shape[1], across):
                some = (part, slice(first, first + across))
                distances[some] = self.distances(queries[part], ids[some])
        return _first(distances, ids, wanted)

    def distances(self, queries: NDArray[np.float32], ids: Ids) -> Stats:
        """Return exact distances of queries (n, d) to rows ids (n, c), shape (n, c)."""
        return self._measured(queries.astype(np.float64)[:, None], self.rows[ids].astype(np.float64))

    def between(self, queries: NDArray[np.float32], row: NDArray[np.float32]) -> Stats:
        """Return distances, (n,), of queries (n, d) to a row (d,) that may be added."""
        stored = _stored(row, self.settings).astype(np.float64)
        rows = np.repeat(stored[None, None], len(queries), axis=0)  # (n, 1, d)
        return self._measured(queries.astype(np.float64)[:, None], rows)[:, 0]

    def _measured(self, points: Stats, rows: Stats) -> Stats:
        """Return distances (n, c) of points (n, 1, d) to rows (n, c, d); changes rows."""
        if self.settings.metric == "l2":
            rows -= points
            distances: Stats = np.sqrt(np.einsum("ncd,ncd->nc", rows, rows))
            return distances
        row_lengths = np.sqrt(np.einsum("ncd,ncd->nc", rows, rows))
        lengths = np.sqrt(np.einsum("ncd,ncd->nc", points, points))
        zero = (row_lengths == 0) | (lengths == 0)
        rows /= np.where(row_lengths == 0, 1, row_lengths)[..., None]
        rows -= points / np.where(lengths == 0, 1, lengths)[..., None]
        # |u - v|^2 / 2 is 1 - u . v for vectors of length 1, without its cancellation.
        halves: Stats = np.einsum("ncd,ncd->nc", rows, rows) / 2
        return np.where(zero, 1.0, halves)

    def codes(self) -> NDArray[Any]:
        """Return the rows in the bank's precision: int8 where it has steps."""
        return self.rows if self.steps is None else np.rint(self.rows / self.steps).astype(np.int8)

    def state(self) -> Arrays:
        """Return the bank, its standardisation and steps, and the index unless flat."""
        arrays: Arrays = {"bank": self.codes(), "centre": self.centre, "scale": self.scale}
        if self.steps is not None:
            arrays["steps"] = self.steps[:, 0]
        if not faiss_index.is_flat(self.settings.index):
            arrays["index"] = faiss_index.to_bytes(self.index)
        return arrays

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings and arrays, since FAISS' indexes cannot be pickled."""
        return type(self).from_state, (self.settings, self.state())

    @staticmethod
    def names(settings: BankOptions) -> list[str]:
        """Return the names of the arrays of a bank's state."""
        steps = ["steps"] if settings.precision == "int8" else []
        return ["bank", "centre", "scale", *steps] + ([] if faiss_index.is_flat(settings.index) else ["index"])

    @classmethod
    def from_state(cls, settings: BankOptions, state: Arrays) -> Self:
        """Rebuild from the arrays.

        Raises:
            DataError: If they do not fit the options or each other.
        """
        rows, steps = take(state, "bank", (None, None), _TYPES[settings.precision], most=REACH), None
        if settings.precision == "int8":
            steps = take(state, "steps", (len(rows),), np.float32, most=REACH / 128)[:, None]
            if not (steps > 0).all():
                raise DataError("array 'steps' of the state must be positive; fit the detector anew")
            rows = rows * steps
        centre = take(state, "centre", (rows.shape[1],))
        scale = take(state, "scale", (rows.shape[1],))
        if not (scale >= SMALLEST).all():
            raise DataError("array 'scale' of the state must be positive; fit the detector anew")
        index = None
        if not faiss_index.is_flat(settings.index):
            serialised = take(state, "index", (None,), np.uint8)
            index = faiss_index.from_bytes(serialised, settings.index, len(rows), rows.shape[1], settings.search)
            faiss_index.propose(index, _single(rows[:2]), 1)  # what FAISS refuses, it refuses before an image comes
        return replace(cls._of(settings, rows, centre, scale, steps), index=index)


def candidates(rows: int, wanted: int) -> int:
    """Return how many of a bank's rows a search proposes, for those wanted."""
    return min(rows, wanted + max(4, wanted // 5))


def _first(distances: Stats, ids: Ids, count: int) -> tuple[Stats, Ids]:
    """Return the nearest rows, (n, count), of (n, c); ties go to the lower number."""
    order = np.lexsort((ids, distances), axis=-1)[:, :count]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _blocks(rows: NDArray[Any]) -> list[NDArray[Any]]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def _steps(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the value of one step of each row, (..., 1): 127 reach its farthest."""
    farthest = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(MOST_STEPS)
    return read_only(np.where(farthest > 0, farthest, 1).astype(np.float32))


def _stored(rows: NDArray[np.float32], settings: BankOptions) -> NDArray[Any]:
    """Return rows as the bank's precision holds them.

    Raises:
        DataError: If half precision does not hold them.
    """
    if settings.precision == "int8":
        steps = _steps(rows)
        return np.asarray(np.rint(rows / steps) * steps, np.float32)
    if settings.precision != "fp16":
        return rows
    with np.errstate(over="ignore"):
        half = rows.astype(np.float16)
    if not np.isfinite(half).all():
        raise DataError("features reach beyond 65,504, which fp16 holds. Pass standardise=True.")
    return half


def _single(rows: NDArray[Any]) -> NDArray[np.float32]:
    return rows.astype(np.float32, copy=False)


def _standard(rows: NDArray[np.float32]) -> tuple[Stats, Stats]:
    """Return mean and standard deviation, each (d,); 1 for constant features.

    Two passes over blocks that are cut by row number.
    """
    first = rows[0].astype(np.float64)
    mean = sum((block - first).sum(axis=0) for block in _blocks(rows)) / len(rows) + first
    variance = sum(((block - mean) ** 2).sum(axis=0) for block in _blocks(rows)) / len(rows)
    deviation = np.sqrt(variance)
    varies = deviation > np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(varies, deviation, 1.0)


def _prepare(features: Features, centre: Stats, scale: Stats, metric: Metric) -> NDArray[np.float32]:
    prepared = np.empty(features.shape, dtype=np.float32)
    step = max(1, CACHED_VALUES // features.shape[1])
    for start in range(0, len(features), step):
        block = features[start : start + step] - centre
        block /= scale
        if metric == "cosine":
            lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
            block /= np.where(lengths == 0, 1, lengths)[:, None]
        with np.errstate(over="ignore"):
            prepared[start : start + step] = block
    return prepared
