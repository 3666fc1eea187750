"""Exact search by matrix products: candidates, and the bound that proves them.

The graph runs in ONNX Runtime, whose product uses the processor's own instructions. FAISS' wheel brings a BLAS of
2021, which takes new processors for old ones.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.formats import onnx_writer
from lit_od.runtime.onnx_session import CPU, Device, Session, current_device, value_on
from lit_od.runtime.threads import allowed_threads
from lit_od.types import Stats

Ids: TypeAlias = NDArray[np.int64]
Single: TypeAlias = NDArray[np.float32]

BANK_ROWS = 8192
"""Rows of the bank in one product."""

QUERIES = 512
"""Queries in one product: with `BANK_ROWS` 16 MB of results."""

FEW = 4
"""Queries up to which numpy's products of the bank with one query at a time take less time than the graph."""

ALONE = 1 << 26
"""Multiplications that one thread does sooner than a second is woken."""

ERROR = 32 * float(np.finfo(np.float32).eps)
"""Largest error of a squared distance that comes from a float32 product, in units of (|q| + |x|)^2.

Measured for ONNX Runtime at widths up to `MEASURED_WIDTH`; beyond, it grows with the root of the width.
"""

ROUNDED = 8 * float(np.finfo(np.float32).eps)
"""Largest difference from 1 of lengths that are 1 in float32: a quarter of `ERROR`, which was measured with it."""

MEASURED_WIDTH = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ExactSearch:
    """A bank that is searched whole.

    The squared distance of query q and row x is |q|^2 + |x|^2 - 2 q.x, so that rows are ranked by q.x - |x|^2 / 2. For
    the cosine all rows count as being of length 1, the zero row too: it is at 1 from every other.

    Attributes:
        rows: The bank, float32 or float16, shape (m, d).
        halves: Half the squared length of each row, float32, shape (m,).
        weights: Factor of each row, float32, shape (m, 1): one, or for the cosine the inverse of its length, which half
            precision and int8 leave near 1. None for float32 rows that need none.
        longest: Length of the longest row.
    """

    rows: NDArray[Any]
    halves: Single
    weights: Single | None
    longest: float
    _held: dict[Device, list[tuple[slice, dict[str, Any]]]] = field(default_factory=dict, init=False, repr=False)
    """Inputs of the graph that hold the bank, block by block, for each device that has searched it."""

    @classmethod
    def of(cls, rows: NDArray[Any], *, cosine: bool) -> Self:
        """Measure the rows of a bank.

        Args:
            rows: Float32 or float16, shape (m, d).
            cosine: Compare directions alone.
        """
        parts = (rows[block] for block in _blocks(len(rows), BANK_ROWS))
        squares = np.concatenate([np.einsum("ij,ij->i", part, part, dtype=np.float64) for part in parts])
        weights = np.ones_like(squares)
        if cosine:
            weights, squares = 1 / np.sqrt(np.where(squares == 0, 1, squares)), np.ones_like(squares)
        weighted = rows.dtype == np.float16 or np.abs(weights - 1).max() > ROUNDED
        return cls(
            rows,
            (squares / 2).astype(np.float32),
            weights.astype(np.float32)[:, None] if weighted else None,
            float(np.sqrt(squares.max())),
        )

    def nearest(self, queries: Single, count: int) -> tuple[Stats, Ids]:
        """Return approximate squared distances and numbers of the nearest rows.

        Both have shape (n, count), nearest first.

        Args:
            queries: Shape (n, d).
            count: Rows to find for each, at most m.
        """
        values = np.empty((len(queries), count), np.float32)
        ids = np.empty((len(queries), count), np.int64)
        few = len(queries) <= FEW and self.weights is None and current_device() == CPU
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # where values are not finite, the candidates are not trusted
            for part in _blocks(len(queries), QUERIES):
                found = self._by_query(queries[part], count) if few else self._by_graph(queries[part], count)
                values[part], ids[part] = found
            return np.maximum(_squares(queries)[:, None] - 2.0 * values, 0.0), ids

    def incomplete(self, queries: Single, near: Stats, wanted: int) -> NDArray[np.intp]:
        """Return the queries whose candidates may lack one of the nearest rows.

        A row that lacks has |x| < |q| + d, with d the distance of the last one wanted. Unless the last candidate is
        farther than the last one wanted by more than the error of both, there may be such a row.

        Args:
            queries: Shape (n, d).
            near: Approximate squared distances of their candidates, ascending, shape (n, count).
            wanted: Rows wanted, less than count.
        """
        lengths = np.sqrt(_squares(queries))
        with np.errstate(invalid="ignore"):
            last = near[:, wanted - 1]
            reach = lengths + np.minimum(lengths + np.sqrt(last), self.longest)
            return np.flatnonzero(~(near[:, -1] - last > 2 * self.error * reach**2))

    def possible(self, query: Single, wanted: int) -> Ids:
        """Return the numbers of all rows that may be among the nearest, ascending.

        Args:
            query: Shape (d,).
            wanted: Rows wanted, at most m.
        """
        length = np.sqrt(_squares(query[None])[0])
        with np.errstate(over="ignore", invalid="ignore"):
            distances = length**2 - 2.0 * self._values(query)
            error = self.error * (length + np.sqrt(2.0 * self.halves)) ** 2
            bound = np.partition(distances + error, wanted - 1)[wanted - 1]
            return np.flatnonzero(~(distances - error > bound))

    @property
    def error(self) -> float:
        """Largest error of a squared distance, in units of (|q| + |x|)^2."""
        return ERROR * math.sqrt(max(1.0, self.rows.shape[1] / MEASURED_WIDTH))

    def _values(self, query: Single) -> Single:
        """Return what rows are ranked by, highest first, for one query, shape (m,)."""
        if self.weights is None:
            products = self.rows @ query
        else:
            parts = ((self.rows[block], self.weights[block]) for block in _blocks(len(self.rows), BANK_ROWS))
            products = np.concatenate([(rows.astype(np.float32) * weights) @ query for rows, weights in parts])
        values: Single = products - self.halves
        return values

    def _by_query(self, queries: Single, count: int) -> tuple[Single, Ids]:
        values = np.stack([self._values(query) for query in queries])
        ids = np.argpartition(-values, count - 1, axis=1)[:, :count]
        return _sorted(np.take_along_axis(values, ids, axis=1), ids)

    def _by_graph(self, queries: Single, count: int) -> tuple[Single, Ids]:
        device = current_device()
        small = len(queries) * self.rows.size <= ALONE
        session = _session(self.rows.dtype.name, self.weights is not None, 1 if small else allowed_threads(), device)
        sent = value_on(queries, device)
        found = []
        for block, held in self._inputs(device):
            wanted = np.array([min(count, block.stop - block.start)])
            feeds = {"queries": sent, "count": value_on(wanted, CPU), **held}
            values, ids = session.opened.run_with_ort_values(["values", "ids"], feeds)
            found.append((values.numpy(), ids.numpy() + block.start))
        values, ids = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        if len(found) > 1:
            best = np.argpartition(-values, count - 1, axis=1)[:, :count]
            values, ids = np.take_along_axis(values, best, axis=1), np.take_along_axis(ids, best, axis=1)
        return _sorted(values, ids)

    def _inputs(self, device: Device) -> list[tuple[slice, dict[str, Any]]]:
        if device not in self._held:
            names = {"bank": self.rows, "halves": self.halves} | (
                {} if self.weights is None else {"weights": self.weights}
            )
            self._held[device] = [
                (block, {name: value_on(array[block], device) for name, array in names.items()})
                for block in _blocks(len(self.rows), BANK_ROWS)
            ]
        return self._held[device]


