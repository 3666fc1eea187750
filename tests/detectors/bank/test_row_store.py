import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.detectors.bank.row_store import RowStore, row_ranks
from lit_od.errors import DataError

ROWS = np.arange(600, dtype=np.float32).reshape(300, 2)


def kept(store):
    return store.rows()[:, 0].astype(int) // 2


@pytest.mark.parametrize("options", [{}, {"limit": 40}, {"limit": 1}, {"limit": 500}, {"share": 0.3}])
@given(cuts=st.lists(st.integers(0, 300), max_size=6))
@settings(max_examples=20)
def test_any_split_and_merge_keep_the_same_rows_in_order(options, cuts):
    whole, stream, merged = (RowStore(seed=5, **options) for _ in range(3))
    whole.update(ROWS)
    start = 0
    for part in np.split(ROWS, sorted(cuts)):
        stream.update(part)
        other = RowStore(start, seed=5, **options)
        other.update(part)
        merged.merge(other)
        start += len(part)
    assert (np.diff(kept(whole)) > 0).all()
    for store in (stream, merged):
        np.testing.assert_array_equal(store.rows(), whole.rows())
        assert store.seen == 300
    if "limit" in options:
        assert len(whole.rows()) == min(options["limit"], 300)


def test_the_sample_is_seeded_and_uniform():
    samples = []
    for seed in range(200):
        store = RowStore(seed=seed, limit=30)
        store.update(ROWS)
        samples.append(kept(store))
    counts = np.bincount(np.concatenate(samples), minlength=300)
    assert counts.sum() == 6000
    chi_squared = ((counts - 20) ** 2 / 18).sum()  # 299 degrees of freedom
    assert 200 < chi_squared < 420
    assert (samples[0] != samples[1]).any()


def test_ranks_are_uniform_whatever_the_seed():
    for seed in (0, 1, 2**32 - 1):
        ranks = row_ranks(seed, np.arange(20_000, dtype=np.uint64)) / 2.0**64
        assert abs(ranks.mean() - 0.5) < 0.01
        assert abs(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]) < 0.03


def test_memory_is_bounded_by_the_limit():
    store = RowStore(limit=10)
    for _ in range(50):
        store.update(ROWS)
    assert sum(len(chunk) for chunk in store._chunks) <= 20


def test_refusals():
    store, again, wider = RowStore(limit=10), RowStore(limit=10), RowStore(300, limit=10)
    store.update(ROWS)
    again.update(ROWS)
    wider.update(np.ones((4, 3)))
    with pytest.raises(DataError, match="must have first_row=300, got 0"):
        store.merge(again)
    with pytest.raises(DataError, match="must have one width, got 2 and 3"):
        store.merge(wider)
    with pytest.raises(DataError, match="must fit into float32"):
        store.update(np.full((1, 2), 1e39))
