"""Images through a backbone, batch by batch, with the decoding of the next ones going on meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np

from lit_od.backbone.model import Backbone, shape_text
from lit_od.errors import BackboneError
from lit_od.images.batching import GRAPH_BATCH, Batch, Made, batches
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.runtime.onnx_session import PROVIDERS
from lit_od.runtime.threads import limited
from lit_od.types import Features, Images, Scores

BATCH_SIZE = 64
"""Images a batch where nobody says otherwise."""


def extract(
    backbone: Backbone,
    sources: Iterable[Source],
    preparation: Preparation,
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
    scored = extract_and_score(
        backbone, sources, preparation, _unscored, beside=False, batch_size=batch_size, threads=threads
    )
    return ((batch, outputs) for batch, outputs, _ in scored)


def extract_and_score(
    backbone: Backbone,
    sources: Iterable[Source],
    preparation: Preparation,
    score: Callable[[Features], Scores],
    *,
    beside: bool,
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
) -> Iterator[tuple[Batch, Features, Scores]]:
    """The same, and the scores of it.

    Args:
        backbone: The graph.
        sources: Images.
        preparation: Their preparation.
        score: Outputs (m, ...) to scores (m,).
        beside: Whether each thread scores what it has run, on itself alone: threads of numpy's own would take the
            cores from those that decode and run the next images, and keep them for a while after each product. Else
            the caller's thread scores whole batches, on all threads: FAISS' switches belong to the process, so
            that two threads cannot search at once.
        batch_size: Images a batch.
        threads: Threads of all this; None is one a core.

    Yields:
        The batch, and outputs (m, ...) and scores (m,) of its m readable images; (0, 0) and (0,) where there are none.
    """
    require_input_shape(backbone, preparation)
    stream = iter(sources)
    first = list(islice(stream, GRAPH_BATCH + 1))
    alone = backbone.single() if len(first) > GRAPH_BATCH and backbone.provider == PROVIDERS["cpu"] else None
    then = None if alone is None else _on_one_thread(alone, score if beside else None)
    for batch in batches(chain(first, stream), preparation, batch_size=batch_size, threads=threads, then=then):
        if not len(batch.images):  # a graph need not know what to do with no image
            yield batch, np.empty((0, 0), dtype=np.float32), np.empty(0)
            continue
        made = batch.made or (backbone(batch.images),)
        if len(made) == 1:
            with limited(threads):
                made = (made[0], score(made[0]))
        yield batch, *made


def _on_one_thread(backbone: Backbone, score: Callable[[Features], Scores] | None) -> Callable[[Images], Made]:
    """Outputs, and their scores where they are to be scored by the thread that has run the graph."""

    def then(images: Images) -> Made:
        outputs = backbone(images)
        if score is None:
            return (outputs,)
        with limited(1):
            return outputs, score(outputs)

    return then


def _unscored(outputs: Features) -> Scores:
    return np.empty(len(outputs))


def require_input_shape(backbone: Backbone, preparation: Preparation) -> None:
    """Raise BackboneError unless the preparation gives images of the shape that the backbone takes."""
    for want, got in zip(backbone.image_shape, preparation.shape, strict=True):
        if want not in (None, got):
            raise BackboneError(
                f"images are prepared to {preparation.shape} (h, w, c), the graph takes "
                f"{shape_text(backbone.image_shape)}. Change data.prepare"
            )
