import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from lit_od.detectors.moments import BLOCK_ROWS, Moments, ledoit_wolf_shrinkage
from lit_od.errors import DataError


def rows(n, d, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / np.sqrt(d) + offset


def gathered(parts):
    moments = Moments(parts[0].shape[1])
    for part in parts:
        moments.update(part)
    return moments


def assert_same(a, b, rtol=1e-10):
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12, atol=1e-12)
    scale = np.abs(b.scatter).max()
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(a.third_moments, b.third_moments, rtol=rtol, atol=rtol * np.abs(b.third_moments).max())
    np.testing.assert_allclose(a.fourth_moments, b.fourth_moments, rtol=rtol)


def test_the_sums_are_their_textbook_forms():
    x = rows(300, 7, offset=5.0)
    moments = gathered([x])
    y = x - x.mean(axis=0)
    r2 = (y**2).sum(axis=1)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.scatter / 300, np.cov(x.T, bias=True), rtol=1e-11)
    np.testing.assert_allclose(moments.third_moments, (r2[:, None] * y).sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(moments.fourth_moments, (r2**2).sum(), rtol=1e-11)


@given(
    cuts=st.lists(st.integers(0, 400), max_size=8),
    order=st.randoms(use_true_random=False),
    offset=st.sampled_from([0.0, 1e4]),
)
@settings(max_examples=50)
def test_any_parts_merged_in_any_order_give_the_shrinkage_of_scikit_learn(cuts, order, offset):
    x = rows(400, 6, offset)
    parts = [gathered([part]) for part in np.split(x, sorted(cuts))]
    order.shuffle(parts)
    merged = Moments(6)
    for part in parts:
        merged.merge(part)
    assert merged.ledoit_wolf_shrinkage() == pytest.approx(LedoitWolf().fit(x).shrinkage_, rel=1e-9)
    assert_same(merged, gathered([x]), rtol=1e-9)


@pytest.mark.parametrize("batch", [1, 100, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_the_batch_size_changes_no_bit(batch):
    x = rows(2 * BLOCK_ROWS + 300, 4, offset=1e4)
    one, many = gathered([x]), gathered([x[i : i + batch] for i in range(0, len(x), batch)])
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, many.state()[name])


@pytest.mark.parametrize(("n", "d"), [(50, 100), (3000, 20), (2, 3), (40, 1)])
def test_shrinkage_is_that_of_scikit_learn_far_from_the_origin(n, d):
    x = rows(n, d, offset=1e4)
    expected = LedoitWolf().fit(x).shrinkage_
    assert gathered([x]).ledoit_wolf_shrinkage() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_shrinkage_of_an_isotropic_scatter_is_finite():
    x = np.concatenate([np.eye(3), -np.eye(3)])
    assert gathered([x]).ledoit_wolf_shrinkage() in (0.0, 1.0)


def test_a_constant_column_has_no_scatter_at_all():
    x = rows(2500, 3).astype(np.float32)
    x[:, 1] = 0.1
    moments = gathered([x[:1300], x[1300:]])
    assert (moments.scatter[1] == 0).all()
    assert moments.mean[1] == np.float32(0.1)


def test_one_row_and_an_empty_batch():
    moments = gathered([rows(1, 3), np.empty((0, 3))])
    assert moments.count == 1
    assert (moments.scatter == 0).all()
    np.testing.assert_array_equal(moments.mean, rows(1, 3)[0])
    moments.merge(Moments(3))
    assert moments.count == 1


def test_merging_leaves_the_other_as_it_was():
    a, b = gathered([rows(30, 4)]), gathered([rows(20, 4, seed=1)])
    before = b.state()
    Moments(4).merge(b)
    a.merge(b)
    a.update(rows(10, 4))
    for name, array in before.items():
        np.testing.assert_array_equal(array, b.state()[name])


FAR = np.full((1, 6), 1e6)
ORDERS = {
    "as many rows each": (rows(1920, 6), range(64, 1920, 64)),
    "means that drift": (rows(1920, 6) + np.linspace(0, 1e3, 1920)[:, None], range(64, 1920, 64)),
    "one row far away, then many parts": (np.concatenate([FAR, rows(100_000, 6)]), range(1, 100_000, 500)),
    "one row far away, then one part": (np.concatenate([FAR, rows(100_000, 6)]), [1]),
    "one row far away between two parts": (np.concatenate([rows(900, 6), FAR, rows(900, 6)]), [900, 901]),
    "smaller parts that vary less": (rows(1920, 6) * np.linspace(1e3, 1e-3, 1920)[:, None], [960, 1440, 1680, 1800]),
    "larger parts that vary more": (rows(1920, 6) * np.linspace(1e-3, 1e3, 1920)[:, None], [20, 60, 200, 600]),
    "a row each": (rows(300, 6, offset=3.0), range(1, 300)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_no_order_of_parts_costs_digits(name):
    """Wherever the sums are taken about meanwhile; the truth is in long doubles."""
    x, cuts = ORDERS[name]
    merged = Moments(6)
    for part in np.split(x, list(cuts)):
        merged.merge(Moments.from_state(gathered([part]).state()))
    y = x.astype(np.longdouble)
    y -= y.mean(axis=0)
    r2 = (y**2).sum(axis=1)
    sums = (y[:, :, None] * y[:, None, :]).sum(axis=0), (r2[:, None] * y).sum(axis=0), (r2**2).sum()
    for got, want, most in zip(
        (merged.scatter, merged.third_moments, merged.fourth_moments), sums, (2e-14, 1e-11, 2e-14), strict=True
    ):
        assert np.abs(got - want).max() <= most * np.abs(want).max()
    np.testing.assert_array_equal(merged.scatter, merged.scatter.T)


def test_the_whole_moves_when_its_rows_have_doubled_not_with_every_part():
    """So a merge goes through the part's matrix for its products, and through the sum's to add alone."""
    merged, points = Moments(6), set()
    for part in np.split(rows(2000, 6), 500):
        merged.merge(gathered([part]))
        points.add(merged._point.tobytes())
    assert len(points) <= 10
    assert_same(merged, gathered([rows(2000, 6)]))


def test_a_state_that_is_read_takes_no_matrix_of_its_own():
    state = gathered([rows(700, 600)]).state()
    tracemalloc.start()
    Moments.from_state(state)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < state["scatter"].nbytes / 10


def test_state_round_trip_goes_on_counting():
    x = rows(90, 4)
    moments = Moments.from_state(gathered([x[:60]]).state())
    moments.update(x[60:])
    assert_same(moments, gathered([x]))


def test_float32_rows_are_summed_in_float64():
    x = rows(500, 5, offset=100.0).astype(np.float32)
    assert_same(gathered([x]), gathered([x.astype(np.float64)]), rtol=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": np.array([-1])}, "'count' of the state must not be negative"),
        ({"scatter": np.zeros((3, 2))}, r"'scatter' of the state must have shape \(3, 3\), got \(3, 2\)"),
        ({"fourth_moments": np.array([np.nan])}, "'fourth_moments' of the state must be finite"),
        ({"scatter": np.diag([1.0, np.nan, 1.0])}, "'scatter' of the state must be finite"),
        ({"scatter": np.diag([np.inf, -np.inf, 1.0])}, "'scatter' of the state must be finite"),
        ({"scatter": np.eye(3, dtype=np.float32)}, "'scatter' of the state must be float64, got float32"),
        ({"mean": np.zeros(3, np.float32)}, "'mean' of the state must be float64, got float32"),
        ({"more": np.zeros(3)}, "unknown array 'more'"),
    ],
)
def test_a_foreign_state_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        Moments.from_state(gathered([rows(9, 3)]).state() | change)


def test_a_scatter_whose_sum_overflows_is_one_all_the_same():
    state = gathered([rows(9, 3)]).state() | {"scatter": np.full((3, 3), 1e308)}
    np.testing.assert_array_equal(Moments.from_state(state).scatter, state["scatter"])


def test_refusals():
    with pytest.raises(DataError, match="must be 3 wide"):
        Moments(3).update(rows(2, 4))
    with pytest.raises(DataError, match="must have one width, got 3 and 4"):
        Moments(3).merge(Moments(4))
    with pytest.raises(DataError, match="at least one row"):
        Moments(3).ledoit_wolf_shrinkage()


def test_shrinkage_of_pooled_sums_is_that_of_centred_rows():
    x = rows(100, 5)
    x -= x.mean(axis=0)
    moments = gathered([x])
    expected = LedoitWolf(assume_centered=True).fit(x).shrinkage_
    assert ledoit_wolf_shrinkage(100, moments.scatter, moments.fourth_moments) == pytest.approx(expected, rel=1e-10)
