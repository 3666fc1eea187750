"""The images of a training run as a LightningDataModule."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from lit_od.errors import ConfigError, DataError
from lit_od.fitting.region import prepared_region
from lit_od.images.batching import load
from lit_od.images.identity import size_or_pixels
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.images.views import require_square
from lit_od.recipes.partition import find_parts
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import DataConfig
from lit_od.training.data.augmentation import augment, step_generator
from lit_od.training.data.loaders import DecodingLoader, MemoryLoader, Sampler
from lit_od.training.data.samplers import EvaluationBatches, TrainingBatches
from lit_od.training.data.torchvision_sets import open_set
from lit_od.types import Labels

Part: TypeAlias = Literal["train", "validation", "calibration", "test", "outliers"]
Loader: TypeAlias = MemoryLoader | DecodingLoader

EVALUATION_BATCH = 256
"""Largest batch without gradients; no result depends on it."""

EVALUATION_PIXELS = EVALUATION_BATCH * 96 * 96
"""Largest number of pixels of such a batch: some 600 MB of activations in a convolutional autoencoder."""

DIVIDED: tuple[Part, ...] = ("train", "validation", "calibration")
"""Parts that must stay the same from the training to the export."""


def evaluation_batch(shape: Sequence[int]) -> int:
    """Return the batch size without gradients for images of shape (h, w, ...).

    At least 1.
    """
    height, width = shape[:2]
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // (height * width)))


def in_batches(network: Callable[[Tensor], Tensor], images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Run a network on many images without gradients, a batch at a time.

    Args:
        network: Images (b, h, w, c) to one tensor (b, ...); in evaluation mode.
        images: Prepared images, (n, h, w, c) uint8.
        device: Device of the network.

    Returns:
        Outputs (n, ...), float32, on the CPU.
    """
    with torch.no_grad():
        batches = torch.split(images, evaluation_batch(images.shape[1:]))
        return torch.cat([network(batch.to(device)).float().cpu() for batch in batches])


