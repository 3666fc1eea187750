"""Images through a backbone, batch by batch, with the decoding of the next ones going on meanwhile."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np

from lit_od.backbone import PROVIDERS, Backbone, shape_text
from lit_od.errors import BackboneError
from lit_od.images import Preparation
from lit_od.loading import RUN, Batch, batches
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

    On a CPU each thread decodes its images and runs them; elsewhere threads decode, and the device runs
    whole batches. A few images run on all threads at once, to have them soon.

    Yields:
        The batch, and outputs of shape (m, ...) for its m readable images; (0, 0) where there are none.
    """
    require_fitting(backbone, how)
    stream = iter(sources)
    first = list(islice(stream, RUN + 1))
    alone = backbone.single() if len(first) > RUN and backbone.provider == PROVIDERS["cpu"] else None
    for batch in batches(chain(first, stream), how, batch_size=batch_size, threads=threads, then=alone):
        if batch.outputs is not None:
            yield batch, batch.outputs
        elif len(batch.images):
            yield batch, backbone(batch.images)
        else:
            yield batch, np.empty((0, 0), dtype=np.float32)  # a graph need not know what to do with no image


def require_fitting(backbone: Backbone, how: Preparation) -> None:
    """Raise BackboneError unless the preparation gives images of the shape that the backbone takes."""
    for want, got in zip(backbone.image_shape, how.shape, strict=True):
        if want not in (None, got):
            raise BackboneError(
                f"images are prepared to {how.shape} (h, w, c), the graph takes {shape_text(backbone.image_shape)}. "
                "Change data.prepare"
            )
