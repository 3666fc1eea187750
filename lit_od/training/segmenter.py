"""A segmentation head over frozen patches, trained on synthetic defects.

It follows DRAEM and CutPaste (defects of images) and SuperSimpleNet (a small head over frozen features).

References:
    Rolih, Fucka and Skocaj 2024, SuperSimpleNet.
    Zavrtanik, Kristan and Skocaj 2021, DRAEM.
    Shrivastava, Gupta and Girshick 2016, Training Region-based Object Detectors with Online Hard Example Mining.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_od.errors import ConfigError, DataError
from lit_od.images.batching import load
from lit_od.images.preparation import counted_pixels
from lit_od.images.roi import nearest
from lit_od.images.split import evenly
from lit_od.training.data.augmentation import augment, step_generator
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.synthetic_defects import synthetic_defects
from lit_od.training.frozen import FrozenBackbone
from lit_od.training.trained_module import TrainedModule
from lit_od.types import Output

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images (b, h, w, c), uint8, and labels (b,), which are not used."""

DEFECTIVE = 0.3
"""Share of a cell's pixels that are defective from which the cell is; a cell with fewer, but some, plays no part."""

HARD = 0.02
"""Share of the normal cells, those of the largest loss, whose loss counts beside the mean of all."""

CELLS = 2048
"""Normal cells that a step draws, and half as many defective ones."""

MOST_IMAGES = 512
"""Training images whose cells are kept, evenly spread over all; as many validation images are kept likewise."""

MOST_LEVELLED = 2**15
"""Normal cells that set the factor of the log-odds."""

RUN_AT_ONCE = 16
"""Images that the trunk runs at once."""


class SegmentationHead(nn.Module):
    """Layers that give each patch one channel more: the log-odds of a defect.

    Attributes:
        scale: Standardises the channels.
        layers: Two linear layers over each patch.
        factor: Multiplies the log-odds, so that the channel weighs in distances what the others do.
    """

    factor: Tensor

    def __init__(self, channels: int, hidden: int) -> None:
        """Make the layers.

        Args:
            channels: Channels of a patch.
            hidden: Units of the hidden layer.
        """
        super().__init__()
        self.scale = nn.BatchNorm1d(channels, affine=False, momentum=None)
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )
        self.register_buffer("factor", torch.ones(()))

    def logits(self, patches: Tensor) -> Tensor:
        """Return the log-odds (n, gh, gw) of patches (n, gh, gw, d)."""
        rows = self.layers(self.scale(patches.flatten(0, 2)))
        logits: Tensor = rows.reshape(patches.shape[:3])
        return logits

    def forward(self, patches: Tensor) -> Tensor:
        """Return patches (n, gh, gw, d + 1) of patches (n, gh, gw, d)."""
        return torch.cat([patches, self.factor * self.logits(patches)[..., None]], dim=-1)

    @torch.no_grad()
    def level(self, patches: Tensor) -> None:
        """Set the factor by the spread of normal patches, (n, gh, gw, d)."""
        channels, logits = (each.float().std(0) for each in (patches.flatten(0, 2), self.logits(patches).flatten()))
        self.factor.copy_(channels.mean() / logits.clamp(min=1e-6))


