"""Images through a backbone, batch by batch, with the decoding of the next ones going on meanwhile."""

from collections.abc import Iterable, Iterator

import numpy as np

from lit_od.backbone import Backbone
from lit_od.errors import BackboneError
from lit_od.images import Preparation
from lit_od.loading import Batch, batches
from lit_od.sources import Source
from lit_od.types import Features

BATCH_SIZE = 64
"""Images a batch where nobody says otherwise."""


def extract(
    backbone: Backbone,
    sources: Iterable[Source],
    how: Preparation,
    *,
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
) -> Iterator[tuple[Batch, Features]]:
    """What the backbone computes from each batch of sources, in their order, in bounded memory.

    Yields:
        The batch, and outputs of shape (m, ...) for its m readable images; (0, 0) where there are none.
    """
    require_fitting(backbone, how)
    for batch in batches(sources, how, batch_size=batch_size, threads=threads):
        if len(batch.images):
            yield batch, backbone(batch.images)
        else:
            yield batch, np.empty((0, 0), dtype=np.float32)  # a graph need not know what to do with no image


def require_fitting(backbone: Backbone, how: Preparation) -> None:
    """Raise BackboneError unless the preparation gives images of the shape that the backbone takes."""
    for want, got in zip(backbone.image_shape, how.shape, strict=True):
        if want not in (None, got):
            raise BackboneError(f"images are prepared to {how.shape} (h, w, c), the graph takes {backbone.image_shape}")
