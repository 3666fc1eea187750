import pytest
import torch
from torch import Tensor, nn

from lit_od.errors import ConfigError
from lit_od.training.networks.layer_features import CutNetwork, drop_unused, weights_used
from lit_od.training.networks.pooling import Pooling


class Net(nn.Module):
    """Two convolutions, the second run twice; a token of its own; a tail that cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.token = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.idle = nn.Linear(4, 4)
        self.pair = Pair()
        self.tail = Tail()
        self.register_buffer("table", torch.ones(4), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.again(self.again(self.first(pixels))) * self.token + self.table.view(1, 4, 1, 1)
        self.pair(maps)
        return self.tail(maps)


class Pair(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps, maps


class Tail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))

    def forward(self, maps: Tensor) -> Tensor:
        raise AssertionError("nothing beyond the last layer may run")


PIXELS = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cut(*layers: str, pool: str = "avg", channels_last: bool = False) -> CutNetwork:
    torch.manual_seed(0)
    return CutNetwork(
        Net(), layers=layers, pooling=[Pooling.parse(pool)] * len(layers), channels_last=channels_last
    ).eval()


@torch.no_grad()
def test_layers_lie_side_by_side_in_the_order_given():
    network = cut("again", "first.1", "first")
    before = network.body.first[1](network.body.first[0](PIXELS))
    after = before.relu()
    wanted = torch.cat([each.mean((2, 3)) for each in (network.body.again(after), before, after)], dim=1)
    torch.testing.assert_close(network(PIXELS), wanted)  # the ReLU overwrites what first.1 gave
    assert not any(each._forward_hooks for each in network.modules())


@torch.no_grad()
def test_maps_may_have_their_channels_last():
    network = cut("first", channels_last=True, pool="max")
    torch.testing.assert_close(network(PIXELS), network.body.first(PIXELS).amax((1, 2)))


def test_only_what_is_read_is_needed_and_kept():
    network = cut("again")
    used = weights_used(network, PIXELS)
    batch_norm = [f"body.first.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    convolutions = [f"body.{layer}.{name}" for layer in ("first.0", "again") for name in ("weight", "bias")]
    assert sorted(used) == sorted(batch_norm + convolutions)
    with torch.no_grad():
        before = network(PIXELS)
        drop_unused(network, used, PIXELS)
        assert torch.equal(before, network(PIXELS))
    assert network.body.tail.weight.numel() == network.body.token.numel() == 0


def test_weights_that_a_shape_is_taken_from_are_kept():
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = nn.Parameter(torch.ones(3))
            self.layer = nn.Identity()

        def forward(self, pixels: Tensor) -> Tensor:
            return self.layer(pixels / self.size.shape[0])

    network = CutNetwork(Asks(), layers=["layer"], pooling=[Pooling("avg")], channels_last=False)
    drop_unused(network, weights_used(network, PIXELS), PIXELS)
    assert network.body.size.shape == (3,)
    torch.testing.assert_close(network(PIXELS), PIXELS.mean((2, 3)) / 3)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers must name at least one layer: the outermost are first, again"),
        (["frist"], "no layer 'frist': did you mean one of first"),
        (["zzzzzzz"], "no layer 'zzzzzzz': the outermost are first, again, idle"),
        (["first", "first"], "layer 'first' is named twice"),
    ],
)
def test_layers_that_cannot_be_are_refused(layers: list[str], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        cut(*layers)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_never_run_or_gives_no_tensor_is_refused():
    network = cut("first", "idle")
    network.body.tail.forward = lambda maps: maps
    with pytest.raises(ConfigError, match="layer idle is not run for an image"):
        network(PIXELS)
    with pytest.raises(ConfigError, match="layer pair gives tuple, wanted one tensor"):
        cut("pair")(PIXELS)