class LitSegmenter(TrainedModule):
    """A frozen network and a small head that finds synthetic defects in its patches.

    The trunk runs each training image once as it is and in some views with defects. Their cells are kept in half
    precision, and every step of the head draws from all of them, whichever images its batch holds. The loss is the
    binary cross-entropy: the mean over defective cells, over normal ones, and over the hardest normal ones. Cells
    outside the region of interest play no part, and no defect lies there.

    Attributes:
        trunk: Images to patches (n, gh, gw, d), frozen.
        head: Patches to log-odds.
    """

    output: ClassVar[Output] = "patches"
    """Output of `backbone()`."""

    def __init__(
        self,
        *,
        network: str = "lit_od:tf_efficientnet_lite0",
        layers: Sequence[str] = ("blocks.1", "blocks.2", "blocks.4"),
        grid: int | Sequence[int] | None = None,
        neighbourhood: int = 3,
        checkpoint_path: str | None = None,
        pretrained: bool = True,
        hidden: int = 128,
        views: int = 3,
        defects: int = 2,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        channels: int = 3,
        image_size: Sequence[int] = (256, 256),
    ) -> None:
        """Build the network; every argument is saved with the checkpoint.

        Args:
            network: As of `FrozenBackbone`.
            layers: As of `FrozenBackbone`.
            grid: As of `FrozenBackbone`.
            neighbourhood: As of `FrozenBackbone`.
            checkpoint_path: As of `FrozenBackbone`.
            pretrained: As of `FrozenBackbone`.
            hidden: Units of the head's hidden layer.
            views: Views of each training image with defects.
            defects: Synthetic defects in a view.
            learning_rate: Learning rate at the start; it falls to 0 as a half cosine.
            weight_decay: Weight decay of AdamW.
            channels: Channels of the images, 1 or 3.
            image_size: Height and width of the images.

        Raises:
            ConfigError: If an argument is invalid, or the network does not fit the images.
            DataError: If weights are not available.
        """
        super().__init__()
        if min(hidden, views, defects) < 1 or not learning_rate > 0 or not weight_decay >= 0:
            raise ConfigError(
                "wanted hidden, views and defects >= 1, learning_rate > 0 and weight_decay >= 0, got "
                f"{hidden}, {views}, {defects}, {learning_rate:g} and {weight_decay:g}"
            )
        self.save_hyperparameters()
        self.trunk = FrozenBackbone(
            network=network,
            layers=layers,
            output="patches",
            grid=grid,
            neighbourhood=neighbourhood,
            checkpoint_path=checkpoint_path,
            pretrained=pretrained,
            channels=channels,
            image_size=image_size,
        ).network
        self.trunk.to(memory_format=torch.channels_last)  # as fast again on a CPU
        self.head = SegmentationHead(self.trunk.num_features, hidden)
        self._normal = self._defective = torch.empty(0)  # cells (m, d), while a training runs
        self._held: dict[int, tuple[Tensor, Tensor]] = {}  # patches and covered shares by validation batch
        self._region: Tensor | None = None  # pixels that count (h, w)

    def forward(self, images: Tensor) -> Tensor:
        """Return patches (b, gh, gw, d + 1) of images (b, h, w, c), uint8."""
        patches: Tensor = self.head(self.trunk(images))
        return patches

    def backbone(self) -> nn.Module:
        """Return the exported module: uint8 images (n, h, w, c) to patches."""
        return nn.Sequential(self.trunk, self.head)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the head; the trunk stays in evaluation mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def setup(self, stage: str) -> None:
        """Take the region of interest from a run's own data."""
        data = getattr(self.trainer, "datamodule", None)
        counted = counted_pixels(data.prepare) if isinstance(data, ImageData) else None
        self._region = None if counted is None else torch.from_numpy(counted)

    def on_fit_start(self) -> None:
        """Run the trunk over the training images and keep their cells.

        Raises:
            ConfigError: If the images are not those of a run's own data.
            DataError: If no synthetic defect covers a cell.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageData):
            raise ConfigError("LitSegmenter trains on the images of lit_od.training.ImageData: pass it as datamodule")
        images = torch.from_numpy(load(evenly(data.sources("train"), MOST_IMAGES), data.prepare))
        normal, defective = [], []
        generator, changes = step_generator(data.seed, 0, 0), data.config.augment
        for view in range(int(self.hparams["views"])):
            for batch in torch.split(images, RUN_AT_ONCE):
                shown = (batch if changes is None else augment(batch, changes, generator)).to(self.device)
                changed, masks = self._with_defects(shown, generator)
                if view == 0 or changes is not None:
                    patches = self._patches(shown)
                    normal.append(patches[self._shares(torch.zeros_like(masks), patches) == 0])
                patches = self._patches(changed)
                defective.append(patches[self._shares(masks, patches) >= DEFECTIVE])
        self._normal, self._defective = torch.cat(normal), torch.cat(defective)
        if not len(self._defective):
            raise DataError("no synthetic defect covers a cell of the grid: take a finer grid or more views")

    def on_fit_end(self) -> None:
        """Drop the kept cells."""
        self._normal = self._defective = torch.empty(0)
        self._held = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of cells drawn from all images."""
        rows = [
            kept[torch.randint(len(kept), (count,), device=kept.device)]
            for kept, count in ((self._defective, CELLS // 2), (self._normal, CELLS))
        ]
        logits = self.head.logits(torch.cat(rows)[:, None, None].float()).flatten()
        loss = segmentation_loss(logits[: len(rows[0])], logits[len(rows[0]) :])
        self._add("train", loss.detach(), len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a validation batch to the loss; its defects are the same in every epoch."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a test batch to the loss; its defects are the same every time."""
        self._evaluate("test", batch, batch_idx)

    def log_epoch(self, stage: str) -> None:
        """Log the loss, the mean over the stage's images on all processes."""
        loss, images = self.totals(stage)
        self.log(f"{stage}_loss", loss / images)
        if stage == "val" and len(self._normal):  # with the weights that a checkpoint then keeps
            step = -(-len(self._normal) // MOST_LEVELLED)
            self.head.level(self._normal[::step, None, None].float())

    def configure_optimizers(self) -> Any:
        """Return AdamW on the head's weights, and a half cosine over all steps."""
        options = self.hparams
        optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=float(options["learning_rate"]), weight_decay=float(options["weight_decay"])
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        held = self._held.get(batch_idx) if stage == "val" else None
        if held is None:
            changed, masks = self._with_defects(batch[0], torch.Generator().manual_seed(batch_idx))
            patches = self._patches(torch.cat([batch[0], changed]))
            held = patches, self._shares(torch.cat([torch.zeros_like(masks), masks]), patches)
            if stage == "val" and (batch_idx + 1) * len(batch[0]) <= MOST_IMAGES:
                self._held[batch_idx] = held
        logits = self.head.logits(held[0].float()).float()
        loss = segmentation_loss(logits[held[1] >= DEFECTIVE], logits[held[1] == 0])
        self._add(stage, loss, len(batch[0]))

    def _with_defects(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images with defects, and the masks (n, h, w) of all of them."""
        masks, normal = torch.zeros(images.shape[:3], dtype=torch.bool, device=images.device), images
        for _ in range(int(self.hparams["defects"])):
            images, changed = synthetic_defects(images, generator)
            masks |= changed
        if self._region is not None:
            region = self._region.to(images.device)
            images, masks = torch.where(region[..., None], images, normal), masks & region
        return images, masks

    def _shares(self, masks: Tensor, patches: Tensor) -> Tensor:
        """Return the share of each cell that masks cover; NaN if it does not count."""
        shares = covered(masks, patches)
        if self._region is not None:
            places = (nearest(*sides) for sides in zip(self._region.shape, shares.shape[1:], strict=True))
            cells = self._region.numpy()[np.ix_(*places)]
            shares = shares.masked_fill(torch.from_numpy(~cells).to(shares.device), torch.nan)
        return shares

    def _patches(self, images: Tensor) -> Tensor:
        """Return the trunk's patches (n, gh, gw, d), in half precision."""
        with torch.no_grad():
            patches: Tensor = self.trunk(images)
        return patches.half()

    def _add(self, stage: str, loss: Tensor, images: int) -> None:
        self.add(stage, loss * images, loss.new_tensor(images))


def covered(masks: Tensor, patches: Tensor) -> Tensor:
    """Return the share of each cell's pixels that a mask covers, (n, gh, gw).

    Args:
        masks: Shape (n, h, w).
        patches: Shape (n, gh, gw, d).
    """
    shares: Tensor = F.adaptive_avg_pool2d(masks.float(), (patches.shape[1], patches.shape[2]))
    return shares


def segmentation_loss(defective: Tensor, normal: Tensor) -> Tensor:
    """Return the loss of cells from their log-odds.

    Args:
        defective: Log-odds of defective cells, shape (p,).
        normal: Log-odds of normal cells, shape (q,).
    """
    losses = F.softplus(normal)  # cross-entropy of a normal cell
    hardest = losses.topk(min(len(losses), max(1, round(HARD * len(losses))))).values
    parts = [each.mean() for each in (F.softplus(-defective), losses, hardest) if len(each)]
    return torch.stack(parts).sum()
