"""Deep one-class features (DOC): twin networks on reference and target images."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from lit_od.errors import ConfigError
from lit_od.training.compactness import compactness_loss
from lit_od.training.data.twin_data import TwinData
from lit_od.training.frozen import FrozenBackbone
from lit_od.training.networks.feature_network import glorot
from lit_od.training.networks.trunk import Trunk, cut_of, layers_of, running_order
from lit_od.training.trained_module import OPTIMIZERS, TrainedModule

__all__ = ["LitDOC", "compactness_loss"]

Half: TypeAlias = tuple[Tensor, Tensor]
"""Images (b, h, w, c), uint8, or activations (b, d), and class indices (b,), int64."""


class Twin(TypedDict):
    """A batch of each stream."""

    reference: Half
    target: Half


class LitDOC(TrainedModule):
    """Deep one-class features: descriptive of many classes and compact for one.

    The method is that of Perera and Patel (2019). Both networks share the features g and the head h. One
    step takes a batch of the reference set and one of the target class, and minimises

        l = a l_D + lambda l_C

    in one backward pass: l_D is the cross-entropy of h(g) on the reference set, l_C the compactness of g
    on the target class (`compactness_loss`), over the batches of all processes together. h is dropped
    afterwards: `backbone()` is g. Batch normalisation stays in evaluation mode, with its pretrained statistics.

    Attributes:
        network: g, uint8 images (n, h, w, c) to features (n, k).
        head: h, features to logits of the reference classes.
        trained: Names of the layers of g that are trained.
        trunk: g's frozen part and its trained one; None where its activations are not kept.
    """

    def __init__(
        self,
        *,
        network: str | Mapping[str, Any],
        layer: str,
        reference_classes: int,
        pool: str = "avg",
        trained_layers: int = 4,
        trained: Sequence[str] | None = None,
        compactness: float = 0.1,
        descriptiveness: float = 1.0,
        optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        learning_rate: float = 5e-5,
        weight_decay: float = 5e-5,
        cache_trunk: bool = True,
        pretrained: bool = True,
        checkpoint_path: str | None = None,
        channels: int = 3,
        image_size: Sequence[int] = (224, 224),
    ) -> None:
        """Build g and h; every argument is saved with the checkpoint.

        Args:
            network: As of `FrozenBackbone`.
            layer: The layer whose pooled output is g's, as in `FrozenBackbone`.
            reference_classes: Number of classes of the reference set, at least 2.
            pool: Pooling of that output.
            trained_layers: Number of the last layers that are trained, h among them. A layer is a child of
                the network, or of one of its nn.Sequential children, that has weights; a batch
                normalisation belongs to the one before it.
            trained: Names of the layers of g that are trained, in place of the last ones.
            compactness: lambda.
            descriptiveness: a; 0 for an ablation.
            optimizer: "adam", "adamw" or "sgd" (momentum 0.9).
            learning_rate: Learning rate of all steps.
            weight_decay: Weight decay of all trained weights, as the optimiser applies it.
            cache_trunk: Run the frozen layers once an image, where images are not augmented and come
                from a run's own data, and train on their activations, kept in half precision.
            pretrained: Without a file, take the published weights; else they are random.
            checkpoint_path: File with weights under the network's own names.
            channels: Channels of the images.
            image_size: Height and width of the images.

        Raises:
            ConfigError: If an argument is invalid, or the network does not fit the images.
            DataError: If the weights are not available.
        """
        super().__init__()
        if reference_classes < 2:
            raise ConfigError(f"a reference set needs at least 2 classes, got {reference_classes}: see data.reference")
        if optimizer not in ("adam", "adamw", "sgd"):
            raise ConfigError(f"optimizer must be adam, adamw or sgd, got {optimizer!r}")
        if not learning_rate > 0 or not weight_decay >= 0:
            raise ConfigError(
                f"wanted learning_rate > 0 and weight_decay >= 0, got {learning_rate:g}, {weight_decay:g}"
            )
        if min(compactness, descriptiveness) < 0 or not compactness + descriptiveness > 0:
            raise ConfigError(
                "wanted compactness and descriptiveness at least 0 and one of them above, "
                f"got {compactness:g} and {descriptiveness:g}"
            )
        size = [int(side) for side in image_size]
        self.save_hyperparameters()
        self.network = FrozenBackbone(
            network=network,
            layers=[layer],
            pool=pool,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            channels=channels,
            image_size=size,
        ).network
        self.head = nn.Linear(self.network.num_features, reference_classes)
        glorot(self.head)
        images = _any_images(channels, size)
        body = cut_of(self.network).body
        order = list(running_order(body, lambda: self.network(images)))
        self.trained = _chosen(layers_of(body, order), trained_layers) if trained is None else list(trained)
        for name in self.trained:
            if name not in order:
                raise ConfigError(
                    f"trained: no layer {name!r} runs before {layer}: the layers are {_named(body, order)}"
                )
            for weight in body.get_submodule(name).parameters():
                weight.requires_grad_(weight.numel() > 0)
        first = min(self.trained, key=order.index, default=None)
        self.trunk = Trunk(self.network, first, images) if cache_trunk else None
        self._cached = False  # True while batches hold the trunk's activations
        self.network.to(memory_format=torch.channels_last)  # a step takes two thirds of the time on a CPU
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, reference_classes) of images (b, h, w, c), uint8."""
        logits: Tensor = self.head(self.network(images))
        return logits

    def backbone(self) -> nn.Module:
        """Return the exported module: uint8 images (n, h, w, c) to features (n, k)."""
        return self.network

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen layers and batch normalisation stay in evaluation mode."""
        super().train(mode)
        self.network.eval()
        body = cut_of(self.network).body
        for name in self.trained if mode else ():
            for part in body.get_submodule(name).modules():
                part.training = not isinstance(part, _BatchNorm)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return the features g (b, k) of images, or of the trunk's activations."""
        found: Tensor = self.trunk.tail(images) if self._cached and self.trunk else self.network(images)
        return found.float()

    def on_fit_start(self) -> None:
        """Put the trunk's activations in the images' place in the run's data."""
        data = getattr(self.trainer, "datamodule", None)
        self._cached = isinstance(data, TwinData) and data.keep(self.trunk, self.device)

    def on_fit_end(self) -> None:
        """Return to images."""
        self._cached = False
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, TwinData):
            data.keep(None, self.device)

    def training_step(self, batch: Twin, batch_idx: int) -> Tensor:
        """Return the loss of a batch of each stream."""
        (images, labels), (targets, _) = batch["reference"], batch["target"]
        # kept activations are float16, which autocast on a CPU cannot join
        joined = torch.cat([each.float() if each.is_floating_point() else each for each in (images, targets)])
        features = self.features(joined)
        reference, target = features[: len(images)], features[len(images) :]
        descriptive = F.cross_entropy(self.head(reference).float(), labels)
        # each process takes the loss of all, and the exchange of gradients divides their sum by the processes again
        compact = compactness_loss(self._of_all(target))
        self.add("train", descriptive.detach(), compact.detach(), descriptive.new_tensor(1.0))
        return self._total(descriptive, compact)

    def validation_step(self, batch: Half, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a validation batch to the loss.

        Args:
            batch: Images or activations, and labels.
            batch_idx: Not used.
            dataloader_idx: 0 for the reference set's validation part, 1 for the target's.
        """
        images, labels = batch
        features = self.features(images)
        if dataloader_idx == 0:
            loss = F.cross_entropy(self.head(features).float(), labels, reduction="sum")
            self.add("reference", loss.double(), loss.new_tensor(len(labels), dtype=torch.float64))
        else:
            rows = features.double()
            count = rows.new_tensor([float(len(rows))])
            self.add("target", *torch.cat([count, rows.sum(0), rows.square().sum()[None]]))

    def log_epoch(self, stage: str) -> None:
        """Log the loss and its parts.

        Of the training they are means over the epoch's steps; of the validation they are those of all images on
        all processes, and compactness is that of the whole part.
        """
        if stage == "train":
            descriptive, compact, steps = self.totals(stage)
            descriptive, compact = descriptive / steps, compact / steps
        else:
            loss, images = self.totals("reference")
            target = self.totals("target")
            count, total, squares = target[0], target[1:-1], target[-1]
            mean = total / count
            variance = (squares / count - mean.square().sum()) / len(mean)
            descriptive, compact = loss / images, (count / (count - 1)).square() * variance
        self.log(f"{stage}_loss", self._total(descriptive, compact))
        self.log(f"{stage}_loss_descriptiveness", descriptive)
        self.log(f"{stage}_loss_compactness", compact)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser of h and the trained layers, its learning rate constant."""
        options = self.hparams
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        make, rate = OPTIMIZERS[options["optimizer"]], float(options["learning_rate"])
        return make(weights, rate, weight_decay=float(options["weight_decay"]))

    def _of_all(self, features: Tensor) -> Tensor:
        """Gather the features of all processes, (b world, k), with gradients to each."""
        if self.trainer.world_size == 1:
            return features
        gathered = self.all_gather(features, sync_grads=True)  # (world, b, k)
        return torch.as_tensor(gathered).flatten(0, 1)

    def _total(self, descriptive: Tensor, compact: Tensor) -> Tensor:
        options = self.hparams
        return float(options["descriptiveness"]) * descriptive + float(options["compactness"]) * compact


def _chosen(layers: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return the modules of the last layers, h counted as one of them."""
    if not 1 <= count <= len(layers) + 1:
        raise ConfigError(f"trained_layers must be 1 (the head alone) to {len(layers) + 1} here, got {count}")
    return [name for layer in layers[len(layers) + 1 - count :] for name in layer]


def _named(body: nn.Module, order: Sequence[str]) -> str:
    return ", ".join(name for layer in layers_of(body, order) for name in layer)


def _any_images(channels: int, size: Sequence[int]) -> Tensor:
    """Return two images of noise, the same in every run, (2, h, w, c)."""
    generator = torch.Generator()
    generator.manual_seed(0)
    return torch.randint(0, 256, (2, *size, channels), generator=generator, dtype=torch.uint8)