class ImageData(LightningDataModule):
    """Images by part; batches are (uint8 (b, h, w, c), int64 (b,)).

    The parts are a function of the seed and of the order in which the images are found; training
    batches and their augmentation of (seed, epoch, step, rank). A Trainer must run this with
    `use_distributed_sampler=False`, since the batches know their process themselves.

    Attributes:
        config: The `data` part of a recipe.
        seed: Seed of splits, order and augmentation.
        parts: The images by part.
        class_names: Classes of the inliers; a label is a position in it.
    """

    def __init__(self, config: DataConfig, *, seed: int = 0, download: bool = True) -> None:
        """Find and divide the images; none is opened yet.

        Args:
            config: The `data` part of a recipe.
            seed: At least 0.
            download: True lets torchvision download a set that is missing.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If images or classes are missing, or a class has too few images.
        """
        super().__init__()
        for value, kind in ((config, DataConfig), (getattr(config, "prepare", None), Preparation)):
            if not isinstance(value, kind):
                raise ConfigError(
                    "wanted the images as lit_od.recipes.schema.DataConfig with lit_od.images.preparation.Preparation "
                    f"as prepare, got {type(value).__name__} as {kind.__name__}: make one, or read a recipe"
                )
        if seed < 0:
            raise ConfigError(f"seed must be at least 0, got {seed}")
        if config.batch_size < 1:
            raise ConfigError(f"data.batch_size must be at least 1, got {config.batch_size}")
        if config.augment is not None and config.augment.turns:
            require_square(config.prepare)
        self.config, self.seed = config, seed
        self.root = data_root(config.root)
        self.parts = find_parts(config, seed=seed, sets=open_set(self.root, download=download))
        self.class_names = self.parts.class_names
        self._kept: dict[Part, Tensor] = {}
        self._budget = config.memory * 2**20  # bytes

    def sources(self, part: Part) -> list[Source]:
        """Return the images of a part, in the order found."""
        return list(getattr(self.parts, part))

    @cached_property
    def prepare(self) -> Preparation:
        """Preparation of all images, with the recipe's region of interest."""
        return prepared_region(self.config, self.sources("train"))

    def watched_outliers(self) -> list[Source]:
        """Return the outliers of the training source, to watch while training."""
        return self.parts.outliers[: self.parts.watched]

    def labels(self, part: Part) -> Labels:
        """Return the labels of a part, shape (n,), int64; -1 for outliers.

        A label is a position in `class_names`.
        """
        sources = self.sources(part)
        if part == "outliers":
            return np.full(len(sources), -1, dtype=np.int64)
        if len(self.class_names) == 1:
            return np.zeros(len(sources), dtype=np.int64)
        index = {name: position for position, name in enumerate(self.class_names)}
        return np.array([index[source.label or ""] for source in sources], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """Sha256 of the images of the parts in `DIVIDED`, hexadecimal.

        It covers names, labels, and file sizes or pixels. Two runs that divided the same images alike have the
        same one, wherever the images lay: names count from the folder that `train` names. A file that was
        overwritten by one of the same size goes unseen.
        """
        digest = hashlib.sha256()
        location = self.root / self.config.train
        base = f"{location if location.is_dir() else location.parent}/"
        for part in DIVIDED:
            sources = self.sources(part)
            digest.update(f"{part}\0{len(sources)}\n".encode())
            for source in sources:
                line = f"{source.name.removeprefix(base)}\0{source.label or ''}\0"
                digest.update(line.encode(errors="surrogateescape") + size_or_pixels(source) + b"\n")
        return digest.hexdigest()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the sets that a training takes images from, by name in `data`."""
        return {"train": self.fingerprint}

    def train_dataloader(self) -> Loader:
        """Return shuffled batches of the training part."""
        rank, world = self._place()
        rows = len(self.parts.train)
        batches = TrainingBatches(rows, self.config.batch_size, seed=self.seed, rank=rank, world=world)
        return self.loader("train", batches)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return batches of the validation part, in order; no loader if it is empty."""
        return self._in_order("validation")

    def test_dataloader(self) -> Loader | list[Loader]:
        """Return batches of the test part, in order; no loader if it is empty."""
        return self._in_order("test")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment a training batch on its device."""
        del dataloader_idx
        return self._augmented(batch)

    def _augmented(self, batch: tuple[Tensor, Tensor], stream: int = 0) -> tuple[Tensor, Tensor]:
        """Augment a training batch by draws of its step, process and stream."""
        trainer, changes = self.trainer, self.config.augment
        if changes is None or trainer is None or not trainer.training:
            return batch
        images, labels = batch
        step = trainer.fit_loop.batch_idx + 1  # Lightning counts a batch up once it has arrived
        place = trainer.global_rank + stream * trainer.world_size
        return augment(images, changes, step_generator(self.seed, trainer.current_epoch, step, place)), labels

    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _in_order(self, part: Part) -> Loader | list[Loader]:
        rows = len(self.sources(part))
        if not rows:
            return []
        rank, world = self._place()
        if rows < world:
            raise DataError(f"{rows} {part} images cannot be shared by {world} processes. Use fewer devices")
        size = evaluation_batch(self.prepare.shape)
        return self.loader(part, EvaluationBatches(rows, size, rank=rank, world=world))

    def loader(self, part: Part, sampler: Sampler) -> Loader:
        """Return batches of a part, from memory where the budget allows it."""
        labels = torch.from_numpy(self.labels(part))
        pixels = self._pixels(part)
        if pixels is not None:
            return MemoryLoader(pixels, labels, sampler)
        return DecodingLoader(self.sources(part), labels, sampler, self.prepare)

    def _pixels(self, part: Part) -> Tensor | None:
        """Return prepared images of a part, (n, h, w, c) uint8.

        None if the memory budget is spent.
        """
        if part not in self._kept:
            sources = self.sources(part)
            size = len(sources) * int(np.prod(self.prepare.shape))
            if size > self._budget:
                return None
            self._kept[part] = torch.from_numpy(load(sources, self.prepare))
            self._budget -= size
        return self._kept[part]


def check_trainable(data: ImageData) -> None:
    """Raise DataError if there are no validation images to choose a network by."""
    if not data.sources("validation"):
        raise DataError("training needs validation images: set data.split.validation above 0, 0.1 for instance")
