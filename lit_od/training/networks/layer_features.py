"""A network cut at the last of the wanted layers.

Nothing beyond that layer is run, kept or exported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode

from lit_od.errors import ConfigError
from lit_od.training.networks.channel_axes import channel_axes
from lit_od.training.networks.feature_network import FeatureNetwork
from lit_od.training.networks.pooling import Pooling
from lit_od.training.networks.trial import evaluating

LayerPooling: TypeAlias = Callable[[Tensor, str], Tensor]
"""A layer's output and its name to values (n, d), or (n, d, ...) alike in all layers, such as `Pooling`."""


class _LayersReached(Exception):
    """Control flow: all wanted layers have run, and the forward pass ends."""


class CutNetwork(nn.Module):
    """Pixels (n, c, h, w) to pooled outputs of named layers, side by side, (n, d).

    A layer's output is taken the first time that it runs, and pooled at once, so that later layers
    may work in place. The forward pass ends with the last layer taken.

    Attributes:
        body: The whole network.
        layers: Names as in `body.named_modules()`.
        pooling: Pooling of each layer's output, by name.
        channel_axes: Axis of the channels in a layer's output, by the layer's name.
        channels_last: True if the feature maps of all other layers are (n, h, w, c).
        unit_length: True divides each layer's pooled values by their length.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        layers: Sequence[str],
        pooling: Sequence[LayerPooling],
        channels_last: bool,
        channel_axes: Mapping[str, int] | None = None,
        unit_length: bool = False,
    ) -> None:
        """Wrap a network.

        Args:
            body: The whole network.
            layers: Names as in `body.named_modules()`.
            pooling: One a layer.
            channels_last: True for feature maps (n, h, w, c).
            channel_axes: Axis of the channels in a layer's output, by the layer's name, where it is known.
            unit_length: True divides each layer's pooled values by their length.

        Raises:
            ConfigError: If a layer does not exist.
        """
        super().__init__()
        require_layers(body, layers)
        self.body = body
        self.layers = tuple(layers)
        self.pooling = dict(zip(layers, pooling, strict=True))
        self.channels_last, self.channel_axes = channels_last, dict(channel_axes or {})
        self.unit_length = unit_length

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features (n, d) of pixels (n, c, h, w).

        Raises:
            ConfigError: If a layer is not run, or its output cannot be pooled.
        """
        taken: dict[str, Tensor] = {}
        with ExitStack() as hooks, _stopping_early():
            for layer in self.layers:
                hook = partial(self._take, taken, layer)
                hooks.enter_context(self.body.get_submodule(layer).register_forward_hook(hook))
            self.body(pixels)
        missing = [layer for layer in self.layers if layer not in taken]
        if missing:
            raise ConfigError(f"layer {missing[0]} is not run for an image: choose another layer")
        return torch.cat([taken[layer] for layer in self.layers], dim=1)

    def _take(self, taken: dict[str, Tensor], layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keep a layer's first output; end the forward pass once all layers are taken."""
        if layer not in taken:
            taken[layer] = self._pooled(output, layer)
            if len(taken) == len(self.layers):
                raise _LayersReached

    def _pooled(self, output: Any, layer: str) -> Tensor:
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"layer {layer} gives {type(output).__name__}, wanted one tensor: choose a layer inside it"
            )
        wanted = {3: 2, 4: 1}.get(output.ndim)
        axis = self.channel_axes.get(layer, 3 if self.channels_last and output.ndim == 4 else wanted)
        if wanted is not None and axis is not None and axis != wanted:
            output = output.movedim(axis, wanted)
        pooled = self.pooling[layer](output, layer)
        return F.normalize(pooled, dim=1) if self.unit_length else pooled


@contextmanager
def _stopping_early() -> Iterator[None]:
    """End the block quietly at _LayersReached.

    While torch.export traces, it keeps a stack of the modules that are running, which an exception does
    not unwind; modules that were added since are removed here.
    """
    mode = get_proxy_mode()
    running: dict[str, Any] = {} if mode is None else mode.tracer.module_stack
    depth = len(running)
    try:
        yield
    except _LayersReached:
        while len(running) > depth:
            running.popitem()


