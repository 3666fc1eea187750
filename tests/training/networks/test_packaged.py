"""The backbone that ships with the package, in torch."""

import numpy as np
import pytest
import torch

from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import read_patches
from lit_od.backbone.patches import PatchGrid
from lit_od.errors import ConfigError
from lit_od.training import FrozenBackbone

NAME = "lit_od:tf_efficientnet_lite0"


def test_it_gives_what_the_file_gives() -> None:
    layers = ["blocks.1", "blocks.4"]
    module = FrozenBackbone(network=NAME, layers=layers, output="patches", image_size=(64, 96))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    wanted = Backbone.load(read_patches(NAME, layers, PatchGrid(), (64, 96, 3))[0], providers=["cpu"])(images)
    with torch.no_grad():
        got = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet", ""])
def test_one_that_does_not_ship_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no backbone 'lit_od:{name}'; .*lit_od:tf_efficientnet_lite0"):
        FrozenBackbone(network=f"lit_od:{name}", layers=["layer1"], output="patches")
