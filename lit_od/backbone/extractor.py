"""The extractor: a backbone that runs images batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.model import Backbone, shape_text
from lit_od.errors import BackboneError, DataError
from lit_od.images.batching import GRAPH_BATCH, Batch, Computed, batches
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.runtime.onnx_session import PROVIDERS, on_device
from lit_od.runtime.threads import limited
from lit_od.types import Images, Maps, Outputs, Score, Scores

BATCH_SIZE = 64
"""Default number of images in a batch."""

Compute: TypeAlias = Callable[[Outputs], Computed]
"""Outputs of m images to arrays with a row an image."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """A batch of images with the outputs of its m readable ones.

    Attributes:
        batch: The sources, and the pixels of those that could be read.
        outputs: Outputs of the backbone, shape (m, ...); (0, 0) where no image could be read.
        finite: True for images whose outputs are all finite, shape (m,).
        scores: Outlier scores, shape (m,), NaN where outputs are not finite; (0,) where none were asked for.
        maps: Maps, shape (m, h, w), NaN where outputs are not finite; None where none were asked for, or no image could
            be read.
    """

    batch: Batch
    outputs: Outputs
    finite: NDArray[np.bool_]
    scores: Scores = field(default_factory=lambda: np.empty(0))
    maps: Maps | None = None

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
        return self.computed(images, lambda outputs: (score(outputs),), batch_size=batch_size)

    def computed(
        self, images: Iterable[Source], compute: Compute, *, batch_size: int = BATCH_SIZE
    ) -> Iterator[Extracted]:
        """Run the backbone over images and compute scores, or scores and maps.

        It runs where and as `scores` does.

        Args:
            images: Images; taken lazily.
            compute: Outputs (m, ...) to scores (m,), or to these and maps (m, h, w); called by several threads at once.
            batch_size: Images in a batch.
        """
        return self._run(images, compute, batch_size=batch_size)

    def _run(self, images: Iterable[Source], compute: Compute | None, *, batch_size: int) -> Iterator[Extracted]:
        stream = iter(images)
        first = list(islice(stream, GRAPH_BATCH + 1))
        on_cpu = self.backbone.provider == PROVIDERS["cpu"]
        many = len(first) > GRAPH_BATCH and on_cpu
        on_threads = _on_one_thread(self.backbone.single(), compute) if many else None
        every = chain(first, stream)
        for batch in batches(every, self.preparation, batch_size=batch_size, threads=self.threads, compute=on_threads):
            if not len(batch.images):  # a graph need not know what to do with no image
                yield Extracted(batch, np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0))
                continue
            outputs, *scored = batch.computed or (self.backbone(batch.images),)
            if compute is None:
                yield Extracted(batch, outputs, _finite(outputs))
                continue
            if not scored:
                with limited(self.threads, blas=1 if on_cpu else None), on_device(self.backbone.graph.device):
                    scored = [*finite_rows(outputs, compute)]
            yield Extracted(batch, outputs, *scored)


def _on_one_thread(backbone: Backbone, compute: Compute | None) -> Callable[[Images], Computed]:
    """Return a function that runs images, and scores them if that is wanted."""

    def run(images: Images) -> Computed:
        outputs = backbone(images)
        if compute is None:
            return (outputs,)
        with limited(1):
            return (outputs, *finite_rows(outputs, compute))

    return run


def finite_rows(outputs: Outputs, compute: Compute) -> Computed:
    """Compute arrays of the images whose outputs are finite.

    Detectors refuse outputs that are not finite, so outputs are checked one by one only after a refusal.

    Args:
        outputs: Shape (m, ...).
        compute: Outputs to arrays with a row an image; raises DataError where some outputs are not finite.

    Returns:
        True for images whose outputs are finite, shape (m,), and the arrays, NaN for the others, (m, ...) each.

    Raises:
        DataError: If the outputs are finite, and the detector refuses them all the same.
    """
    try:
        return np.ones(len(outputs), bool), *compute(outputs)
    except DataError:
        finite = _finite(outputs)
        if finite.all():
            raise
    computed = compute(outputs[finite])
    whole = [np.full((len(outputs), *part.shape[1:]), np.nan, part.dtype) for part in computed]
    for every, part in zip(whole, computed, strict=True):
        every[finite] = part
    return finite, *whole


def _finite(outputs: Outputs) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
