"""Batches for Lightning, from pixels in memory or decoded on threads in advance.

They take the place of torch's DataLoader, whose worker processes cost more than they gain here:
Pillow decodes without holding the interpreter's lock, and pixels in memory need no worker at all.
Lightning finds `sampler` and sets its epoch; where there is one it reads `batch_sampler` too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lit_od.errors import DataError
from lit_od.images.batching import batches
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.training.data.samplers import EvaluationBatches, TrainingBatches

Sampler: TypeAlias = TrainingBatches | EvaluationBatches


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Selected rows of a table, read on demand.

    Attributes:
        table: All rows, (m, d).
        places: Positions in the table, shape (n,), int64.
    """

    table: Tensor
    places: Tensor

    def index_select(self, axis: int, index: Tensor) -> Tensor:
        """Return the rows at positions `index`, (b, d), as a tensor does along axis 0."""
        return self.table.index_select(axis, self.places[index])


class MemoryLoader:
    """Batches of prepared pixels or of rows, and of labels.

    Pixels are uint8 (b, h, w, c), rows (b, d) and labels int64 (b,).
    """

    batch_sampler: None = None

    def __init__(self, images: Tensor | Rows, labels: Tensor, sampler: Sampler) -> None:
        """Take the images; nothing is copied.

        Args:
            images: Prepared images, (n, h, w, c) uint8, or n rows.
            labels: Their labels, shape (n,), int64.
            sampler: Rows of each batch.
        """
        self.images, self.labels, self.sampler = images, labels, sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.sampler:
            index = torch.from_numpy(rows)
            yield self.images.index_select(0, index), self.labels.index_select(0, index)


class DecodingLoader:
    """Batches as of `MemoryLoader`, from images that are decoded on demand."""

    batch_sampler: None = None

    def __init__(self, sources: Sequence[Source], labels: Tensor, sampler: Sampler, preparation: Preparation) -> None:
        """Take sources and their labels (n,); images are opened as batches are drawn.

        Args:
            sources: The images, n of them.
            labels: Their labels, shape (n,), int64.
            sampler: Rows of each batch.
            preparation: Preparation of the images.
        """
        self.sources, self.labels, self.sampler, self.preparation = sources, labels, sampler, preparation

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = list(self.sampler)
        ahead = (self.sources[row] for rows in epoch for row in rows)
        ready = batches(ahead, self.preparation, batch_size=self.sampler.batch_size)
        for rows, batch in zip(epoch, ready, strict=True):
            for row, error in batch.errors.items():
                raise DataError(f"{batch.sources[row].name}: {error}. Run lit-od check for a list without such files")
            yield torch.from_numpy(batch.images), self.labels.index_select(0, torch.from_numpy(rows))
