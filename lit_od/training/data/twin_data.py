"""Images of twin networks: a labelled reference set, and inliers as target class."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError
from lit_od.images.identity import identity
from lit_od.images.sources import ImageFile, Source
from lit_od.recipes.schema import DataConfig, Reference, Split
from lit_od.training.data.image_data import ImageData, Loader, Part, evaluation_batch
from lit_od.training.data.loaders import MemoryLoader
from lit_od.training.data.samplers import EvaluationBatches, TrainingBatches
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.networks.trunk import Trunk

PARTS: tuple[Part, ...] = ("train", "validation", "calibration", "test", "outliers")

STREAMS = {"reference": 1, "target": 0}
"""Numbers of the streams, so that their random draws differ."""


class ContinuedBatches(TrainingBatches):
    """Whole batches of one process, from a stream that goes on over the epochs.

    Step s of all steps takes the next images of a shuffled pass; images that are left over for less than a
    batch wait for another pass. So streams of different lengths keep step, and the batch of all processes
    together is the same for any number of them. Where there are too few images, a batch is all of them.
    """

    def __init__(
        self, rows: int, batch_size: int, *, steps: int, seed: int, stream: int, rank: int = 0, world: int = 1
    ) -> None:
        """Divide a stream into batches, `steps` of them an epoch.

        Args:
            rows: Number of images.
            batch_size: Images a batch of one process.
            steps: Batches an epoch.
            seed: Seed of the order.
            stream: Number of the stream.
            rank: Number of this process, from 0.
            world: Number of processes.

        Raises:
            ConfigError: If the batch size is below 1.
            DataError: If there are fewer images than processes.
        """
        super().__init__(rows, batch_size, seed=seed, rank=rank, world=world)
        self.steps, self.stream = steps, stream
        self.total_batch_size = min(batch_size * world, rows - rows % world)
        self.batch_size = self.total_batch_size // world

    @staticmethod
    def steps_of(rows: int, batch_size: int, world: int) -> int:
        """Return the steps of a pass, at least 1.

        Args:
            rows: Number of images.
            batch_size: Images a batch of one process.
            world: Number of processes.
        """
        return max(1, rows // (batch_size * world))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[NDArray[np.intp]]:
        a_pass = self.rows // self.total_batch_size
        number, order = -1, np.empty(0, dtype=np.intp)
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            if step // a_pass != number:
                number = step // a_pass
                order = np.random.default_rng([self.seed, self.stream, number]).permutation(self.rows)
            start = step % a_pass * self.total_batch_size
            yield order[start : start + self.total_batch_size][self.rank :: self.world]


class TwinData(ImageData):
    """Images of the target class by part, as `ImageData`, with a reference set.

    A training batch is `{"reference": (images, labels), "target": (images, labels)}`, an epoch one pass
    through the longer of the two streams. Validation takes the reference set's part, then the target's.

    Attributes:
        reference: The reference set; its `class_names` are those of the labels.
    """

    def __init__(self, config: DataConfig, *, seed: int = 0, cache: TrunkCache | None = None) -> None:
        """Find and divide the images; none is opened yet.

        Args:
            config: The `data` part of a recipe, with a reference set.
            seed: At least 0.
            cache: Activations of frozen trunks, shared with other runs; None begins an empty one.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If images or classes are missing, or an image is in both sets.
        """
        super().__init__(config, seed=seed)
        if config.reference is None:
            raise ConfigError(
                "twin networks need a reference set: give data.reference, labelled images of other classes"
            )
        self.reference = _reference(config, config.reference, seed)
        self._cache, self._device = cache or TrunkCache(), torch.device("cpu")
        self._trunk: Trunk | None = None
        _require_apart(self, self.reference)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the target's images and of the reference set."""
        return super().fingerprints | {"reference": self.reference.fingerprint}

    def keep(self, trunk: Trunk | None, device: torch.device) -> bool:
        """Put a trunk's activations in the images' place, unless images are augmented.

        Args:
            trunk: The trunk; None returns to images.
            device: Device of the trunk.

        Returns:
            True if batches hold activations from now on.
        """
        self._trunk, self._device = (trunk if self.config.augment is None else None), device
        return self._trunk is not None

    def train_dataloader(self) -> CombinedLoader:  # type: ignore[override]  # of two streams
        """Return batches of both streams, side by side."""
        rank, world = self._place()
        streams = {"reference": self.reference, "target": self}
        sizes = {name: (len(data.sources("train")), data.config.batch_size) for name, data in streams.items()}
        place: dict[str, int] = {"seed": self.seed, "rank": rank, "world": world}
        place["steps"] = max(ContinuedBatches.steps_of(rows, batch, world) for rows, batch in sizes.values())
        loaders = {
            name: self._of(data, "train", ContinuedBatches(*sizes[name], stream=STREAMS[name], **place))
            for name, data in streams.items()
        }
        return CombinedLoader(loaders, "max_size_cycle")

    def val_dataloader(self) -> list[Loader]:
        """Return batches of the validation parts, the reference set's first, in order.

        Raises:
            DataError: If a part has fewer than two images, or fewer than there are processes.
        """
        rank, world = self._place()
        size = evaluation_batch(self.prepare.shape)
        loaders = []
        for data in (self.reference, self):
            rows = len(data.sources("validation"))
            if rows < max(2, world):
                raise DataError(f"{rows} validation images do not do: wanted at least {max(2, world)} of each set")
            loaders.append(self._of(data, "validation", EvaluationBatches(rows, size, rank=rank, world=world)))
        return loaders

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment training batches on their device, each stream by separate draws."""
        del dataloader_idx
        if not isinstance(batch, dict):  # of validation
            return batch
        return {name: self._augmented(batch[name], stream) for name, stream in STREAMS.items()}

    def _of(self, data: ImageData, part: Part, sampler: TrainingBatches | EvaluationBatches) -> Loader:
        if self._trunk is None:
            return data.loader(part, sampler)
        sources = data.sources(part)
        rows = self._cache.rows(self._trunk, sources, self.prepare, self._device)
        return MemoryLoader(rows, torch.from_numpy(data.labels(part)), sampler)


def data_of(config: DataConfig, *, seed: int, cache: TrunkCache | None = None) -> ImageData:
    """Return the images of a run, with a reference set if the recipe names one.

    Args:
        config: The `data` part of a recipe.
        seed: At least 0.
        cache: Activations of frozen trunks, shared with other runs; None begins an empty one.
    """
    return ImageData(config, seed=seed) if config.reference is None else TwinData(config, seed=seed, cache=cache)


def _reference(config: DataConfig, reference: Reference, seed: int) -> ImageData:
    """Find the reference set and divide it, with a validation part alone held out."""
    if not 0 < reference.validation < 1:
        raise ConfigError(f"data.reference.validation must be a share in (0, 1), got {reference.validation:g}")
    own = DataConfig(
        train=reference.path,
        prepare=config.prepare,
        root=config.root,
        outlier_classes=reference.exclude,
        split=Split(validation=reference.validation, calibration=0.0),
        batch_size=config.batch_size if reference.batch_size is None else reference.batch_size,
        limit=reference.limit,
        memory=config.memory,
    )
    try:
        found = ImageData(own, seed=seed)
    except DataError as error:
        raise DataError(f"data.reference: {str(error).replace('data.outlier_classes', 'exclude')}") from error
    if len(found.class_names) < 2:
        raise DataError(
            f"data.reference needs images of at least 2 classes, {reference.path} has {len(found.class_names)}: "
            "give class folders, or exclude fewer"
        )
    return found


def _require_apart(data: ImageData, reference: ImageData) -> None:
    """Raise DataError if an image of the reference set is one of the target's data.

    Its outliers count too.
    """
    real = lru_cache(maxsize=None)(os.path.realpath)  # images lie in few folders
    own: dict[str, list[tuple[Part, Source]]] = {}
    for part in PARTS:
        for source in data.sources(part):
            own.setdefault(_place(source, real), []).append((part, source))
    for source in [*reference.sources("train"), *reference.sources("validation")]:
        for part, other in own.get(_place(source, real), []):
            # arrays of one archive give their rows the same names
            if isinstance(source, ImageFile) or identity(source) == identity(other):
                raise DataError(
                    f"{source.name} is in data.reference and in the {part} part of the inliers' images: leave its "
                    f"class out, by data.reference.exclude: ['{source.label}']"
                )


def _place(source: Source, real: Callable[[str], str]) -> str:
    """Return the place of an image, the same for every path that leads to it.

    Args:
        source: A file, or a row that is named after its archive.
        real: Resolves a path's links.
    """
    if not isinstance(source, ImageFile):
        archive, _, row = source.name.rpartition("#")
        return f"{real(archive)}#{row}"
    if source.path.is_symlink():
        return real(str(source.path))
    return f"{real(str(source.path.parent))}/{source.path.name}"
