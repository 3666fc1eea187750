"""Images through a backbone, batch by batch, with the decoding of the next ones going on meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np

from lit_od.backbone import PROVIDERS, Backbone, shape_text
from lit_od.errors import BackboneError
from lit_od.images import Preparation
from lit_od.loading import RUN, Batch, batches
from lit_od.sources import Source
from lit_od.threads import limited
from lit_od.types import Features, Images, Scores

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
    scored = extract_and_score(backbone, sources, how, _unscored, batch_size=batch_size, threads=threads)
    return ((batch, outputs) for batch, outputs, _ in scored)


def extract_and_score(
    backbone: Backbone,
    sources: Iterable[Source],
    how: Preparation,
    score: Callable[[Features], Scores],
    *,
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
) -> Iterator[tuple[Batch, Features, Scores]]:
    """The same, and the scores of it.

    Each thread scores what it has run, on itself alone: threads of numpy's and of FAISS' own would take the cores
    from those that decode and run the next images, and keep them for a while after each product.

    Args:
        backbone: The graph.
        sources: Images.
        how: Their preparation.
        score: Outputs (m, ...) to scores (m,); called by several threads at once.
        batch_size: Images a batch.
        threads: Threads of all this; None is one a core.

    Yields:
        The batch, and outputs (m, ...) and scores (m,) of its m readable images; (0, 0) and (0,) where there are none.
    """
    require_fitting(backbone, how)
    stream = iter(sources)
    first = list(islice(stream, RUN + 1))
    alone = backbone.single() if len(first) > RUN and backbone.provider == PROVIDERS["cpu"] else None
    then = None if alone is None else _on_one_thread(alone, score)
    for batch in batches(chain(first, stream), how, batch_size=batch_size, threads=threads, then=then):
        if batch.made is not None:
            outputs, scores = batch.made
        elif len(batch.images):
            outputs = backbone(batch.images)
            with limited(threads):
                scores = score(outputs)
        else:  # a graph need not know what to do with no image
            outputs, scores = np.empty((0, 0), dtype=np.float32), np.empty(0)
        yield batch, outputs, scores


def _on_one_thread(
    backbone: Backbone, score: Callable[[Features], Scores]
) -> Callable[[Images], tuple[Features, Scores]]:
    def then(images: Images) -> tuple[Features, Scores]:
        outputs = backbone(images)
        with limited(1):
            return outputs, score(outputs)

    return then


def _unscored(outputs: Features) -> Scores:
    return np.empty(len(outputs))


def require_fitting(backbone: Backbone, how: Preparation) -> None:
    """Raise BackboneError unless the preparation gives images of the shape that the backbone takes."""
    for want, got in zip(backbone.image_shape, how.shape, strict=True):
        if want not in (None, got):
            raise BackboneError(
                f"images are prepared to {how.shape} (h, w, c), the graph takes {shape_text(backbone.image_shape)}. "
                "Change data.prepare"
            )
