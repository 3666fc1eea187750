import numpy as np
import pytest
from scipy.stats import spearmanr

from lit_od.detectors.bank import coreset
from lit_od.detectors.bank.coreset import greedy_k_centre, parse_size, rank_agreement
from lit_od.errors import ConfigError, DataError


def one_at_a_time(points, count, first):
    chosen = [first]
    farness = np.full(len(points), np.inf)
    for _ in range(count - 1):
        farness = np.minimum(farness, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(farness.argmax()))
    return sorted(chosen)


@pytest.mark.parametrize("pool", [1, 7, 64, 5000])
def test_pooled_choice_is_the_choice_one_at_a_time(monkeypatch, pool):
    monkeypatch.setattr(coreset, "POOL", pool)
    points = np.random.default_rng(0).standard_normal((700, 4)).astype(np.float32)
    first = int(np.random.default_rng(3).integers(700))
    expected = one_at_a_time(points.astype(np.float64), 120, first)
    assert greedy_k_centre(points, 120, seed=3).tolist() == expected


def test_wide_rows_are_covered_through_a_projection():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 400)) * 10
    points = (centres[rng.integers(0, 30, 900)] + rng.standard_normal((900, 400)) * 0.1).astype(np.float32)
    chosen = greedy_k_centre(points, 30, seed=0)
    nearest = ((points[chosen][:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(30))


def test_equal_rows_are_chosen_once_each():
    chosen = greedy_k_centre(np.ones((50, 3), np.float32), 50, seed=1)
    np.testing.assert_array_equal(chosen, np.arange(50))
    assert len(set(greedy_k_centre(np.ones((50, 3), np.float32), 20, seed=1).tolist())) == 20


def test_the_choice_follows_the_seed():
    points = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    first, same, other = (greedy_k_centre(points, 40, seed).tolist() for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_sizes():
    assert [parse_size(text) for text in ("20MB", "1.5 GiB", "3kB", "2KiB")] == [
        20_000_000,
        3 * 2**29,
        3000,
        2048,
    ]
    for text in ("MB", "20", "-3MB", "0MB", "20mb", "2e3MB", ""):
        with pytest.raises(ConfigError, match="as in 20MB"):
            parse_size(text)


def test_rank_agreement_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 200).astype(float), rng.standard_normal(200)
    assert rank_agreement(a, a + b) == pytest.approx(spearmanr(a, a + b).statistic, rel=1e-12)
    assert rank_agreement(b, np.exp(b)) == pytest.approx(1)
    with pytest.raises(DataError, match="needs different scores"):
        rank_agreement(a, np.ones(200))
    with pytest.raises(DataError, match=r"got \(200,\) and \(100,\)"):
        rank_agreement(a, b[:100])
