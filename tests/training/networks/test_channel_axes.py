from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_od.training.networks.channel_axes import channel_axes


class Step(nn.Module):
    """A step of a network, from a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Any:
        return self.function(values)


PIXELS = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("steps", "axis"),
    [
        ([nn.Conv2d(3, 8, 1)], 1),
        ([nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AvgPool2d(2)], 1),
        ([Step(lambda maps: maps.permute(0, 2, 3, 1)), nn.Linear(3, 8)], 3),
        (
            [
                Step(lambda maps: maps.permute(0, 2, 3, -3)),
                nn.LayerNorm(3),
                Step(lambda maps: maps.permute(0, 3, 1, 2)),
            ],
            1,
        ),
        ([nn.Conv2d(3, 8, 1), Step(lambda maps: maps.flatten(2))], 1),
        ([nn.Conv2d(3, 8, 1), Step(lambda maps: maps.flatten(2).transpose(1, -1)), nn.Linear(8, 5)], 2),
        ([Step(lambda maps: maps.reshape(1, 3, 4, 2, 8).transpose(3, 2))], 1),
        ([Step(lambda maps: maps.reshape(1, 24, 8))], None),
        ([Step(lambda maps: (maps, maps))], None),
    ],
)
def test_the_channels_are_followed(steps: list[nn.Module], axis: int | None) -> None:
    body = nn.Sequential(*steps).eval()
    assert (
        channel_axes(body, ["0", str(len(steps) - 1)] if len(steps) > 1 else ["0"], PIXELS).get(str(len(steps) - 1))
        == axis
    )
    assert not any(each._forward_hooks for each in body.modules())


def test_a_layer_that_is_not_run_or_comes_after_a_failure_is_left_out() -> None:
    def fail(maps: Tensor) -> Tensor:
        raise ValueError

    body = nn.Sequential(nn.Conv2d(3, 8, 1), Step(fail), nn.Conv2d(8, 8, 1))
    assert channel_axes(body.eval(), ["0", "2"], PIXELS) == {"0": 1}
