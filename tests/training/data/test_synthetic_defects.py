"""Synthetic defects: where they lie, what they leave alone, and that they are drawn from the generator."""

import numpy as np
import pytest
import torch

from lit_od.training.data import synthetic_defects as module
from lit_od.training.data.synthetic_defects import CHANGE, synthetic_defects


def images(count: int = 8, size: tuple[int, int, int] = (64, 96, 3)) -> torch.Tensor:
    """Bars on the right half, nothing on the left."""
    rng = np.random.default_rng(0)
    made = np.full((count, *size), 120, np.uint8)
    made[:, :, size[1] // 2 :: 8] = rng.integers(0, 60, (count, 1, 1, 1))
    return torch.from_numpy(made)


def drawn(shown: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return synthetic_defects(shown, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 96, 3), (40, 40, 1)])
def test_a_mask_holds_all_pixels_that_differ(size: tuple[int, int, int]) -> None:
    shown = images(24, size)
    before = shown.clone()
    changed, masks = drawn(shown, 1)
    assert (changed.shape, changed.dtype, masks.shape) == (shown.shape, torch.uint8, shown.shape[:3])
    assert torch.equal(shown, before)
    different = (changed.int() - shown.int()).abs().amax(-1) > CHANGE
    assert masks[different].all()
    assert 0 < masks.float().mean() < 0.1
    assert masks.flatten(1).any(1).float().mean() > 0.5


def test_the_generator_decides() -> None:
    first, second, other = (drawn(images(), seed) for seed in (3, 3, 4))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_defects_lie_where_there_is_structure() -> None:
    masks = drawn(images(200), 5)[1]
    left, right = masks[:, :, :40].float().mean(), masks[:, :, 48:].float().mean()
    assert right > 3 * left


@pytest.mark.parametrize("make", module._KINDS, ids=lambda make: make.__name__)
def test_every_kind_changes_the_defect_alone(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KINDS", (make,))
    shown = images(16)
    changed, _ = drawn(shown, 6)
    differs = (changed != shown).any(-1).flatten(1).float().mean(1)
    assert differs.max() > 0
    assert differs.max() < 0.3
