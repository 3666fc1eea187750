"""Pairs within a radius against all distances, and groups against a search by hand."""

import numpy as np
import pytest

from lit_od.operations import near_rows
from lit_od.operations.near_rows import connected, near_pairs


def all_pairs(rows: np.ndarray, radius: np.ndarray) -> set[tuple[int, int]]:
    distance = np.linalg.norm(rows[:, None].astype(float) - rows[None], axis=2)
    near = distance <= np.maximum(radius[:, None], radius[None])
    return {(one, other) for one, other in np.argwhere(near).tolist() if one < other}


@pytest.mark.parametrize("block", [3, 512])
def test_no_near_pair_is_missed_and_none_comes_twice(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_rows, "BLOCK", block)
    monkeypatch.setattr(near_rows, "WINDOW", 2 * block)
    rng = np.random.default_rng(block)
    rows = np.concatenate([rng.normal(size=(60, 4)), rng.normal(1000, 1, size=(60, 4))]).astype(np.float32)
    radius = rng.uniform(0.2, 1.5, len(rows))
    found = [tuple(sorted(pair)) for one, other in near_pairs(rows, radius) for pair in zip(one, other, strict=True)]
    wanted = all_pairs(rows, radius)
    assert len(wanted) > 50
    assert len(set(found)) == len(found)
    assert wanted <= set(found)
    slack = 2 * near_rows.ROUNDING * 1000
    assert set(found) <= all_pairs(rows, radius + slack)


def test_one_row_has_no_pairs() -> None:
    assert list(near_pairs(np.zeros((1, 3), np.float32), np.ones(1))) == []


def test_groups_are_what_is_connected() -> None:
    edges = [(7, 3), (3, 5), (0, 1), (2, 2), (1, 5), (8, 9)]
    asked: list[tuple[int, int]] = []

    def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        asked.extend(zip(one.tolist(), other.tolist(), strict=True))
        return (one != 8) & (other != 8)

    pairs = ((np.array([one]), np.array([other])) for one, other in [*edges, (0, 7)])
    assert connected(10, pairs, alike).tolist() == [0, 0, 2, 0, 4, 0, 6, 0, 8, 9]
    assert (0, 7) not in asked  # joined already by way of others
