"""Networks that reconstruct images: two published ones, and pairs of modules.

Both published ones are Keras networks, with Keras' initial weights. All are wrapped alike: uint8
images in, scaled to [0, 1] inside, so that an exported graph needs no further preprocessing.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lit_od.errors import ConfigError
from lit_od.import_paths import class_and_arguments
from lit_od.training.networks.feature_network import glorot
from lit_od.training.networks.pretrained import own_module
from lit_od.training.networks.trial import output_of_zeros, shape_or_type

DENSE, CONV = "dense", "conv"
CODE = 1024
"""Values of the dense network's code."""

KERAS_EPSILON, KERAS_MOMENTUM = 1e-3, 1 - 0.99
"""Keras' addition to the variance in batch normalisation, and the weight of a batch in the running statistics."""


class Autoencoder(nn.Module):
    """Encoder and decoder: pixels to their reconstructions.

    Attributes:
        encoder: Pixels (n, c, h, w) in [0, 1] to a code of any shape.
        decoder: The code to pixels (n, c, h, w).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Join the two halves."""
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Return reconstructions (n, c, h, w) of pixels (n, c, h, w) in [0, 1]."""
        reconstructed: Tensor = self.decoder(self.encoder(pixels))
        return reconstructed


class SquaredErrors(nn.Module):
    """Uint8 images (n, h, w, c) to squared errors of their reconstructions.

    Attributes:
        autoencoder: Pixels (n, c, h, w) in [0, 1] to their reconstructions.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        """Take the network, whose weights are shared."""
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        """Return squared errors (n, h, w, c), pixels in [0, 1]."""
        pixels = to_pixels(images)
        return to_last((self.autoencoder(pixels) - pixels).square())


class ErrorsAndReconstruction(SquaredErrors):
    """Uint8 images to squared errors and reconstructions in [0, 1], for heat maps."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # one output more
        """Return squared errors and reconstructions, both (n, h, w, c)."""
        pixels = to_pixels(images)
        reconstructed = self.autoencoder(pixels)
        return to_last((reconstructed - pixels).square()), to_last(reconstructed)


def to_pixels(images: Tensor) -> Tensor:
    """Convert uint8 images (n, h, w, c) to pixels (n, c, h, w) in [0, 1], float32.

    Their order in memory stays.
    """
    return images.permute(0, 3, 1, 2).to(torch.float32) / 255


def to_last(pixels: Tensor) -> Tensor:
    """Convert (n, c, h, w) to (n, h, w, c), float32."""
    return pixels.permute(0, 2, 3, 1).float()


def build_autoencoder(
    architecture: str | None,
    *,
    channels: int,
    image_size: tuple[int, int],
    encoder: str | Mapping[str, Any] | None = None,
    decoder: str | Mapping[str, Any] | None = None,
) -> Autoencoder:
    """Build the autoencoder that a recipe names.

    Args:
        architecture: "dense" (strided convolutions around a code of 1,024 values), "conv" (convolutions
            with batch normalisation around a feature map), or None for encoder and decoder.
        channels: 1 or 3.
        image_size: (height, width).
        encoder: Import path of an nn.Module, `package.module:Class`, called with those of channels and
            image_size that it takes; pixels (n, c, h, w) in [0, 1] to a code of any shape; or class_path with
            init_args.
        decoder: Likewise; the code to (n, c, h, w).

    Raises:
        ConfigError: If there is no such network, or it does not fit the images.
    """
    if channels not in (1, 3):
        raise ConfigError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if (encoder is None) != (decoder is None):
        raise ConfigError("encoder and decoder go together: give both, or neither")
    if encoder is not None and decoder is not None:
        if architecture is not None:
            raise ConfigError(f"architecture {architecture!r} has halves of its own: leave it out, or the pair")
        offered = {"channels": channels, "image_size": image_size}
        halves = [class_and_arguments(half, key) for key, half in (("encoder", encoder), ("decoder", decoder))]
        network = Autoencoder(*(own_module(path, offered, arguments) for path, arguments in halves))
        _require_same_shape(network, channels, image_size)
        return network
    match architecture:
        case "dense":
            _require_divisible(DENSE, image_size, 8)
            return _dense(channels, image_size)
        case "conv":
            _require_divisible(CONV, image_size, 4)
            return _conv(channels)
    raise ConfigError(
        f"architecture must be {DENSE} or {CONV}, got {architecture!r}. "
        "For a network of your own give encoder and decoder"
    )


def _dense(channels: int, image_size: tuple[int, int]) -> Autoencoder:
    height, width = image_size[0] // 8, image_size[1] // 8
    encoder: list[nn.Module] = []
    for before, after in pairwise((channels, 64, 128, 512)):
        encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
    encoder += [nn.Flatten(), nn.Linear(512 * height * width, CODE)]
    decoder: list[nn.Module] = [nn.Linear(CODE, 128 * height * width), nn.Unflatten(1, (128, height, width))]
    for before, after in pairwise((128, 256, 64)):
        decoder += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
    decoder += [nn.ConvTranspose2d(64, channels, 4, stride=2, padding=1), nn.Sigmoid()]
    return _initialised(Autoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder)))


def _conv(channels: int) -> Autoencoder:
    encoder = nn.Sequential(*_block(channels, 32), nn.MaxPool2d(2), *_block(32, 64), nn.MaxPool2d(2), *_block(64, 128))
    decoder = nn.Sequential(
        *_block(128, 64),
        nn.Upsample(scale_factor=2, mode="nearest"),
        *_block(64, 32),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(32, channels, 3, padding=1),
        nn.Sigmoid(),
    )
    return _initialised(Autoencoder(encoder, decoder))


def _block(before: int, after: int) -> list[nn.Module]:
    """Return two 3x3 convolutions, each with ReLU and then batch normalisation.

    This is the order of the published network.
    """
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [
            nn.Conv2d(width, after, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(after, eps=KERAS_EPSILON, momentum=KERAS_MOMENTUM),
        ]
    return layers


def _initialised(network: Autoencoder) -> Autoencoder:
    """Set Keras' initial values.

    Weights lie in memory as the images do, channels last, which convolutions in bfloat16 gain from.
    """
    glorot(network)
    return network.to(memory_format=torch.channels_last)


def _require_divisible(name: str, image_size: tuple[int, int], stride: int) -> None:
    if any(side < stride or side % stride for side in image_size):
        raise ConfigError(
            f"architecture {name} halves images to a {stride}th: height and width must be multiples of {stride}, "
            f"got {image_size[0]}x{image_size[1]} (h x w). Change data.prepare.size"
        )


def _require_same_shape(network: Autoencoder, channels: int, image_size: tuple[int, int]) -> None:
    """Raise ConfigError unless a pair reconstructs images in their shape."""
    shape = (channels, *image_size)
    failure = f"encoder and decoder fail on an image of shape {shape} (c, h, w)"
    output = output_of_zeros(network, shape, failure)
    if not isinstance(output, Tensor) or output.shape != (1, *shape):
        raise ConfigError(f"the decoder must give what the encoder takes, {(1, *shape)}, got {shape_or_type(output)}")
