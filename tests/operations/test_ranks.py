"""Ranks in fixed bins, against sorted scores; bins in the order of float32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.operations.ranks import BINS, BinCounts, bin_of

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=2, max_size=30))
def test_bins_keep_the_order_of_float32(scores: list[float]) -> None:
    largest = np.finfo(np.float32).max
    singles = np.clip(np.array(scores), -largest, largest).astype(np.float32)
    bins = np.array([bin_of(score) for score in scores])
    assert ((bins >= 0) & (bins < BINS)).all()
    order = np.argsort(singles, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    for one in range(len(scores)):
        assert (bins[singles == singles[one]] == bins[one]).all()


@pytest.mark.parametrize("score", [1.0, -1.0, 3.75e5, -2e-30, 1e-3])
def test_bins_part_scores_that_differ_by_a_thousandth(score: float) -> None:
    low, high = sorted([score, 1.001 * score])
    assert bin_of(low) < bin_of(high)


def test_odd_scores_have_their_bins() -> None:
    zero, minus, huge, largest = map(bin_of, (0.0, -0.0, 1e200, float(np.finfo(np.float32).max)))
    assert zero == minus
    assert huge == largest > zero
    assert bin_of(5e-324) == bin_of(-5e-324) == zero
    assert (bin_of(-1e200), bin_of(-1.0), bin_of(1.0)) == (2048, 264_191, 784_384)


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from([0, 1, 2, 1000, 524_287, 524_288, BINS - 2, BINS - 1]) | st.integers(0, BINS - 1), max_size=40
    )
)
def test_the_tree_counts_as_sorting_does(places: list[int]) -> None:
    counts = BinCounts()
    for number, place in enumerate(places, start=1):
        counts.add(place)
        seen = np.array(places[:number])
        assert counts.total == number
        assert counts.rank(place) == ((seen > place).sum(), (seen == place).sum())
        assert counts.below(place) == (seen < place).sum()
