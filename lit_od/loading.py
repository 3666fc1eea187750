"""Prepare many images on threads, ahead of who needs them, in bounded memory and in their order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError, ImageError
from lit_od.images import Preparation
from lit_od.sources import Source
from lit_od.types import Images

BATCHES_AHEAD = 3
"""Batches in preparation at once: one being used, one ready, one being made."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive sources and the pixels of those that could be read.

    Attributes:
        sources: The sources, readable or not.
        images: Pixels of the readable ones, (m, h, w, c) uint8.
        rows: Their positions in `sources`, shape (m,), ascending.
        errors: Position in `sources` and cause of each that could not be read.
    """

    sources: Sequence[Source]
    images: Images
    rows: NDArray[np.intp]
    errors: dict[int, ImageError]

    def require_readable(self) -> None:
        """Raise DataError if an image could not be read, naming the first."""
        for row, error in self.errors.items():
            raise DataError(f"{self.sources[row].name}: {error}. Take it out (lit-od check lists such files)")


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """The number of threads that a caller asked for, by default one a core. Raises ConfigError below 1."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    return available_threads() if threads is None else threads


def batches(
    sources: Iterable[Source], how: Preparation, *, batch_size: int, threads: int | None = None
) -> Iterator[Batch]:
    """Prepare sources batch by batch on threads, in their order, a few batches ahead.

    Args:
        sources: Images; taken lazily, so an endless stream needs no endless memory.
        how: The preparation of every image.
        batch_size: Images a batch.
        threads: Decoding threads. None takes one a core.

    Raises:
        ConfigError: If batch_size or threads is less than 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    stream = iter(sources)
    workers = thread_count(threads)
    with ThreadPoolExecutor(workers, thread_name_prefix="lit_od-decode") as pool:
        waiting: deque[tuple[list[Source], Images, list[Future[dict[int, ImageError]]]]] = deque()
        try:
            while True:
                while len(waiting) < BATCHES_AHEAD and (chunk := list(islice(stream, batch_size))):
                    pixels = np.empty((len(chunk), *how.shape), dtype=np.uint8)
                    step = max(1, -(-len(chunk) // (2 * workers)))  # tasks small enough to share evenly
                    tasks = [
                        pool.submit(_fill, pixels, chunk, range(start, min(start + step, len(chunk))), how)
                        for start in range(0, len(chunk), step)
                    ]
                    waiting.append((chunk, pixels, tasks))
                if not waiting:
                    return
                yield _gather(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def load(sources: Iterable[Source], how: Preparation, *, threads: int | None = None) -> Images:
    """All images at once, (n, h, w, c) uint8.

    Raises:
        DataError: If one cannot be read; the message names it.
    """
    chunks = []
    for batch in batches(sources, how, batch_size=256, threads=threads):
        batch.require_readable()
        chunks.append(batch.images)
    return np.concatenate(chunks) if chunks else np.empty((0, *how.shape), dtype=np.uint8)


def _fill(pixels: Images, chunk: Sequence[Source], rows: range, how: Preparation) -> dict[int, ImageError]:
    errors: dict[int, ImageError] = {}
    for row in rows:
        try:
            pixels[row] = chunk[row].prepare(how)
        except ImageError as error:
            errors[row] = error
    return errors


def _gather(chunk: list[Source], pixels: Images, tasks: list[Future[dict[int, ImageError]]]) -> Batch:
    errors = {row: error for task in tasks for row, error in task.result().items()}
    rows = np.array([row for row in range(len(chunk)) if row not in errors], dtype=np.intp)
    return Batch(chunk, pixels[rows] if errors else pixels, rows, errors)