def require_layers(body: nn.Module, layers: Sequence[str]) -> None:
    """Raise ConfigError unless layers name modules of a network, each once.

    There must be at least one.
    """
    names = [name for name, _ in body.named_modules() if name]
    if not layers:
        first = ", ".join(name for name, _ in body.named_children())
        raise ConfigError(f"layers must name at least one layer: the outermost are {first}")
    for layer in layers:
        if layer not in names:
            near = get_close_matches(str(layer), names, n=3)
            known = ", ".join(near or [name for name, _ in body.named_children()])
            raise ConfigError(f"no layer {layer!r}: {'did you mean one of' if near else 'the outermost are'} {known}?")
        if layers.count(layer) > 1:
            raise ConfigError(f"layer {layer!r} is named twice: name it once")


def features_of_layers(
    network: FeatureNetwork,
    layers: Sequence[str],
    pool: str | Sequence[str],
    *,
    unit_length: bool,
    channels: int,
    image_size: tuple[int, int],
) -> FeatureNetwork:
    """Return a network that gives the features of named layers of another.

    Args:
        network: The whole network; both share their weights, and its mode stays.
        layers: Names as in `network.body.named_modules()`; several are laid side by side.
        pool: Pooling of all layers, or one a layer; see `Pooling`.
        unit_length: True divides each layer's pooled values by their length.
        channels: Channels of the images.
        image_size: (height, width).

    Raises:
        ConfigError: If a layer does not exist, or its output cannot be pooled so.
    """
    pooling = parse_pools(layers, pool)
    require_layers(network.body, layers)
    pixels = network.scale.new_zeros(1, channels, *image_size)  # where the network is
    with evaluating(network.body), torch.no_grad():
        axes = channel_axes(network.body, layers, pixels)
        cut = CutNetwork(
            network.body,
            layers=layers,
            pooling=pooling,
            channels_last=getattr(network.body, "output_fmt", "NCHW") == "NHWC",
            channel_axes=axes,
            unit_length=unit_length,
        )
        width = cut(pixels).shape[1]
    found = FeatureNetwork(cut, num_features=width, mean=[0.0], std=[1.0])
    found.scale, found.shift = network.scale, network.shift
    return found


def parse_pools(layers: Sequence[str], pool: str | Sequence[str]) -> list[Pooling]:
    """Return the pooling of each layer.

    Args:
        layers: Names of layers.
        pool: As in `Pooling.parse`, one for all layers or one a layer.

    Raises:
        ConfigError: On another number, or text that names no pooling.
    """
    if isinstance(layers, str):
        raise ConfigError(f"layers must be a list of names, got {layers!r}: write [{layers}]")
    pools = [pool] * len(layers) if isinstance(pool, str) else list(pool)
    if len(pools) != len(layers):
        raise ConfigError(f"pool must be one for all layers or one a layer, got {len(pools)} for {len(layers)}")
    return [Pooling.parse(each) for each in pools]


def weights_used(network: nn.Module, pixels: Tensor) -> list[str]:
    """Return names of the parameters and buffers that a forward pass reads."""
    seen: set[int] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            del types
            flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
            seen.update(id(each) for each in flat if isinstance(each, Tensor))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]  # as above
        network(pixels)
    return [name for name, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in seen]


def drop_unused(network: nn.Module, used: Sequence[str], pixels: Tensor) -> None:
    """Free the weights that a forward pass does not read, if its result stays.

    Args:
        network: The network, changed in place.
        used: Names of the weights that it reads, as of `weights_used`.
        pixels: An input to compare results on, (n, c, h, w).
    """
    kept = set(used)
    with torch.no_grad():
        before = network(pixels)
        unused = [tensor for name, tensor in network.state_dict(keep_vars=True).items() if name not in kept]
        values = [tensor.data for tensor in unused]
        for tensor in unused:
            tensor.data = tensor.data.new_empty(0)
        try:
            same = torch.equal(before, network(pixels))
        except Exception:  # code that looks at the shape of a weight that it does not use
            same = False
        if not same:
            for tensor, value in zip(unused, values, strict=True):
                tensor.data = value
