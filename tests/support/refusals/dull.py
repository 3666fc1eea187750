"""Networks and modules that something is wrong with, for recipes to name."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_od.training import LitClassifier


class Dull(nn.Module):
    """Four features that vary with the image, and one that does not."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 5) of (n, c, 28, 28)."""
        quarters = F.avg_pool2d(pixels.mean(1, keepdim=True), 14).flatten(1)
        return torch.cat([quarters, quarters[:, :1] * 0 + 1], dim=1)


class Blank(Dull):
    """Five features that are the same for every image."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 5) of (n, c, 28, 28)."""
        return super().forward(pixels) * 0


class Crowd(Dull):
    """Five features, each less its mean over the batch."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 5) of (n, c, 28, 28)."""
        features = super().forward(pixels)
        return features - features.mean(0, keepdim=True)


class Unsteady(LitClassifier):
    """Its loss is no number in the second epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if self.current_epoch == 1 else loss
