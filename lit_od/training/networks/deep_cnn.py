"""A small CNN with batch normalisation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_od.training.networks.feature_network import scaled_widths

WIDTHS = (24, 48, 96)
"""Channels of the stages."""

CONVOLUTIONS = (1, 2, 2)
"""Convolutions of each stage."""


class DeepCNN(nn.Module):
    """Three stages of 3x3 convolutions with average pooling between them.

    Batch normalisation and ReLU follow each convolution. The features are the means of the last stage's
    maps. `LitClassifier(layers=...)` exports those of several stages, by the names stages.0 to stages.2.

    Attributes:
        num_features: 96, times the width.
    """

    def __init__(self, *, channels: int, dropout: float = 0.2, width: float = 1.0) -> None:
        """Make the layers for images of any size.

        Args:
            channels: Channels of the images.
            dropout: Share of the features that are dropped in training.
            width: Factor of the channels of all stages.

        Raises:
            ConfigError: If a stage would have no channel.
        """
        super().__init__()
        widths = scaled_widths(WIDTHS, width)
        self.num_features = widths[-1]
        sizes = zip(pairwise((channels, *widths)), CONVOLUTIONS, strict=True)
        self.stages = nn.ModuleList(_stage([before, *[after] * count]) for (before, after), count in sizes)
        self.dropout = nn.Dropout(dropout)
        self.to(memory_format=torch.channels_last)  # the order of the images; faster on a CPU

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features (n, 96), at least 0, of pixels (n, c, h, w) in [-1, 1]."""
        for number, stage in enumerate(self.stages):
            if number:
                # a last odd row or column is averaged over the pixels that exist
                pixels = F.avg_pool2d(pixels, 2, ceil_mode=True, count_include_pad=False)
            pixels = stage(pixels)
        features: Tensor = self.dropout(pixels.mean((2, 3)))
        return features


def _stage(widths: Sequence[int]) -> nn.Sequential:
    """Return convolutions from each width to the next one."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
