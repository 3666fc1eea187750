import pytest
import torch
from torch import nn

from lit_od.errors import ConfigError
from lit_od.training.networks.trial import evaluating, output_of_zeros, shape_or_type


class Broken(nn.Module):
    def forward(self, pixels):
        raise RuntimeError("first line\nsecond line")


def test_each_part_gets_its_own_mode_back():
    network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluating(network):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == [True, True, False]


def test_one_image_is_tried_without_gradients_and_without_dropout():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout(0.9))
    output = output_of_zeros(network, (3, 2, 2), "it fails")
    assert not output.requires_grad
    torch.testing.assert_close(output[0], network[1].bias.detach())
    assert network.training


def test_a_failure_says_the_first_line_and_the_mend():
    with pytest.raises(ConfigError, match=r"^it fails: first line\. Change it$"):
        output_of_zeros(Broken(), (1, 2, 2), "it fails", ". Change it")


def test_the_form_of_an_output():
    assert shape_or_type(torch.zeros(2, 3)) == (2, 3)
    assert shape_or_type([1]) == "list"
