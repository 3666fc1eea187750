"""Detectors that search a flat memory bank as nodes of an ONNX graph.

As in the scorer, a float32 product proposes candidates, and differences in double decide among them. Where the bound of
the product's error leaves room for a row that was not proposed, differences over the whole bank decide.
"""

from dataclasses import dataclass

import numpy as np

from lit_od.detectors.bank.faiss_index import is_flat
from lit_od.detectors.bank.memory_bank import Bank, candidates
from lit_od.detectors.bank.onnx_search import ExactSearch
from lit_od.detectors.knn import KNN
from lit_od.detectors.local_residual import LocalResidual
from lit_od.detectors.lof import LOF
from lit_od.errors import ConfigError
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_builder import GraphBuilder


@dataclass(frozen=True, slots=True)
class BankNodes:
    """A bank in a graph.

    Attributes:
        bank: The bank.
        rows: Its rows, float32, (m, d).
    """

    bank: Bank
    rows: str

    @classmethod
    def of(cls, graph: GraphBuilder, bank: Bank) -> "BankNodes":
        """Add a bank's rows.

        Raises:
            ConfigError: If it is not flat.
        """
        if not is_flat(bank.settings.index):
            raise ConfigError(
                f"a model file searches flat banks, this one has the index {bank.settings.index}: "
                "fit it anew with lit-od refit --detector.index flat"
            )
        codes = bank.codes()
        rows = graph.constant(codes, codes.dtype)
        if codes.dtype != np.float32:
            rows = graph.cast(rows, np.float32)
        return cls(bank, rows if bank.steps is None else graph.op("Mul", rows, graph.constant(bank.steps, np.float32)))

    def prepared(self, graph: GraphBuilder, features: str) -> str:
        """Add features (n, d) as the bank's rows are, float32."""
        bank = self.bank
        if not bank.centre.any() and (bank.scale == 1).all() and bank.settings.metric == "l2":
            return features
        wide = graph.cast(features, np.float64)
        if bank.centre.any():
            wide = graph.op("Sub", wide, graph.constant(bank.centre))
        if (bank.scale != 1).any():
            wide = graph.op("Div", wide, graph.constant(bank.scale))
        if bank.settings.metric == "cosine":
            wide = _unit(graph, wide)
        return graph.cast(wide, np.float32)

    def nearest(self, graph: GraphBuilder, queries: str, wanted: int) -> tuple[str, str]:
        """Add distances (n, k), ascending, and numbers (n, k) of the nearest rows.

        Args:
            graph: The graph.
            queries: Prepared features, float32, (n, d).
            wanted: Number of rows, k.
        """
        bank = self.bank
        count = candidates(len(bank.rows), wanted)
        search = ExactSearch.of(bank.rows, cosine=bank.settings.metric == "cosine")
        rows = (
            self.rows
            if search.weights is None
            else graph.op("Mul", self.rows, graph.constant(search.weights, np.float32))
        )
        halves = graph.constant(search.halves, np.float32)
        products = graph.op("Gemm", queries, rows, halves, transB=1, beta=-1.0)
        values, proposed = graph.ops("TopK", 2, products, graph.integers(count), axis=1)
        ids, _ = graph.ops("TopK", 2, proposed, graph.integers(count), axis=1, largest=0)  # ties go to the lower number
        distances, found = self._decided(graph, queries, ids, wanted)
        if count == len(bank.rows):
            return distances, found
        lacking = self._incomplete(graph, queries, values, search, wanted)
        return self._mended(graph, queries, lacking, (distances, found), wanted)

    def distances(self, graph: GraphBuilder, queries: str, ids: str) -> str:
        """Add exact distances of queries (n, d) to rows ids (n, c), double, (n, c).

        Args:
            graph: The graph.
            queries: Prepared features, float32.
            ids: Numbers of rows, int64.
        """
        rows = graph.cast(graph.op("Gather", self.rows, ids, axis=0), np.float64)  # (n, c, d)
        points = graph.op("Unsqueeze", graph.cast(queries, np.float64), graph.integers(1))
        return self._compared(graph, rows, points)

    def _compared(self, graph: GraphBuilder, rows: str, points: str) -> str:
        """Add the distances of rows (..., d) and points that go with them."""
        if self.bank.settings.metric == "l2":
            return graph.op("Sqrt", graph.squared_norms(graph.op("Sub", rows, points)))
        zero = graph.constant(0.0)
        of_rows, of_points = (graph.squared_norms(each) for each in (rows, points))
        gaps = graph.squared_norms(graph.op("Sub", _unit(graph, rows), _unit(graph, points)))
        either = graph.op("Or", graph.op("Equal", of_rows, zero), graph.op("Equal", of_points, zero))
        return graph.op("Where", either, graph.constant(1.0), graph.op("Mul", gaps, graph.constant(0.5)))

    def _decided(self, graph: GraphBuilder, queries: str, ids: str, wanted: int) -> tuple[str, str]:
        exact = self.distances(graph, queries, ids)
        distances, places = graph.ops("TopK", 2, exact, graph.integers(wanted), axis=1, largest=0)
        return distances, graph.op("GatherElements", ids, places, axis=1)

    def _incomplete(self, graph: GraphBuilder, queries: str, values: str, search: ExactSearch, wanted: int) -> str:
        """Add True for queries whose candidates may lack one of the nearest rows, (n, 1)."""
        squares = graph.squared_norms(graph.cast(queries, np.float64), keep=True)  # (n, 1)
        twice = graph.op("Mul", graph.cast(values, np.float64), graph.constant(2.0))
        near = graph.op("Max", graph.op("Sub", squares, twice), graph.constant(0.0))
        last = graph.column(near, wanted - 1, 1)
        lengths = graph.op("Sqrt", squares)
        reach = graph.op("Min", graph.op("Add", lengths, graph.op("Sqrt", last)), graph.constant(search.longest))
        reach = graph.op("Add", lengths, reach)
        bound = graph.op("Mul", graph.op("Mul", reach, reach), graph.constant(2 * search.error))
        gap = graph.op("Sub", graph.column(near, -1, 1), last)
        return graph.op("Not", graph.op("Greater", gap, bound))

    def _mended(
        self, graph: GraphBuilder, queries: str, lacking: str, found: tuple[str, str], wanted: int
    ) -> tuple[str, str]:
        """Add a choice: queries that may lack a row are compared to the whole bank."""
        any_lacks = graph.op("ReduceMax", graph.cast(lacking, np.int32), keepdims=0)
        condition = graph.cast(any_lacks, np.bool_)
        with graph.inner() as then:
            which = graph.op("Transpose", graph.op("NonZero", graph.reshape(lacking, -1)), perm=[1, 0])  # (r, 1)
            some = graph.op("GatherND", queries, which)
            body, point = self._of_the_whole_bank(graph, wanted)
            several = graph.ops("Scan", 2, some, body=body, num_scan_inputs=1)
            mended = [graph.op("ScatterND", old, which, new) for old, new in zip(found, several, strict=True)]
            del point
        with graph.inner() as other:
            kept = [graph.op("Identity", each) for each in found]
        shape = (graph.name("rows"), wanted)  # of patches there are several an image
        outputs = list(zip(mended, kept, (np.float64, np.int64), (shape, shape), strict=True))
        distances, ids = graph.branches(condition, outputs, then, other)
        return distances, ids

    def _of_the_whole_bank(self, graph: GraphBuilder, wanted: int) -> tuple[bytes, str]:
        """Return the body of a loop over queries: one against all rows."""
        point = graph.name("query")
        with graph.inner() as nodes:
            one = graph.op("Unsqueeze", graph.cast(point, np.float64), graph.integers(0))  # (1, d)
            exact = self._compared(graph, graph.cast(self.rows, np.float64), one)
            found = graph.ops("TopK", 2, exact, graph.integers(wanted), axis=0, largest=0)
        ports = [
            onnx_writer.port(name, kind, (wanted,)) for name, kind in zip(found, (np.float64, np.int64), strict=True)
        ]
        return onnx_writer.graph(nodes, [onnx_writer.port(point, np.float32, (self.bank.width,))], ports), point


