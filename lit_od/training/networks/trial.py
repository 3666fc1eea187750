"""Runs of a network that leave it as it was."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_od.errors import ConfigError


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore each part's mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def output_of_zeros(network: nn.Module, shape: tuple[int, ...], failure: str, mend: str = "") -> Any:
    """Return a network's output for one image of zeros, in evaluation mode.

    Args:
        network: The network.
        shape: Shape of the image, (c, h, w).
        failure: First half of the refusal's sentence, such as "network N fails on one image".
        mend: Further sentences of the refusal.

    Raises:
        ConfigError: If the network fails.
    """
    try:
        weight = next(network.parameters(), torch.empty(0))
        with evaluating(network), torch.no_grad():
            return network(torch.zeros(1, *shape, device=weight.device))
    except ConfigError:
        raise
    except Exception as error:  # the network's code may raise anything
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{failure}: {cause}{mend}") from error


def shape_or_type(output: object) -> tuple[int, ...] | str:
    """Return a tensor's shape, or the name of another value's type, for messages."""
    return tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
