import pytest
import torch

from lit_od.errors import ConfigError
from lit_od.training.doc import LitDOC
from lit_od.training.frozen import FrozenBackbone
from lit_od.training.networks.trunk import Trunk, cut_of, layers_of, running_order
from tests.support.twins import options

IMAGES = torch.randint(0, 256, (3, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def network_of(name, layer, size=64):
    frozen = FrozenBackbone(network=name, layers=[layer], pretrained=False, image_size=(size, size))
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    return frozen.network, images


@pytest.mark.parametrize(
    ("name", "layer", "last"),
    [
        ("tf_efficientnet_lite0", "bn2", [["blocks.5"], ["blocks.6"], ["conv_head", "bn2"]]),
        ("mobilenetv2_100", "bn2", [["blocks.5"], ["blocks.6"], ["conv_head", "bn2"]]),
        ("torchvision:resnet18", "layer4", [["layer3.1"], ["layer4.0"], ["layer4.1"]]),
        ("torchvision:squeezenet1_1", "features", [["features.10"], ["features.11"], ["features.12"]]),
    ],
)
def test_layers_of_known_networks_and_their_two_parts(name, layer, last):
    network, images = network_of(name, layer)
    body = cut_of(network).body
    layers = layers_of(body, running_order(body, lambda: network(images)))
    assert layers[-3:] == last
    trunk = Trunk(network, last[0][0], images)
    with torch.no_grad():
        torch.testing.assert_close(trunk.tail(trunk.trunk(images)), network(images), rtol=1e-4, atol=1e-5)


def test_the_network_is_whole_again_after_the_tail():
    module = LitDOC(**options())
    body = cut_of(module.network).body
    names = [name for name, _ in body.named_modules()]
    before = module.network(IMAGES)
    assert module.trunk is not None
    with pytest.raises(RuntimeError):
        module.trunk.tail(torch.zeros(2, 5))
    with torch.no_grad():
        module.eval()
        module.trunk.tail(module.trunk.trunk(IMAGES))
    assert [name for name, _ in body.named_modules()] == names
    assert before.shape == module.network(IMAGES).shape


def test_what_more_than_one_tensor_joins_is_refused():
    with pytest.raises(ConfigError, match="more than one tensor passes from the frozen layers to last, so what they"):
        LitDOC(**options(network="tests.support.twins:Skip", layer="classifier", trained=["last", "last_norm"]))
    module = LitDOC(
        **options(
            network="tests.support.twins:Skip", layer="classifier", trained=["last", "last_norm"], cache_trunk=False
        )
    )
    assert module.trunk is None


def test_of_a_network_that_is_not_trained_the_trunk_is_all():
    module = LitDOC(**options(trained_layers=1)).eval()
    assert module.trained == []
    assert module.trunk is not None
    with torch.no_grad():
        torch.testing.assert_close(module.trunk.tail(module.trunk.trunk(IMAGES)), module.network(IMAGES))
    assert module.trunk.shape == (module.network.num_features,)
    pooled = LitDOC(**options(trained_layers=1, pool="max"))
    assert pooled.trunk is not None
    assert pooled.trunk.operations != module.trunk.operations


def test_nothing_before_the_first_trained_layer():
    with pytest.raises(ConfigError, match="nothing runs before stem, so there are no activations to keep"):
        LitDOC(**options(trained=["stem"]))