def knn(graph: GraphBuilder, detector: KNN, features: str) -> str:
    """Add the mean or the k-th distance of features (n, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    bank = BankNodes.of(graph, detector.bank)
    distances, _ = bank.nearest(graph, bank.prepared(graph, features), detector.settings.k)
    if detector.settings.reduce == "kth":
        return graph.reshape(graph.column(distances, -1, 1), -1)
    return graph.mean(distances, 1)


def lof(graph: GraphBuilder, detector: LOF, features: str) -> str:
    """Add the local outlier factors of features (n, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    bank = BankNodes.of(graph, detector.bank)
    distances, ids = bank.nearest(graph, bank.prepared(graph, features), detector.settings.k)
    reach = graph.op("Max", distances, graph.op("Gather", graph.constant(detector.k_distances), ids, axis=0))
    inverse = graph.op("Add", graph.mean(reach, 1), graph.constant(1e-10))  # of the density of the query
    around = graph.op("Gather", graph.constant(detector.densities), ids, axis=0)
    return graph.op("Mul", graph.mean(around, 1), inverse)


def local_residual(graph: GraphBuilder, detector: LocalResidual, features: str) -> str:
    """Add the distances of features (n, d) to the hulls of their nearest rows.

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    bank, count = BankNodes.of(graph, detector.bank), detector.settings.k
    queries = bank.prepared(graph, features)
    _, ids = bank.nearest(graph, queries, count)
    near = graph.cast(graph.op("Gather", bank.rows, ids, axis=0), np.float64)  # (n, k, d)
    mean = graph.op("ReduceMean", near, graph.integers(1), keepdims=1)  # (n, 1, d)
    hull = graph.op("Sub", near, mean)
    offset = graph.op("Sub", graph.op("Unsqueeze", graph.cast(queries, np.float64), graph.integers(1)), mean)
    products = graph.op("MatMul", hull, graph.op("Transpose", hull, perm=[0, 2, 1]))  # (n, k, k)
    identity = graph.constant(np.eye(count))
    trace = graph.op("ReduceSum", graph.op("Mul", products, identity), graph.integers(1, 2), keepdims=1)
    spread = graph.op("Div", trace, graph.constant(float(count)))
    spread = graph.op("Where", graph.op("Greater", spread, graph.constant(0.0)), spread, graph.constant(1.0))
    price = graph.op("Mul", spread, graph.constant(detector.settings.ridge))  # (n, 1, 1)
    system = graph.op("Add", products, graph.op("Mul", price, identity))
    right = graph.op("MatMul", hull, graph.op("Transpose", offset, perm=[0, 2, 1]))  # (n, k, 1)
    weights = _solved(graph, system, right, count)  # (n, k, 1)
    turned = graph.op("Transpose", weights, perm=[0, 2, 1])
    left = graph.op("Sub", offset, graph.op("MatMul", turned, hull))  # (n, 1, d)
    paid = graph.op("Mul", graph.reshape(price, -1, 1), graph.squared_norms(turned))
    return graph.reshape(graph.op("Sqrt", graph.op("Add", graph.squared_norms(left), paid)), -1)


def _solved(graph: GraphBuilder, system: str, right: str, count: int) -> str:
    """Add the solutions (n, k, 1) of linear systems (n, k, k).

    They are symmetric and positive definite: Gauss and Jordan's elimination needs no pivoting.
    """
    table = graph.op("Concat", system, right, axis=2)  # (n, k, k + 1)
    for place in range(count):
        row = graph.column(table, place, 1)  # (n, 1, k + 1)
        unit = np.zeros((1, count, 1))
        unit[0, place] = 1
        factor = graph.op("Sub", graph.column(table, place, 2), graph.constant(unit))
        factor = graph.op("Div", factor, graph.column(row, place, 2))  # (n, k, 1)
        table = graph.op("Sub", table, graph.op("Mul", factor, row))
    return graph.column(table, count, 2)


def _unit(graph: GraphBuilder, rows: str) -> str:
    """Add rows (..., d) divided by their length; rows of zeros stay."""
    length = graph.op("Sqrt", graph.squared_norms(rows, keep=True))
    length = graph.op("Where", graph.op("Equal", length, graph.constant(0.0)), graph.constant(1.0), length)
    return graph.op("Div", rows, length)
