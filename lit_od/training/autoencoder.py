"""An autoencoder of inliers: outliers are images that it cannot reconstruct."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_od.errors import ConfigError
from lit_od.training.networks.autoencoders import (
    ErrorsAndReconstruction,
    SquaredErrors,
    build_autoencoder,
    to_last,
    to_pixels,
)
from lit_od.training.trained_module import OPTIMIZERS, TrainedModule
from lit_od.types import Output

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images (b, h, w, c), uint8, and labels (b,), which are not used."""


class LitAutoencoder(TrainedModule):
    """An autoencoder trained to reconstruct its input.

    The loss is the mean squared error over pixels and channels, pixels in [0, 1].

    Attributes:
        network: Pixels (n, c, h, w) in [0, 1] to their reconstructions.
    """

    output: ClassVar[Output] = "errors"
    """Output of `backbone()`."""

    def __init__(
        self,
        *,
        architecture: str | None = None,
        encoder: str | Mapping[str, Any] | None = None,
        decoder: str | Mapping[str, Any] | None = None,
        channels: int = 1,
        image_size: int | Sequence[int] = (128, 128),
        optimizer: Literal["rmsprop", "adam"] = "rmsprop",
        learning_rate: float = 3e-4,
        noise: float = 0.0,
    ) -> None:
        """Build the network; every argument is saved with the checkpoint.

        Args:
            architecture: "dense" or "conv"; None where encoder and decoder are given.
            encoder: Import path of an nn.Module: pixels (n, c, h, w) in [0, 1] to a code.
            decoder: Import path of an nn.Module: the code back to pixels. Both may be class_path with init_args.
            channels: Channels of the images, 1 or 3.
            image_size: Height and width of the images, or the side of square ones.
            optimizer: "rmsprop" (decay 0.9, as in Keras) or "adam".
            learning_rate: Learning rate of all steps.
            noise: Standard deviation of the normal noise that training adds to its input, pixels in
                [0, 1], clipped there; the target is the clean image. 0 adds none.

        Raises:
            ConfigError: If an argument is invalid.
        """
        super().__init__()
        if optimizer not in ("rmsprop", "adam"):
            raise ConfigError(f"optimizer must be rmsprop or adam, got {optimizer!r}")
        if not learning_rate > 0 or not 0 <= noise < float("inf"):
            raise ConfigError(f"wanted learning_rate > 0 and noise >= 0, got {learning_rate:g} and {noise:g}")
        size = [image_size] * 2 if isinstance(image_size, int) else [int(side) for side in image_size]
        if len(size) != 2:
            raise ConfigError(f"image_size must be height and width, or one side, got {size}")
        self.save_hyperparameters()
        self.network = build_autoencoder(
            architecture, channels=channels, image_size=(size[0], size[1]), encoder=encoder, decoder=decoder
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions (b, h, w, c) in [0, 1] of images (b, h, w, c), uint8."""
        return to_last(self.network(to_pixels(images)))

    def backbone(self) -> nn.Module:
        """Return the exported module: uint8 images (n, h, w, c) to squared errors."""
        return SquaredErrors(self.network)

    def maps(self) -> nn.Module:
        """Return the module of heat maps: images to squared errors and reconstructions.

        Images are uint8, all of them (n, h, w, c).
        """
        return ErrorsAndReconstruction(self.network)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; noise is added to the input alone."""
        pixels = to_pixels(batch[0])
        inputs, noise = pixels, float(self.hparams["noise"])
        if noise:
            inputs = (pixels + noise * torch.randn_like(pixels)).clamp(0.0, 1.0)
        loss = F.mse_loss(self.network(inputs).float(), pixels)
        self._add("train", loss.detach(), len(pixels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a validation batch to the loss, without noise."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a test batch to the loss, without noise."""
        self._evaluate("test", batch)

    def log_epoch(self, stage: str) -> None:
        """Log the loss, the mean over the stage's images on all processes."""
        loss, images = self.totals(stage)
        self.log(f"{stage}_loss", loss / images)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser, with a constant learning rate."""
        options = self.hparams
        return OPTIMIZERS[options["optimizer"]](self.parameters(), float(options["learning_rate"]), eps=1e-7)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        pixels = to_pixels(batch[0])
        self._add(stage, F.mse_loss(self.network(pixels).float(), pixels), len(pixels))

    def _add(self, stage: str, loss: Tensor, images: int) -> None:
        self.add(stage, loss * images, loss.new_tensor(images))
