"""The extractor: a backbone that runs images batch by batch.

With tiles it runs those of each large image, and joins their maps: what leaves it belongs to images.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.model import Backbone, shape_text
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.joined_map import JoinedMap, TileDetector
from lit_od.errors import BackboneError, ConfigError, DataError, ImageError
from lit_od.images.batching import GRAPH_BATCH, Batch, Computed, batches, frames
from lit_od.images.preparation import Preparation
from lit_od.images.roi import nearest
from lit_od.images.sources import Source, Tile
from lit_od.runtime.onnx_session import PROVIDERS, on_device
from lit_od.runtime.threads import limited, thread_count
from lit_od.types import Images, Maps, Outputs, Scores

BATCH_SIZE = 64
"""Default number of images in a batch."""

TILE_PIXELS = 2**18
"""Pixels of the tiles that a thread of a CPU runs at once: more take more memory and no less time."""

_NOTHING: Outputs = np.empty((0, 0), np.float32)

Compute: TypeAlias = Callable[[Outputs], Computed]
"""Outputs of m images to arrays with a row an image."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """A batch of images with the outputs of its m readable ones.

    Attributes:
        batch: The sources, and the pixels of those that could be read.
        outputs: Outputs of the backbone, shape (m, ...); (0, 0) where no image could be read, or its tiles were scored.
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

        Args:
            images: Images, or with tiles those of `lit_od.images.sources.tiled`; taken lazily. Cells of a tile that
                do not count get the patches of its other cells in turn.
            batch_size: Images in a batch; of tiles there are fewer.
        """
        for batch, outputs, *_ in self.run(images, None, batch_size=batch_size):
            if self.preparation.has_tiles:
                outputs = only_counted(batch, outputs)
            yield Extracted(batch, outputs, _finite(outputs))

    def scores(
        self, images: Iterable[Source], detector: Detector, *, maps: bool = False, batch_size: int = BATCH_SIZE
    ) -> Iterator[Extracted]:
        """Run the backbone over images and score its outputs.

        On a CPU each thread scores what it has run, on itself alone: threads of numpy's own would take the cores
        from those that decode and run the next images, and keep them for a while after each product.

        With tiles each image is a batch by itself, with its whole pixels and its joined map, and without outputs.

        Args:
            images: Images; taken lazily.
            detector: The fitted detector; called by several threads at once.
            maps: Give maps too, where the detector has them.
            batch_size: Images in a batch.

        Raises:
            ConfigError: If the detector takes no tiles.
        """
        if self.preparation.has_tiles:
            yield from self._joined(images, detector)
            return
        for batch, outputs, *computed in self.run(images, compute_of(detector, maps=maps), batch_size=batch_size):
            yield Extracted(batch, outputs, *(computed or (np.empty(0, bool), np.empty(0))))

    def _joined(self, images: Iterable[Source], detector: Detector) -> Iterator[Extracted]:
        """Score the tiles of one image after the other, and join their maps."""
        if not isinstance(detector, TileDetector):
            raise ConfigError(f"tiles need a detector of patches, and {detector.kind} is none: take data.tile out")
        for source, frame in frames(images, self.preparation):
            if isinstance(frame, ImageError):
                yield self._unreadable(source, str(frame))
                continue
            pixels, finite = frame.pixels(), True
            joined = JoinedMap(detector, frame.whole.size, frame.counted)
            places = iter(frame.places)
            for _, _, sound, cells in self.run(frame.tiles(), _cells_of(detector)):
                finite = finite and bool(sound.all())
                with limited(1):  # the threads are busy with the next tiles
                    for own, place in zip(cells, places, strict=False):
                        joined.add(own, place.rows, place.columns, place.down, place.across)
            try:
                score, whole = joined.finish()
            except ImageError as error:
                yield self._unreadable(source, str(error))
                continue
            batch = Batch([source], pixels[None], np.zeros(1, np.intp), {}, [frame.geometry])
            if not finite:
                score, whole = np.full(1, np.nan), np.full_like(whole, np.nan)
            extracted = Extracted(batch, _NOTHING, np.array([finite]), score, whole)
            del frame, pixels, joined, batch, whole  # large: they go with the consumer's
            yield extracted
            del extracted

    def _unreadable(self, source: Source, cause: str) -> Extracted:
        """Return the batch of one image that has no score."""
        nothing, errors = np.empty((0, *self.preparation.shape), np.uint8), {0: ImageError(cause)}
        return Extracted(Batch([source], nothing, np.empty(0, np.intp), errors, []), _NOTHING, np.empty(0, bool))

    def run(
        self, images: Iterable[Source], compute: Compute | None, *, batch_size: int = BATCH_SIZE
    ) -> "Iterator[tuple[Any, ...]]":
        """Yield batches, their outputs, and arrays computed from these, if any.

        Args:
            images: Images, or with tiles those of `lit_od.images.sources.tiled`.
            compute: Outputs to arrays with a row an image; called by several threads at once.
            batch_size: Images in a batch; of tiles there are fewer.
        """
        part, on_cpu = GRAPH_BATCH, self.backbone.provider == PROVIDERS["cpu"]
        if self.preparation.has_tiles:
            part = max(1, min(GRAPH_BATCH, TILE_PIXELS // math.prod(self.preparation.size)))
            batch_size = part * thread_count(self.threads) if on_cpu else GRAPH_BATCH
        stream = iter(images)
        first = list(islice(stream, part + 1))
        many = len(first) > part and on_cpu
        on_threads = _on_one_thread(self.backbone.single(), compute) if many else None
        every = chain(first, stream)
        for batch in batches(
            every, self.preparation, batch_size=batch_size, threads=self.threads, compute=on_threads, part=part
        ):
            if not len(batch.images):  # a graph need not know what to do with no image
                yield batch, _NOTHING
                continue
            outputs, *computed = batch.computed or (self.backbone(batch.images),)
            if compute is not None and not computed:
                with limited(self.threads, blas=1 if on_cpu else None), on_device(self.backbone.graph.device):
                    computed = [*finite_rows(outputs, compute)]
            yield batch, outputs, *computed


def compute_of(detector: Detector, *, maps: bool) -> Compute:
    """Return the function from outputs to scores, and to maps if wanted."""
    if not maps or not isinstance(detector, PixelDetector):
        return lambda outputs: (_sound(detector, detector.score(outputs), len(outputs)),)

    def scores_and_maps(outputs: Outputs) -> Computed:
        scores, found = detector.score_map(outputs)
        return _sound(detector, scores, len(outputs)), found.astype(np.float32, copy=False)

    return scores_and_maps


def _sound(detector: Detector, scores: Scores, count: int) -> Scores:
    """Return scores of `count` images. Raises ConfigError on another type or shape."""
    got = np.asarray(scores)
    if got.dtype != np.float64 or got.shape != (count,):
        raise ConfigError(
            f"detector: {detector.kind} must return scores as float64 of shape ({count},), got {got.dtype} of shape "
            f"{got.shape}"
        )
    return got


def _cells_of(detector: TileDetector) -> Compute:
    return lambda outputs: (detector.cells_of_tiles(outputs),)


def only_counted(batch: Batch, patches: Outputs) -> Outputs:
    """Return patches (m, gh, gw, d) of tiles, those of cells that count alone.

    Each other cell of a tile gets the patch of one of these, in turn.
    """
    whole = patches
    for row, place in enumerate(batch.rows.tolist()):
        tile = batch.sources[place]
        if not isinstance(tile, Tile) or (counted := tile.counted) is None:
            continue
        whole = patches.copy() if whole is patches else whole
        cells = _counted_cells(counted, patches.shape[1], patches.shape[2])
        flat = whole[row].reshape(cells.size, -1)
        flat[~cells] = flat[np.resize(np.flatnonzero(cells), np.count_nonzero(~cells))]
    return whole


def _counted_cells(counted: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the cells of a tile that count, shape (rows * columns,).

    They have a counting pixel at their centre; if there is none, they hold one.
    """
    cells = counted[nearest(counted.shape[0], rows)][:, nearest(counted.shape[1], columns)]
    if not cells.any():
        down, across = np.nonzero(counted)
        cells[down * rows // counted.shape[0], across * columns // counted.shape[1]] = True
    return cells.ravel()


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
    return np.asarray(np.isfinite(outputs.reshape(len(outputs), math.prod(outputs.shape[1:]))).all(axis=1))
