"""A network in two: the frozen trunk, and what is trained behind it, which one tensor joins.

The tail is the network itself with all that runs before the first trained layer passed over, so no
weight is held twice and what is trained is what is exported.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    """A layer's output as it is, flattened to (n, d)."""

    def __call__(self, output: Tensor, layer: str) -> Tensor:
        return output.flatten(1)


class Trunk:
    """What runs before the first trained layer, and what runs from there on.

    Attributes:
        trunk: Uint8 images (n, h, w, c) to the trunk's activations, flattened to (n, d).
        shape: Of an image's activations, such as (c, h, w).
        passed: Names of the outermost modules that the trunk consists of, in the order in which they run.
        whole: Whether the trunk is all of the network, and the tail nothing.
        operations: What these do to a tensor, besides their weights: two networks may share names and weights.
    """

    def __init__(self, network: FeatureNetwork, first: str | None, images: Tensor) -> None:
        """Cut a network, with which both parts share all modules.

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
        self.passed = _passed_over(order, first)
        self.shape: tuple[int, ...]
        self.operations = "\n".join([repr(type(cut.body)), *(repr(cut.body.get_submodule(one)) for one in self.passed)])
        self.whole = first is None
        if first is None:
            self.trunk, self.shape = network, (network.num_features,)
            self.operations += f"\n{cut.layers} {cut.pooling}"
            return
        self._layer = self.passed[-1] if self.passed else ""
        if not self.passed:
            raise ConfigError(
                f"nothing runs before {first}, so there are no activations to keep: set cache_trunk: false"
            )
        half = CutNetwork(cut.body, layers=[self._layer], pooling=[_Whole("avg")], channels_last=False)
        std = 1 / (255 * network.scale.flatten())
        self.trunk = FeatureNetwork(
            half, num_features=0, mean=(network.shift.flatten() * std).tolist(), std=std.tolist()
        )
        self.trunk.eval()
        self.shape = _output_shape(cut.body.get_submodule(self._layer), lambda: network(images))
        self._require_joined(network, first, images)

    def tail(self, activations: Tensor) -> Tensor:
        """Features (n, k) of activations (n, d) of any floating type."""
        if self.whole:
            return activations.to(self._dtype)
        given = activations.to(self._dtype).reshape(-1, *self.shape)
        if given.ndim == 4:
            given = given.contiguous(memory_format=torch.channels_last)
        with _passing(self._cut.body, self.passed):
            features: Tensor = self._cut(given)
        return features

    def _require_joined(self, network: FeatureNetwork, first: str, images: Tensor) -> None:
        with torch.no_grad():
            whole = network(images)
            try:
                gap = (self.tail(self.trunk(images)) - whole).abs().max()
                joined = bool(gap <= TOLERANCE * whole.abs().max())
            except Exception:  # a layer that wants more than one tensor, or another, fails in its own way
                joined = False
        if not joined:
            raise ConfigError(
                f"more than one tensor passes from the frozen layers to {first}, so what they give cannot be kept: "
                "set cache_trunk: false, or train other layers"
            )


def cut_of(network: FeatureNetwork) -> CutNetwork:
    """The CutNetwork inside a FeatureNetwork."""
    if not isinstance(network.body, CutNetwork):
        raise ConfigError(f"wanted a network that is cut at a layer, got {type(network.body).__name__}")
    return network.body


def layers_of(body: nn.Module, order: Sequence[str]) -> list[list[str]]:
    """The layers of a network, in the order in which they run: names of the modules of each.

    A layer is a child of the network, or of one of its nn.Sequential children, that has weights. A batch
    normalisation is no layer of its own, but belongs to the one before it.

    Args:
        body: The network.
        order: Its modules in the order in which they run; those that do not run are no layers.
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


def running_order(body: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """Names of a network's modules in the order in which a call first begins to run them."""
    order: list[str] = []

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: None if name in order else order.append(name)

    handles = [each.register_forward_pre_hook(note(name)) for name, each in body.named_modules() if name]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return order


def _passed_over(order: Sequence[str], first: str | None) -> list[str]:
    """The outermost modules that run before a layer and do not hold it; all for None."""
    before = order
    if first is not None:
        before = [name for name in order[: order.index(first)] if not first.startswith(f"{name}.")]
    return [name for name in before if not any(name.startswith(f"{outer}.") for outer in before)]


def _output_shape(layer: nn.Module, forward: Callable[[], Any]) -> tuple[int, ...]:
    """Shape of what a layer gives for one image."""
    shapes: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        shapes.append(tuple(output.shape[1:]) if isinstance(output, Tensor) else ())

    handle = layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            forward()
    finally:
        handle.remove()
    return shapes[0]


_NOTHING = nn.Identity()


@contextmanager
def _passing(body: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Modules give what they are given, until the block ends."""
    kept = []
    for name in names:
        parent, _, last = name.rpartition(".")
        holder = body.get_submodule(parent)
        kept.append((holder, last, holder._modules[last]))
        holder._modules[last] = _NOTHING
    try:
        yield
    finally:
        for holder, last, module in kept:
            holder._modules[last] = module
