"""A classifier of inliers, trained for its penultimate features."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_od.errors import ConfigError
from lit_od.training.networks.feature_network import SMALL_CNN, build_network, glorot
from lit_od.training.networks.layer_features import features_of_layers
from lit_od.training.trained_module import OPTIMIZERS, TrainedModule

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images (b, h, w, c), uint8, and class indices (b,), int64."""


class LitClassifier(TrainedModule):
    """A classifier: features of a network, a linear layer and cross-entropy.

    The loss, in training and validation alike, is the mean cross-entropy plus l2 * sum(w^2) over the
    weights, not the biases, of all convolutions and dense layers.

    Attributes:
        network: Images to features.
        head: Features to class logits.
    """

    def __init__(
        self,
        *,
        classes: int,
        network: str | Mapping[str, Any] = SMALL_CNN,
        channels: int = 1,
        image_size: Sequence[int] = (28, 28),
        pretrained: bool = False,
        checkpoint_path: str | None = None,
        dropout: float = 0.2,
        layers: Sequence[str] | None = None,
        pool: str | Sequence[str] = "avg",
        unit_length: bool = False,
        optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        learning_rate: float = 1e-3,
        l2: float = 1e-4,
        lr_factor: float = 0.1**0.5,
        lr_patience: int = 5,
        lr_floor: float = 0.5e-6,
    ) -> None:
        """Build the network; every argument is saved with the checkpoint.

        Args:
            classes: Number of classes, at least 2.
            network: "small-cnn", "deep-cnn", a timm model, or the import path of an nn.Module; or class_path, one of
                these or timm.create_model, with init_args: {class_path: small-cnn, init_args: {width: 2}}.
            channels: Channels of the images, 1 or 3.
            image_size: Height and width of the images.
            pretrained: Start from timm's published weights.
            checkpoint_path: Start from the weights in this file.
            dropout: Share of inputs of the last layers that are dropped in training.
            layers: Layers whose pooled outputs are exported, as in `FrozenBackbone`; None exports what the head
                reads.
            pool: Pooling of these layers, one for all or one a layer; see `Pooling`.
            unit_length: Divide the pooled values of each of these layers by their length.
            optimizer: "adam", "adamw" (with no further weight decay) or "sgd" (momentum 0.9).
            learning_rate: Learning rate at the start.
            l2: Factor of the sum of squared weights.
            lr_factor: Factor of the learning rate when the validation loss stagnates.
            lr_patience: Epochs without a validation loss lower by 1e-4 after which it stagnates.
            lr_floor: Least learning rate.

        Raises:
            ConfigError: If an argument is invalid.
            DataError: If weights are not available.
        """
        super().__init__()
        if classes < 2:
            raise ConfigError(f"a classifier needs at least 2 classes of inliers, got {classes}. Use class folders")
        if optimizer not in ("adam", "adamw", "sgd"):
            raise ConfigError(f"optimizer must be adam, adamw or sgd, got {optimizer!r}")
        if not learning_rate > 0 or l2 < 0 or not 0 <= dropout < 1:
            raise ConfigError(
                "wanted learning_rate > 0, l2 >= 0 and dropout in [0, 1), "
                f"got {learning_rate:g}, {l2:g} and {dropout:g}"
            )
        if not 0 < lr_factor < 1 or lr_patience < 1:
            raise ConfigError(f"wanted lr_factor in (0, 1) and lr_patience >= 1, got {lr_factor:g} and {lr_patience}")
        image_size = [int(side) for side in image_size]
        if len(image_size) != 2:
            raise ConfigError(f"image_size must be height and width, got {image_size}")
        self.save_hyperparameters()
        self.network = build_network(
            network,
            channels=channels,
            image_size=(image_size[0], image_size[1]),
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            dropout=dropout,
        )
        self.head = nn.Linear(self.network.num_features, classes)
        glorot(self.head)
        self.backbone()  # layers that do not exist are refused before a training
        self._penalised = [
            layer.weight for layer in self.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (b, classes) of images (b, h, w, c), uint8."""
        logits: Tensor = self.head(self.network(images))
        return logits

    def backbone(self) -> nn.Module:
        """Return the exported module: uint8 images (n, h, w, c) to features (n, d)."""
        options = self.hparams
        if options["layers"] is None:
            return self.network
        height, width = options["image_size"]
        return features_of_layers(
            self.network,
            options["layers"],
            options["pool"],
            unit_length=options["unit_length"],
            channels=options["channels"],
            image_size=(int(height), int(width)),
        )

    def penalty(self) -> Tensor:
        """Return l2 * sum(w^2), a scalar."""
        total = torch.stack([weight.square().sum() for weight in self._penalised]).sum()
        return float(self.hparams["l2"]) * total

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images).float(), labels) + self.penalty()
        self.add("train", loss.detach() * len(labels), loss.new_tensor(len(labels)))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a validation batch to loss and accuracy."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a test batch to loss and accuracy."""
        self._evaluate("test", batch)

    def log_epoch(self, stage: str) -> None:
        """Log the loss over all images on all processes, and an evaluation's accuracy."""
        if stage == "train":
            loss, images = self.totals(stage)
            self.log("train_loss", loss / images)
        else:
            loss, images, correct = self.totals(stage)
            self.log(f"{stage}_loss", loss / images + self.penalty().detach())
            self.log(f"{stage}_accuracy", correct / images)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the plateau rule on val_loss."""
        options = self.hparams
        chosen = {"weight_decay": 0.0} if options["optimizer"] == "sgd" else {"weight_decay": 0.0, "eps": 1e-7}
        # one kernel for all weights; in mixed precision it would not let the Trainer clip gradients
        fused = self._trainer is None or self._trainer.gradient_clip_val is None
        every = 1 if self._trainer is None else self._trainer.check_val_every_n_epoch or 1
        make = OPTIMIZERS[options["optimizer"]]
        optimizer = make(self.parameters(), float(options["learning_rate"]), fused=fused, **chosen)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=options["lr_factor"],
            patience=-(-options["lr_patience"] // every) - 1,  # torch waits for one validation more
            threshold=1e-4,
            threshold_mode="abs",
            min_lr=options["lr_floor"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def _evaluate(self, stage: str, batch: Batch) -> None:
        images, labels = batch
        logits = self(images).float()
        correct = (logits.argmax(dim=1) == labels).sum()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        self.add(stage, loss, loss.new_tensor(len(labels)), correct.to(loss.dtype))