def _sorted(values: Single, ids: Ids) -> tuple[Single, Ids]:
    """Sort values, the highest first, and their row numbers, (n, count) each."""
    order = np.argsort(-values, axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _squares(queries: Single) -> Stats:
    squares: Stats = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    return squares


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@cache
def _session(kind: str, weighted: bool, threads: int, device: Device) -> Session:
    """Open the graph that ranks a block of the bank for each query.

    Args:
        kind: Element type of the bank, float32 or float16.
        weighted: Its rows have weights.
        threads: Threads of a run.
        device: Device that runs it.
    """
    port, node = onnx_writer.port, onnx_writer.node
    inputs = [
        port("queries", np.float32, ("n", "d")),
        port("bank", kind, ("m", "d")),
        port("halves", np.float32, ("m",)),
        port("count", np.int64, (1,)),
    ]
    nodes = []
    if weighted:
        inputs.append(port("weights", np.float32, ("m", 1)))
        nodes += [node("Cast", ["bank"], ["wide"], to=onnx_writer.ELEMENT_TYPES["float32"])]
        nodes += [node("Mul", ["wide", "weights"], ["rows"])]
    nodes += [
        node("Gemm", ["queries", "rows" if weighted else "bank", "halves"], ["products"], transB=1, beta=-1.0),
        node("TopK", ["products", "count"], ["values", "ids"], sorted=0),
    ]
    outputs = [port("values", np.float32, ("n", "k")), port("ids", np.int64, ("n", "k"))]
    graph = onnx_writer.model(nodes, inputs, outputs)
    return Session(graph, threads=threads, providers=[device.provider], device=device.number, exact=True)
