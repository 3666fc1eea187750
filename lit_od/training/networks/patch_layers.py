"""Layers of a torch network brought to one grid of patches."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lit_od.backbone.patches import PatchGrid
from lit_od.errors import ConfigError
from lit_od.training.networks.channel_axes import channel_axes
from lit_od.training.networks.feature_network import FeatureNetwork
from lit_od.training.networks.layer_features import CutNetwork, require_layers
from lit_od.training.networks.pretrained import feature_count
from lit_od.training.networks.trial import evaluating


class PatchNetwork(nn.Module):
    """Pixels (n, c, h, w) to patches (n, gh, gw, d).

    Attributes:
        cut: Pixels to all layers on one grid, side by side, (n, d, gh, gw).
        width: d.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        layers: Sequence[str],
        grid: PatchGrid,
        image_size: tuple[int, int],
        channels: int,
        name: str,
        channels_last: bool,
        channel_axes: Mapping[str, int],
    ) -> None:
        """Cut a network after the last of the layers; it keeps its mode and its weights.

        Args:
            body: Pixels (n, c, h, w) to any output.
            layers: Names as in `body.named_modules()`, of feature maps or of sequences of tokens; their channels lie
                side by side in this order.
            grid: Grid and neighbourhood.
            image_size: (height, width).
            channels: Channels of the pixels.
            name: Name of the network in messages.
            channels_last: True for feature maps (n, h, w, c).
            channel_axes: Axis of the channels in a layer's output, by the layer's name, where it is known.

        Raises:
            ConfigError: If a layer does not exist or gives no places, or the grid does not fit.
        """
        super().__init__()
        maps = [_Maps(prefix_tokens(body), image_size) for _ in layers]
        cut = partial(CutNetwork, body, layers=layers, channels_last=channels_last, channel_axes=channel_axes)
        feature_count(cut(pooling=maps), name, channels, image_size)
        places = grid.shape({layer: each.size for layer, each in zip(layers, maps, strict=True)})
        pooling = [_Placed(each, grid, places) for each in maps]
        self.cut = cut(pooling=pooling)
        self.width = sum(each.channels for each in maps)
        self.pooling = nn.ModuleList(pooling)  # their matrices move with the network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return patches (n, gh, gw, d) of pixels (n, c, h, w)."""
        placed: Tensor = self.cut(pixels)
        return placed.permute(0, 2, 3, 1)


def patches_of(
    network: nn.Module, *, layers: Sequence[str], grid: PatchGrid, image_size: tuple[int, int]
) -> FeatureNetwork:
    """Return a network of features as one of patches, with its scaling and weights.

    Args:
        network: Uint8 images (n, h, w, c) to features, as `LitClassifier` and `LitDOC` train it.
        layers: Names of the layers in the network that it wraps.
        grid: Grid and neighbourhood.
        image_size: (height, width) of the images.

    Raises:
        ConfigError: If the network is of another kind, a layer does not exist or gives no places, or the grid does not
            fit.
    """
    if not isinstance(network, FeatureNetwork):
        raise ConfigError(
            f"patches are taken from a lit_od.training.networks.feature_network.FeatureNetwork, and backbone() gives "
            f"{type(network).__name__}: wrap it so"
        )
    body = network.body.body if isinstance(network.body, CutNetwork) else network.body
    channels, device = network.scale.shape[1], network.scale.device
    require_layers(body, layers)
    with evaluating(body):
        axes = channel_axes(body, layers, torch.zeros(1, channels, *image_size, device=device))
    patches = PatchNetwork(
        body,
        layers=layers,
        grid=grid,
        image_size=image_size,
        channels=channels,
        name=type(body).__name__,
        channels_last=getattr(body, "output_fmt", "NCHW") == "NHWC",
        channel_axes=axes,
    )
    return network.over(patches.to(device), num_features=patches.width)


def prefix_tokens(body: nn.Module) -> int:
    """Return the number of class and register tokens ahead of those of places.

    timm's transformers state it; torchvision's have one class token.
    """
    stated: int | None = getattr(body, "num_prefix_tokens", None)
    return int(hasattr(body, "class_token")) if stated is None else stated


class _Maps:
    """A layer's output as maps (n, c, h, w).

    As a pooling it notes their size and flattens them.

    Attributes:
        size: (h, w), once it has run.
        channels: c.
    """

    def __init__(self, prefix: int, image_size: tuple[int, int]) -> None:
        self.prefix, self.image_size = prefix, image_size
        self.size, self.channels = (0, 0), 0

    def __call__(self, output: Tensor, layer: str) -> Tensor:
        maps = self.maps(output, layer)
        self.size, self.channels = (maps.shape[2], maps.shape[3]), maps.shape[1]
        return maps.flatten(1)

    def maps(self, output: Tensor, layer: str) -> Tensor:
        """Return maps (n, c, h, w) of maps or of tokens (n, t, c), which lie row by row."""
        if output.ndim == 4:
            return output
        if output.ndim != 3:
            raise ConfigError(
                f"layer {layer} gives shape {tuple(output.shape)}, which has no places: wanted maps (n, c, h, w) or "
                "tokens (n, t, d)"
            )
        tokens = output[:, self.prefix :]
        count = tokens.shape[1]
        high, wide = self.image_size
        rows = round((count * high / wide) ** 0.5)
        if rows < 1 or count % rows or rows * wide != count // rows * high:
            raise ConfigError(
                f"layer {layer} gives {output.shape[1]} tokens, of which {self.prefix} stand for no place: the others "
                f"are no grid over an image of {high}x{wide} (h x w)"
            )
        return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], rows, count // rows)


class _Placed(nn.Module):
    """A layer's maps, brought to the grid."""

    left: Tensor
    right: Tensor

    def __init__(self, maps: _Maps, grid: PatchGrid, places: tuple[int, int]) -> None:
        super().__init__()
        self.maps = maps
        left, right = grid.weights(maps.size, places)
        self.register_buffer("left", torch.from_numpy(left), persistent=False)
        self.register_buffer("right", torch.from_numpy(right.T.copy()), persistent=False)

    def forward(self, output: Tensor, layer: str) -> Tensor:
        return self.left @ (self.maps.maps(output, layer) @ self.right)
