"""What a trunk's activations are known by, and what is asked of the trunk."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray
from lit_od.training.data import trunk_cache
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.doc import LitDOC
from lit_od.training.networks.trunk import Trunk, cut_of
from tests.support.twins import Chain, options

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 28, 28, 1), dtype=np.uint8)
SOURCES = [ImageArray(pixels, f"rows#{row}") for row, pixels in enumerate(PIXELS)]
HOW = Preparation(size=(28, 28), mode="grey")


class Elsewhere(str):
    """A device on which the trunk runs in torch."""

    __slots__ = ()
    type = "elsewhere"


class Bent(Chain):
    """Other code between the same modules."""

    def forward(self, pixels):
        return super().forward(torch.relu(pixels))


def doc(network="Chain"):
    torch.manual_seed(0)
    where = __name__ if network == "Bent" else "tests.support.twins"
    return LitDOC(**options(network=f"{where}:{network}", trained_layers=3)).eval()


def rows(cache, trunk, how=HOW):
    found = cache.rows(trunk, SOURCES, how, Elsewhere("cpu"))
    return found.index_select(0, torch.arange(len(SOURCES)))


def wanted(trunk, how=HOW):
    images = torch.from_numpy(np.stack([source.prepare(how) for source in SOURCES]))
    with torch.no_grad():
        return trunk.trunk(images).half()


def weighted(module):
    """One weight of the first layer is another."""
    with torch.no_grad():
        cut_of(module.network).body.stem.weight[0, 0, 0, 0] += 1
    return module.trunk


def other_operation(module):
    """The second layer computes otherwise with the same weights."""
    cut_of(module.network).body.norm.eps = 0.5
    return Trunk(module.network, "blocks.1", torch.from_numpy(PIXELS[:2]))


@pytest.mark.parametrize("change", [weighted, other_operation, lambda module: doc("Bent").trunk])
def test_another_trunk_gives_other_rows(change):
    cache, first = TrunkCache(), doc()
    torch.testing.assert_close(rows(cache, first.trunk), wanted(first.trunk), rtol=0, atol=0)
    second = change(doc())
    assert not torch.equal(wanted(second), wanted(first.trunk))
    torch.testing.assert_close(rows(cache, second), wanted(second), rtol=0, atol=0)


def test_another_preparation_gives_other_rows():
    cache, trunk, cropped = TrunkCache(), doc().trunk, Preparation(size=(28, 28), mode="grey", crop=(14, 14))
    assert not torch.equal(rows(cache, trunk), rows(cache, trunk, cropped))
    torch.testing.assert_close(rows(cache, trunk, cropped), wanted(trunk, cropped), rtol=0, atol=0)


def test_the_same_trunk_in_another_module_gives_the_same_rows(monkeypatch):
    cache = TrunkCache()
    first = rows(cache, doc().trunk)
    monkeypatch.setattr(trunk_cache, "_activations", lambda *given: pytest.fail("it ran again"))
    tail = doc()
    nn.init.zeros_(tail.head.weight)
    nn.init.zeros_(cut_of(tail.network).body.last.weight)
    assert torch.equal(rows(cache, tail.trunk), first)


def test_a_graph_is_exported_once_for_all_parts(monkeypatch):
    made = []
    real = trunk_cache.export_backbone
    monkeypatch.setattr(trunk_cache, "export_backbone", lambda *given: made.append(real(*given)))
    cache, trunk = TrunkCache(), doc().trunk
    for start in range(0, 9, 3):
        found = cache.rows(trunk, SOURCES[start : start + 3], HOW, torch.device("cpu"))
        got = found.index_select(0, torch.arange(3))
        torch.testing.assert_close(got, wanted(trunk)[start : start + 3], rtol=1e-2, atol=1e-3)
    assert len(made) == 1
    cache.rows(weighted(doc()), SOURCES[:3], HOW, torch.device("cpu"))
    assert len(made) == 2


def test_a_device_is_given_few_large_images_at_once(monkeypatch):
    monkeypatch.setattr("lit_od.training.data.image_data.EVALUATION_PIXELS", 28 * 28 * 4)
    trunk, sizes = doc().trunk, []
    trunk.trunk.register_forward_pre_hook(lambda network, given: sizes.append(len(given[0])))
    rows(TrunkCache(), trunk)
    assert sizes == [4, 4, 1]
