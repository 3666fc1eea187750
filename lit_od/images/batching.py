"""Prepare images on threads, ahead of the consumer, in order and bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError, ImageError
from lit_od.images.geometry import Geometry
from lit_od.images.parquet import fetched
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Frame, Source
from lit_od.runtime.threads import thread_count, threads_of_a_generator
from lit_od.types import Images

GRAPH_BATCH = 16
"""Images of one graph run where each thread runs the graph: with 8 or 32, an image took longer."""

BATCHES_AHEAD = 3
"""Batches held at once: one in use, one ready, one being prepared."""

FRAMES_AHEAD = 2
"""Large images held at once: one in use, one being decoded."""

_MENDS = {
    "a crop of": ", or crop less",
    "tiles of": ", or take smaller tiles",
    "values above": ", or give more data.prepare.bits",
    "a turned view": ", or crop all images: data.prepare.crop_fraction 1",
}
"""Other mends, by the first words of errors that a preparation raises and `lit-od check` does not find."""

_ELSE = " (lit-od check lists such files)"

Computed: TypeAlias = tuple[NDArray[Any], ...]
"""Arrays computed from prepared images, a row an image."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive sources and the pixels of those that could be read.

    Attributes:
        sources: The sources, readable or not.
        images: Pixels of the readable ones, (m, h, w, c) uint8.
        rows: Their positions in `sources`, shape (m,), ascending.
        errors: Errors of the others by position in `sources`.
        geometry: The readable images' own sizes and orientations, length m.
        computed: Arrays (m, ...) that `compute` returned; None without `compute`, or where no image could be read.
    """

    sources: Sequence[Source]
    images: Images
    rows: NDArray[np.intp]
    errors: dict[int, ImageError]
    geometry: Sequence[Geometry]
    computed: Computed | None = None

    def require_readable(self) -> None:
        """Raise DataError if an image could not be read; it names the first."""
        for row, error in self.errors.items():
            mends = [mend for words, mend in _MENDS.items() if str(error).startswith(words)]
            raise DataError(f"{self.sources[row].name}: {error}. Take it out{mends[0] if mends else _ELSE}")


def batches(
    sources: Iterable[Source],
    preparation: Preparation,
    *,
    batch_size: int,
    threads: int | None = None,
    compute: Callable[[Images], Computed] | None = None,
    part: int = GRAPH_BATCH,
) -> Iterator[Batch]:
    """Prepare sources batch by batch on threads, in their order, a few batches ahead.

    Args:
        sources: Images; taken lazily, so an endless stream needs no endless memory.
        preparation: The preparation of every image.
        batch_size: Images a batch.
        threads: Decoding threads. None takes one a core.
        compute: Called with the pixels of a part of the batch on the thread that has prepared them; returns arrays with
            a row an image.
        part: Most images of such a part.

    Raises:
        ConfigError: If batch_size or threads is less than 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    stream = iter(sources)
    workers = thread_count(threads)
    with threads_of_a_generator(workers, "lit_od-decode") as pool:
        waiting: deque[tuple[list[Source], Images, list[Future[_Part]]]] = deque()
        while True:
            # rows of a table are fetched here, in their order: a row group is read from its beginning
            while len(waiting) < BATCHES_AHEAD and (chunk := [fetched(each) for each in islice(stream, batch_size)]):
                pixels = np.empty((len(chunk), *preparation.shape), dtype=np.uint8)
                # small tasks share evenly; the size of graph batches must not depend on the number of threads
                step = max(1, -(-len(chunk) // (2 * workers))) if compute is None else part
                tasks = [
                    pool.submit(_fill, pixels, chunk, range(start, min(start + step, len(chunk))), preparation, compute)
                    for start in range(0, len(chunk), step)
                ]
                waiting.append((chunk, pixels, tasks))
            if not waiting:
                return
            yield _gather(*waiting.popleft())


def frames(sources: Iterable[Source], preparation: Preparation) -> Iterator[tuple[Source, Frame | ImageError]]:
    """Decode large images in their order, one ahead of the consumer.

    Args:
        sources: Images; taken lazily.
        preparation: The preparation of every image, which has tiles.

    Yields:
        Each source, and its frame or the reason why there is none.
    """
    stream = iter(sources)
    with threads_of_a_generator(1, "lit_od-decode") as pool:
        waiting: deque[tuple[Source, Future[Frame | ImageError]]] = deque()
        while True:
            while len(waiting) < FRAMES_AHEAD and (source := next(stream, None)) is not None:
                waiting.append((source, pool.submit(_frame, source, preparation)))
            if not waiting:
                return
            source, decoded = waiting.popleft()
            yield source, decoded.result()


def _frame(source: Source, preparation: Preparation) -> Frame | ImageError:
    try:
        return Frame(source, preparation)
    except ImageError as error:
        return ImageError(str(error))  # as in _fill


def load(sources: Iterable[Source], preparation: Preparation, *, threads: int | None = None) -> Images:
    """Prepare all images at once.

    Args:
        sources: The images.
        preparation: The preparation of every image.
        threads: Decoding threads. None takes one a core.

    Returns:
        Shape (n, h, w, c), uint8.

    Raises:
        ConfigError: If threads is less than 1.
        DataError: If an image cannot be read; the message names it.
    """
    chunks = []
    for batch in batches(sources, preparation, batch_size=256, threads=threads):
        batch.require_readable()
        chunks.append(batch.images)
    return np.concatenate(chunks) if chunks else np.empty((0, *preparation.shape), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class _Part:
    """Errors, geometry and computed arrays of one task's rows."""

    errors: dict[int, ImageError]
    geometry: list[Geometry]
    computed: Computed | None


def _fill(
    pixels: Images,
    chunk: Sequence[Source],
    rows: range,
    preparation: Preparation,
    compute: Callable[[Images], Computed] | None,
) -> _Part:
    errors: dict[int, ImageError] = {}
    geometry: list[Geometry] = []
    for row in rows:
        try:
            pixels[row], own = chunk[row].located(preparation)
            geometry.append(own)
        except ImageError as error:
            errors[row] = ImageError(str(error))  # `error` holds the frames of its traceback, and they hold the image
    if compute is None or len(errors) == len(rows):
        return _Part(errors, geometry, None)
    part = pixels[rows.start : rows.stop]
    return _Part(errors, geometry, compute(part[[row not in errors for row in rows]] if errors else part))


def _gather(chunk: list[Source], pixels: Images, tasks: list[Future[_Part]]) -> Batch:
    parts = [task.result() for task in tasks]
    errors = {row: error for part in parts for row, error in part.errors.items()}
    rows = np.array([row for row in range(len(chunk)) if row not in errors], dtype=np.intp)
    computed = [part.computed for part in parts if part.computed is not None]
    whole = tuple(np.concatenate(pieces) for pieces in zip(*computed, strict=True)) if computed else None
    geometry = [each for part in parts for each in part.geometry]
    return Batch(chunk, pixels[rows] if errors else pixels, rows, errors, geometry, whole)
