"""LocalResidual against a textbook form, and what its score means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lit_od.detectors import KNN, LocalResidual
from lit_od.errors import ConfigError, DataError


def textbook(bank: np.ndarray, query: np.ndarray, k: int, ridge: float) -> float:
    """The minimum as a least-squares problem with the penalty as further equations."""
    near = bank[np.argsort(np.linalg.norm(bank - query, axis=1))[:k]]
    mean = near.mean(axis=0)
    hull = near - mean
    price = ridge * (hull**2).sum() / k
    system = np.vstack([hull.T, np.sqrt(price) * np.eye(k)])
    wanted = np.concatenate([query - mean, np.zeros(k)])
    weights = np.linalg.lstsq(system, wanted, rcond=None)[0]
    return float(np.linalg.norm(system @ weights - wanted))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 12), width=st.integers(1, 20), ridge=st.floats(1e-3, 10))
def test_against_least_squares(seed: int, k: int, width: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    bank, queries = (rng.standard_normal((n, width)).astype(np.float32) for n in (40, 7))
    got = LocalResidual.fit(bank, k=k, ridge=ridge).score(queries)
    want = [textbook(bank.astype(np.float64), query, k, ridge) for query in queries.astype(np.float64)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)  # the bank keeps float32 rows less their mean


def test_the_weights_are_the_minimum() -> None:
    rng = np.random.default_rng(1)
    bank, query = rng.standard_normal((30, 5)), rng.standard_normal(5) * 2
    near = bank[np.argsort(np.linalg.norm(bank - query, axis=1))[:6]]
    mean = near.mean(axis=0)
    price = 0.05 * ((near - mean) ** 2).sum() / 6
    found = minimize(
        lambda w: ((query - mean - w @ (near - mean)) ** 2).sum() + price * (w @ w), np.zeros(6), tol=1e-12
    )
    [score] = LocalResidual.fit(bank, k=6).score(query[None])
    assert score == pytest.approx(np.sqrt(found.fun), rel=1e-5)


def test_what_lies_in_the_inliers_surface_counts_less_than_what_leaves_it() -> None:
    rng = np.random.default_rng(0)
    flat = np.concatenate([rng.uniform(-1, 1, (500, 2)), np.zeros((500, 8))], axis=1).astype(np.float32)
    inside, beside = np.zeros((2, 10), dtype=np.float32)
    inside[:2], beside[2] = (0.05, -0.02), 0.05
    score = LocalResidual.fit(flat, k=10).score(np.stack([inside, beside]))
    assert score[1] > 2 * score[0]
    far = KNN.fit(flat).score(np.stack([inside, beside]))
    assert far[1] < 2 * far[0]


def test_equal_neighbours_span_a_point() -> None:
    rows = np.ones((10, 3), dtype=np.float32)
    score = LocalResidual.fit(rows, k=4).score(np.array([[1, 1, 1], [1, 1, 3]], dtype=np.float32))
    np.testing.assert_allclose(score, [0, 2], atol=1e-7)


def test_refusals() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    with pytest.raises(ConfigError, match="k must be an integer of at least 2"):
        LocalResidual.fit(rows, k=1)
    with pytest.raises(ConfigError, match="ridge must be a number in"):
        LocalResidual.fit(rows, ridge=0.0)
    with pytest.raises(DataError, match="LocalResidual needs at least 30 rows of features, got 10"):
        LocalResidual.fit(rows)
    whole = LocalResidual.fit(rows, k=4)
    with pytest.raises(DataError, match="k=11 needs a bank of as many rows, got 10"):
        LocalResidual.from_state({**whole.options(), "k": 11}, whole.state())
