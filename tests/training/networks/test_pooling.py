import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_od.errors import ConfigError
from lit_od.training.networks.pooling import Pooling, grid_average

MAPS = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 7, 10)))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 9])
def test_a_grid_is_torchs_adaptive_average(side: int):
    wanted = F.adaptive_avg_pool2d(MAPS, side).flatten(1)
    torch.testing.assert_close(grid_average(MAPS, side), wanted)
    torch.testing.assert_close(Pooling.parse(f"grid:{side}")(MAPS, "x"), wanted)


def test_maps_by_the_textbook():
    maps = MAPS.numpy()
    np.testing.assert_allclose(Pooling.parse("avg")(MAPS, "x"), maps.mean(axis=(2, 3)))
    np.testing.assert_allclose(Pooling.parse("max")(MAPS, "x"), maps.max(axis=(2, 3)))
    power_mean = np.mean(np.maximum(maps, 1e-6) ** 3, axis=(2, 3)) ** (1 / 3)
    np.testing.assert_allclose(Pooling.parse("gem")(MAPS, "x"), power_mean)


def test_tokens_and_vectors():
    tokens = MAPS.flatten(2)
    torch.testing.assert_close(Pooling.parse("avg")(tokens, "x"), tokens.mean(1))
    torch.testing.assert_close(Pooling.parse("max")(tokens, "x"), tokens.max(1).values)
    for pool in ("avg", "max", "gem", "grid:4"):
        torch.testing.assert_close(Pooling.parse(pool)(tokens[:, 0], "x"), tokens[:, 0])


def test_what_cannot_be_pooled_is_refused():
    for pool in ("gem", "grid:2"):
        with pytest.raises(ConfigError, match=rf"layer b\.1 gives shape \(3, 5, 70\), which {pool} cannot pool: token"):
            Pooling.parse(pool)(MAPS.flatten(2), "b.1")
    with pytest.raises(ConfigError, match=r"cannot pool: wanted \(n, c, h, w\)"):
        Pooling.parse("avg")(MAPS[None], "b.1")


@pytest.mark.parametrize("text", ["mean", "grid", "grid:0", "grid:-1", "grid:x", "avg:2", "", "grid:4x4", None])
def test_a_pooling_that_does_not_exist_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"pool must be avg, max, gem or grid:N .*, got"):
        Pooling.parse(text)
