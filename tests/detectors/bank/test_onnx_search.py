"""The exact search: candidates that are proven complete, and the same bits whichever way they are proposed."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from lit_od.detectors import KNN
from lit_od.detectors.bank import onnx_search
from lit_od.detectors.bank.memory_bank import Bank
from lit_od.detectors.bank.onnx_search import ExactSearch
from lit_od.runtime.threads import limited

Rows = NDArray[np.float32]


def adversarial(kind: str, count: int, width: int, seed: int) -> Rows:
    """Make rows among which float32 products find the wrong neighbours."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, width))
    if kind == "duplicates":
        rows = rows[rng.integers(0, max(1, count // 7), count)]
    elif kind == "constant":
        rows[:] = rows[0]
    elif kind == "clusters":
        rows = rows * 1e-3 + np.where(np.arange(count)[:, None] % 2, 500.0, -300.0)
    elif kind == "offset":
        rows += 1e4
    elif kind == "scales":
        rows *= 10.0 ** rng.integers(-6, 7, (count, 1))
    elif kind == "outlier":
        rows[0] *= 1e6
    elif kind == "zeros":
        rows[rng.random(count) < 0.5] = 0
    return rows.astype(np.float32)


KINDS = ["plain", "duplicates", "constant", "clusters", "offset", "scales", "outlier", "zeros"]


def textbook(bank: Bank, queries: Rows, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and numbers of the nearest rows, in float64, ties by row number."""
    points, rows = queries.astype(float), bank.rows.astype(float)
    if bank.settings.metric == "l2":
        distances = cdist(points, rows)
    else:
        lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (points, rows)]
        units = [each / np.where(length == 0, 1, length) for each, length in zip((points, rows), lengths, strict=True)]
        distances = np.where((lengths[0] == 0) | (lengths[1].T == 0), 1.0, cdist(*units, "sqeuclidean") / 2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(6, 90), st.integers(1, 40)),
    metric=st.sampled_from(["l2", "cosine"]),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    k=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
@example(kind="outlier", shape=(60, 6), metric="cosine", precision="int8", k=1, seed=17)
def test_neighbours_are_those_of_the_textbook(
    kind: str, shape: tuple[int, int], metric: str, precision: str, k: int, seed: int
) -> None:
    rows = adversarial(kind, *shape, seed)
    detector = KNN.fit(rows, k=k, metric=metric, precision=precision, standardise=kind in ("scales", "outlier"))  # type: ignore[arg-type]
    bank = detector.bank
    queries = np.concatenate([bank.prepare(rows[:9]), bank.prepare(adversarial(kind, 4, shape[1], seed + 1))])
    distances, ids = bank.nearest(queries, k)
    expected, _ = textbook(bank, queries, k)
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-14)
    one_by_one = [bank.nearest(query[None], k) for query in queries]
    np.testing.assert_array_equal(np.concatenate([each for each, _ in one_by_one]), distances)
    np.testing.assert_array_equal(np.concatenate([each for _, each in one_by_one]), ids)
    assert all((np.diff(row)[np.diff(gap) == 0] > 0).all() for row, gap in zip(ids, distances, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "clusters"])
def test_blocks_threads_and_ways_give_the_same_bits(kind: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = adversarial(kind, 400, 24, 0)
    queries = adversarial(kind, 50, 24, 1)
    expected = KNN.fit(rows, precision=precision).score(queries)  # type: ignore[arg-type]
    for name, value in (("BANK_ROWS", 37), ("QUERIES", 7), ("FEW", 10**9), ("ALONE", 0)):
        monkeypatch.setattr(onnx_search, name, value)
        np.testing.assert_array_equal(KNN.fit(rows, precision=precision).score(queries), expected)  # type: ignore[arg-type]
    with limited(1):
        np.testing.assert_array_equal(KNN.fit(rows, precision=precision).score(queries), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [3, 640, 4096, 6000])
def test_errors_of_the_product_stay_within_the_bound(width: int) -> None:
    """The bound is what the proof rests on; it has to hold with room to spare."""
    rng = np.random.default_rng(width)
    rows = (rng.standard_normal((300, width)) + 3).astype(np.float32)
    queries = (rng.standard_normal((40, width)) - 2).astype(np.float32)
    search = ExactSearch.of(rows, cosine=False)
    near, ids = search.nearest(queries, 300)
    true = np.take_along_axis(cdist(queries.astype(float), rows.astype(float), "sqeuclidean"), ids, axis=1)
    lengths = np.linalg.norm(queries, axis=1)[:, None] + np.linalg.norm(rows, axis=1)[ids]
    assert (np.abs(near - true) / lengths**2).max() < search.error / 4


def test_candidates_in_doubt_are_told_from_proven_ones() -> None:
    plain = adversarial("plain", 500, 32, 0)
    search = ExactSearch.of(plain, cosine=False)
    near, _ = search.nearest(plain[:50], 9)
    assert len(search.incomplete(plain[:50], near, 5)) == 0
    same = ExactSearch.of(adversarial("constant", 500, 32, 0), cosine=False)
    near, _ = same.nearest(plain[:50], 9)
    assert len(same.incomplete(plain[:50], near, 5)) == 50
    np.testing.assert_array_equal(same.possible(plain[0], 5), np.arange(500))
    assert 5 <= len(search.possible(plain[0], 5)) < 20
