"""The extractor: a backbone that runs images batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.model import Backbone, shape_text
from lit_od.errors import BackboneError, DataError
from lit_od.images.batching import GRAPH_BATCH, Batch, Computed, batches
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.runtime.onnx_session import PROVIDERS, on_device
from lit_od.runtime.threads import limited
from lit_od.types import Images, Outputs, Score, Scores

BATCH_SIZE = 64
"""Default number of images in a batch."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """A batch of images with the outputs of its m readable ones.

    Attributes:
        batch: The sources, and the pixels of those that could be read.
        outputs: Outputs of the backbone, shape (m, ...); (0, 0) where no image could be read.
        finite: True for images whose outputs are all finite, shape (m,).
        scores: Outlier scores, shape (m,), NaN where outputs are not finite; (0,) where none were asked for.
    """

    batch: Batch
    outputs: Outputs
    finite: NDArray[np.bool_]
    scores: Scores = field(default_factory=lambda: np.empty(0))

    def require_sound(self) -> None:
        """Check that all images could be read and have finite outputs.

        Raises:
            DataError: Otherwise; it names the first such image.
        """
        self.batch.require_readable()
        if not self.finite.all():
            raise DataError(
                f"{self.batch.sources[int(np.argmin(self.finite))].name}: the backbone gives NaN or infinity for this "
                "image. Take it out, or use another backbone"
            )


@dataclass(frozen=True, slots=True)
class Extractor:
    """A backbone with the preparation and the threads of its images.

    Attributes:
        backbone: The loaded graph.
        preparation: Preparation of every image; it gives the shape that the graph takes.
        threads: Threads of decoding, of the graph and of scoring together; None is one a core.

    Raises:
        BackboneError: If the preparation gives images of another shape than the graph takes.
    """

    backbone: Backbone
    preparation: Preparation
    threads: int | None = None

    def __post_init__(self) -> None:
        for want, got in zip(self.backbone.image_shape, self.preparation.shape, strict=True):
            if want not in (None, got):
                raise BackboneError(
                    f"images are prepared to {self.preparation.shape} (h, w, c), the graph takes "
                    f"{shape_text(self.backbone.image_shape)}. Change data.prepare"
                )

    def outputs(self, images: Iterable[Source], *, batch_size: int = BATCH_SIZE) -> Iterator[Extracted]:
        """Run the backbone over images batch by batch, in order and in bounded memory.

        On a CPU each thread decodes its images and runs them; elsewhere threads decode, and the device runs
        whole batches. A few images run on all threads at once, to have them soon.
        """
        return self._run(images, None, batch_size=batch_size)

    def scores(self, images: Iterable[Source], score: Score, *, batch_size: int = BATCH_SIZE) -> Iterator[Extracted]:
        """Run the backbone over images and score its outputs.

        On a CPU each thread scores what it has run, on itself alone: threads of numpy's own would take the cores
        from those that decode and run the next images, and keep them for a while after each product.

        Args:
            images: Images; taken lazily.
            score: Outputs (m, ...) to scores (m,); called by several threads at once.
            batch_size: Images in a batch.
        """
        return self._run(images, score, batch_size=batch_size)

    def _run(self, images: Iterable[Source], score: Score | None, *, batch_size: int) -> Iterator[Extracted]:
        stream = iter(images)
        first = list(islice(stream, GRAPH_BATCH + 1))
        many = len(first) > GRAPH_BATCH and self.backbone.provider == PROVIDERS["cpu"]
        compute = _on_one_thread(self.backbone.single(), score) if many else None
        every = chain(first, stream)
        for batch in batches(every, self.preparation, batch_size=batch_size, threads=self.threads, compute=compute):
            if not len(batch.images):  # a graph need not know what to do with no image
                yield Extracted(batch, np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0))
                continue
            outputs, *scored = batch.computed or (self.backbone(batch.images),)
            if score is None:
                yield Extracted(batch, outputs, _finite(outputs))
                continue
            if not scored:
                with limited(self.threads), on_device(self.backbone.graph.device):
                    scored = [*finite_scores(outputs, score)]
            yield Extracted(batch, outputs, *scored)


def _on_one_thread(backbone: Backbone, score: Score | None) -> Callable[[Images], Computed]:
    """Return a function that runs images, and scores them if a score is given."""

    def run(images: Images) -> Computed:
        outputs = backbone(images)
        if score is None:
            return (outputs,)
        with limited(1):
            return (outputs, *finite_scores(outputs, score))

    return run


def finite_scores(outputs: Outputs, score: Score) -> tuple[NDArray[np.bool_], Scores]:
    """Score the images whose outputs are finite.

    Detectors refuse outputs that are not finite, so outputs are checked one by one only after a refusal.

    Args:
        outputs: Shape (m, ...).
        score: Outputs to scores; raises DataError where some are not finite.

    Returns:
        True for images whose outputs are finite, and the scores, NaN for the others; both of shape (m,).

    Raises:
        DataError: If the outputs are finite, and the detector refuses them all the same.
    """
    try:
        return np.ones(len(outputs), bool), score(outputs)
    except DataError:
        finite = _finite(outputs)
        if finite.all():
            raise
        scores = np.full(len(outputs), np.nan)
        if finite.any():
            scores[finite] = score(outputs[finite])
        return finite, scores


def _finite(outputs: Outputs) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
