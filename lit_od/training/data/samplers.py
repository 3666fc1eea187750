"""Rows of each batch, a function of seed, epoch, rank and number of processes.

No image is repeated to even out the processes, as torch's DistributedSampler would: a repeated image
skews every statistic that is taken over an epoch.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError


class TrainingBatches:
    """Shuffled batches of one process in one epoch.

    All processes have equally many batches of the same sizes, so that gradients can be exchanged. For that
    at most `world - 1` images of an epoch, drawn anew each time, are left out. The last batch may be smaller;
    a single image that is left for it is left out too, as batch normalisation takes no statistics of one image.
    """

    def __init__(self, rows: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        """Divide images 0 to rows - 1 among epochs, processes and batches.

        Args:
            rows: Number of images.
            batch_size: Images a batch of one process.
            seed: Seed of the order.
            rank: Number of this process, from 0.
            world: Number of processes.

        Raises:
            ConfigError: If the batch size is below 1.
            DataError: If there are fewer images than processes.
        """
        _check(batch_size, rank, world)
        if rows < world:
            raise DataError(f"{rows} training images cannot be shared by {world} processes. Use fewer devices")
        self.rows, self.batch_size, self.seed, self.rank, self.world = rows, batch_size, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls it at the start of every epoch."""
        self.epoch = epoch

    @property
    def share(self) -> int:
        """Number of images of a process and epoch."""
        share = self.rows // self.world
        return share - 1 if share > self.batch_size > 1 and share % self.batch_size == 1 else share

    def __len__(self) -> int:
        return -(-self.share // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.intp]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        share = self.share
        own = order[self.rank : share * self.world : self.world]
        for start in range(0, share, self.batch_size):
            yield own[start : start + self.batch_size]


class EvaluationBatches:
    """Batches in the images' order, without padding.

    Every image is in exactly one process once.
    """

    def __init__(self, rows: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        """Divide images 0 to rows - 1; process `rank` takes every `world`-th.

        Args:
            rows: Number of images.
            batch_size: Images a batch.
            rank: Number of this process, from 0.
            world: Number of processes.

        Raises:
            ConfigError: If the batch size is below 1.
        """
        _check(batch_size, rank, world)
        self.own = np.arange(rank, rows, world, dtype=np.intp)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.own) // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.intp]]:
        for start in range(0, len(self.own), self.batch_size):
            yield self.own[start : start + self.batch_size]


def _check(batch_size: int, rank: int, world: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= rank < world:
        raise ConfigError(f"rank must lie in 0..{world - 1}, got {rank}")
