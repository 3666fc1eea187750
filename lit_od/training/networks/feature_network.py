"""Networks from images to features: two small CNNs, timm's, and others by path.

All are wrapped alike: uint8 images in, features out, normalisation inside, so that an exported graph
needs no further preprocessing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_od.errors import ConfigError
from lit_od.import_paths import network_and_arguments
from lit_od.training.networks.pretrained import (
    create_timm,
    feature_count,
    is_import_path,
    own_module,
    require_free,
    resample,
)
from lit_od.training.networks.weights import load_weights

SMALL_CNN = "small-cnn"
SHIPPED = {
    SMALL_CNN: "lit_od.training.networks.feature_network:SmallCNN",
    "deep-cnn": "lit_od.training.networks.deep_cnn:DeepCNN",
}
"""Import paths of the networks that go by a name."""


class FeatureNetwork(nn.Module):
    """Uint8 images (n, h, w, c) to features (n, d), normalisation included.

    Attributes:
        body: Normalised float pixels (n, c, h, w) to features (n, d).
        num_features: d.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, *, num_features: int, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap a body that takes (pixel / 255 - mean) / std.

        Args:
            body: Normalised float pixels (n, c, h, w) to features (n, d).
            num_features: d.
            mean: Mean of each channel, pixels in [0, 1].
            std: Standard deviation of each channel, pixels in [0, 1].
        """
        super().__init__()
        self.body = body
        self.num_features = num_features
        spread = torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * spread))
        self.register_buffer("shift", torch.tensor(mean).view(1, -1, 1, 1) / spread)

    def over(self, body: nn.Module, *, num_features: int) -> "FeatureNetwork":
        """Return another body behind the same normalisation.

        Args:
            body: Normalised float pixels (n, c, h, w) to features.
            num_features: d.
        """
        count = self.scale.shape[1]
        other = FeatureNetwork(body, num_features=num_features, mean=[0.0] * count, std=[1.0] * count)
        other.scale, other.shift = self.scale, self.shift
        return other

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, d) of images (n, h, w, c), uint8."""
        pixels = images.permute(0, 3, 1, 2).contiguous().to(self.scale.dtype)
        features: Tensor = self.body(pixels * self.scale - self.shift)
        return features


class SmallCNN(nn.Module):
    """Three convolutions with average pooling, then 64 sigmoid features.

    Attributes:
        num_features: 64, times the width.
    """

    def __init__(self, *, channels: int, image_size: tuple[int, int], dropout: float = 0.2, width: float = 1.0) -> None:
        """Make the layers for images of one size.

        Args:
            channels: Channels of the images.
            image_size: (height, width).
            dropout: Share of the inputs of the dense layer that are dropped in training.
            width: Factor of the channels of the convolutions and of the features.

        Raises:
            ConfigError: If a layer would have no channel.
        """
        super().__init__()
        *convolutions, self.num_features = scaled_widths((32, 64, 128, 64), width)
        widths = (channels, *convolutions)
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        height, width = image_size
        for _ in self.convolutions:
            height, width = -(-height // 2), -(-width // 2)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(widths[-1] * height * width, self.num_features)
        glorot(self)
        self.to(memory_format=torch.channels_last)  # the order of the images; a tenth to a third faster on a CPU

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features (n, 64), in (0, 1), of pixels (n, c, h, w) in [-1, 1]."""
        for convolution in self.convolutions:
            pixels = F.relu(convolution(pixels), inplace=True)
            # a last odd row or column is averaged over the pixels that exist
            pixels = F.avg_pool2d(pixels, 2, ceil_mode=True, count_include_pad=False)
        return torch.sigmoid(self.dense(self.dropout(pixels.flatten(1))))


def scaled_widths(widths: Sequence[int], width: float) -> list[int]:
    """Return numbers of channels times a factor, rounded.

    Raises:
        ConfigError: If the factor is no number above 0, or leaves a layer no channel.
    """
    number = isinstance(width, int | float) and not isinstance(width, bool) and 0 < width < float("inf")
    scaled = [round(each * width) for each in widths] if number else [0]
    if not all(scaled):
        raise ConfigError(f"width must be a number that leaves {min(widths)} channels at least one, got {width!r}")
    return scaled


def glorot(network: nn.Module) -> None:
    """Set Keras' initial values in all layers.

    Weights are uniform in +-sqrt(6 / (fan in + fan out)), biases zero.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def build_network(
    network: str | Mapping[str, Any],
    *,
    channels: int,
    image_size: tuple[int, int],
    pretrained: bool = False,
    checkpoint_path: str | None = None,
    dropout: float = 0.2,
) -> FeatureNetwork:
    """Build the feature network that a recipe names.

    Args:
        network: "small-cnn"; "deep-cnn"; a timm model; or the import path of an nn.Module,
            `package.module:Class`. That class is called with those of channels, image_size and dropout that it
            takes, and turns pixels (n, c, h, w) in [-1, 1] into features (n, d); a FeatureNetwork is not wrapped
            again. Or one of these as class_path, with further init_args.
        channels: 1 or 3.
        image_size: (height, width).
        pretrained: Take timm's published weights, which may have to be downloaded.
        checkpoint_path: File with weights under timm's names, in their place; of images of any size.
        dropout: Share of the inputs of the last layers that are dropped in training.

    Raises:
        ConfigError: If there is no such network, or it does not fit the images.
        DataError: If the weights are not available.
    """
    name, arguments = network_and_arguments(network, "network")
    mean = std = [0.5] * channels
    if name in SHIPPED or is_import_path(name):
        if pretrained or checkpoint_path is not None:
            raise ConfigError(f"network {name!r} has no published weights: leave out pretrained and checkpoint_path")
        offered = {"channels": channels, "image_size": image_size, "dropout": dropout}
        body = own_module(SHIPPED.get(name, name), offered, arguments)
        if isinstance(body, FeatureNetwork):
            return body
    else:
        require_free(arguments, name)
        options = {"in_chans": channels, "num_classes": 0, "drop_rate": dropout} | arguments
        fetched = pretrained and checkpoint_path is None
        body = create_timm(name, pretrained=fetched, image_size=image_size, options=options, others=[*SHIPPED])
        config: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment]  # nn.Module's attributes are untyped
        if checkpoint_path is not None:
            at_size = partial(resample, name=name, image_size=image_size, options=options)
            load_weights(body, checkpoint_path, channels=channels, first=config.get("first_conv"), resample=at_size)
        mean, std = config["mean"], config["std"]
        if len(mean) != channels:
            mean, std = [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    width = feature_count(body, name, channels, image_size)
    return FeatureNetwork(body, num_features=width, mean=mean, std=std)
