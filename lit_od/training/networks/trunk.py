"""A network in two parts: a frozen trunk, and a trained tail behind it.

One tensor joins them. The tail is the network itself with all that runs before the first trained layer
bypassed, so no weight is held twice and the trained network is the exported one.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_od.errors import ConfigError
from lit_od.training.networks.feature_network import FeatureNetwork
from lit_od.training.networks.layer_features import CutNetwork
from lit_od.training.networks.pooling import Pooling

TOLERANCE = 1e-5
"""Largest difference of the two parts from the whole, relative to the largest feature."""


class _Whole(Pooling):
    """Flattening of a layer's output to (n, d), without pooling."""

    def __call__(self, output: Tensor, layer: str) -> Tensor:
        return output.flatten(1)


class Trunk:
    """The frozen part of a network before its first trained layer, and the rest.

    Attributes:
        trunk: Uint8 images (n, h, w, c) to the trunk's activations, flattened to (n, d).
        shape: Shape of an image's activations, such as (c, h, w).
        passed: Names of the outermost modules of the trunk, in running order.
        whole: True if the trunk is all of the network, and the tail nothing.
        operations: Operations of these modules as text, without their weights: two networks may share names and
            weights.
    """

    def __init__(self, network: FeatureNetwork, first: str | None, images: Tensor) -> None:
        """Cut a network; both parts share all its modules.

        Args:
            network: Over a CutNetwork, in evaluation mode.
            first: Name of the first trained layer in the network that was cut; None where none of it is trained,
                and the trunk is all of it.
            images: Two or more, (n, h, w, c), uint8, on which the parts must give what the whole gives.

        Raises:
            ConfigError: If more than one tensor passes from the frozen layers to the trained ones.
        """
        cut = cut_of(network)
        self._cut, self._dtype = cut, network.scale.dtype
        order = running_order(cut.body, lambda: network(images))
        self.passed = _passed_over(list(order), first)
        self.shape: tuple[int, ...]
        self.operations = "\n".join([repr(type(cut.body)), *(repr(cut.body.get_submodule(one)) for one in self.passed)])
        self.whole = first is None
        if first is None:
            self.trunk, self.shape = network, (network.num_features,)
            self.operations += f"\n{cut.layers} {cut.pooling}"
            return
        if not self.passed:
            raise ConfigError(
                f"nothing runs before {first}, so there are no activations to keep: set cache_trunk: false"
            )
        last = self.passed[-1]
        half = CutNetwork(cut.body, layers=[last], pooling=[_Whole("avg")], channels_last=False)
        std = 1 / (255 * network.scale.flatten())
        self.trunk = FeatureNetwork(
            half, num_features=0, mean=(network.shift.flatten() * std).tolist(), std=std.tolist()
        )
        self.trunk.eval()
        self.shape = order[last]
        self._require_joined(network, first, images)

    def tail(self, activations: Tensor) -> Tensor:
        """Return features (n, k) of activations (n, d) of any floating type."""
        if self.whole:
            return activations.to(self._dtype)
        inputs = activations.to(self._dtype).reshape(-1, *self.shape)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with _bypassing(self._cut.body, self.passed):
            features: Tensor = self._cut(inputs)
        return features

    def _require_joined(self, network: FeatureNetwork, first: str, images: Tensor) -> None:
        with torch.no_grad():
            whole = network(images)
            try:
                gap = (self.tail(self.trunk(images)) - whole).abs().max()
                joined = bool(gap <= TOLERANCE * whole.abs().max())
            except Exception:  # a layer that needs other tensors may raise anything
                joined = False
        if not joined:
            raise ConfigError(
                f"more than one tensor passes from the frozen layers to {first}, so what they give cannot be kept: "
                "set cache_trunk: false, or train other layers"
            )


def cut_of(network: FeatureNetwork) -> CutNetwork:
    """Return the CutNetwork inside a FeatureNetwork.

    Raises:
        ConfigError: If there is none.
    """
    if not isinstance(network.body, CutNetwork):
        raise ConfigError(f"wanted a network that is cut at a layer, got {type(network.body).__name__}")
    return network.body


def layers_of(body: nn.Module, order: Collection[str]) -> list[list[str]]:
    """Return the layers of a network in running order, each as its modules' names.

    A layer is a child of the network, or of one of its nn.Sequential children, that has weights. A batch
    normalisation is no separate layer, but belongs to the one before it.

    Args:
        body: The network.
        order: Its modules in running order; those that do not run are no layers.
    """
    units = []
    for name, child in body.named_children():
        inner = [f"{name}.{each}" for each, _ in child.named_children()] if type(child) is nn.Sequential else []
        units += inner or [name]
    layers: list[list[str]] = []
    for name in order:
        if name in units and any(weight.numel() for weight in body.get_submodule(name).parameters()):
            if layers and isinstance(body.get_submodule(name), _BatchNorm):
                layers[-1].append(name)
            else:
                layers.append([name])
    return layers


def running_order(body: nn.Module, forward: Callable[[], Any]) -> dict[str, tuple[int, ...]]:
    """Return a network's modules in the order in which a call runs them.

    Args:
        body: The network.
        forward: The call, which runs the network.

    Returns:
        The shape of the first output for one image, by the module's name; () where that is no tensor.
    """
    order: dict[str, tuple[int, ...]] = {}

    def started(name: str, module: nn.Module, inputs: Any) -> None:
        order.setdefault(name, ())

    def ended(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not order[name]:
            order[name] = tuple(output.shape[1:])

    with ExitStack() as hooks, torch.no_grad():
        for name, each in body.named_modules():
            if name:
                hooks.enter_context(each.register_forward_pre_hook(partial(started, name)))
                hooks.enter_context(each.register_forward_hook(partial(ended, name)))
        forward()
    return order


def _passed_over(order: Sequence[str], first: str | None) -> list[str]:
    """Return the outermost modules that run before a layer and do not hold it.

    All for None.
    """
    before = order
    if first is not None:
        before = [name for name in order[: order.index(first)] if not first.startswith(f"{name}.")]
    return [name for name in before if not any(name.startswith(f"{outer}.") for outer in before)]


_NOTHING = nn.Identity()


@contextmanager
def _bypassing(body: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Replace modules by the identity until the block ends."""
    kept = {name: body.get_submodule(name) for name in names}
    try:
        for name in names:
            body.set_submodule(name, _NOTHING)
        yield
    finally:
        for name, module in kept.items():
            body.set_submodule(name, module)
