"""Items of work: runs of consecutive images, as the few bytes that name them.

Items begin and end where one process would begin and end a batch, as in `fitting.shards`, so the graph is given the
batches that one process would give it, and a score does not depend on the number of workers. They begin at the start
of a row group where they can: a worker that begins in the middle of a group reads the rows before it too.

Ray Data's own readers do not serve: they cut by bytes, not where a graph's batches end; they hold a table's row group
as a whole; their names must be Unicode; and one unreadable image ends the job, where a row with its error is wanted.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.errors import ConfigError
from lit_od.fitting.shards import shard
from lit_od.images.augment import Augment
from lit_od.images.find_remote import ImageList
from lit_od.images.object_store import StoredImage
from lit_od.images.parquet import PackedImage, RowGroup
from lit_od.images.sources import (
    EncodedImage,
    ImageArray,
    ImageFile,
    LazySequence,
    OpenImage,
    Source,
    Tile,
    Unreadable,
    View,
)
from lit_od.images.split import Subset
from lit_od.images.views import Views
from lit_od.runtime.threads import threads_of_a_generator

ITEMS_A_WORKER = 64
"""Items that each worker gets, about: with fewer some workers end late, more cost more."""

MOST_ITEMS = 1 << 16
"""Most items of a job, whatever the number of workers: each costs the driver milliseconds."""

FETCHERS = 16
"""Threads that fetch from object stores, in each worker: they wait, and take no core."""

_AHEAD = 4 * FETCHERS


class _File(msgspec.Struct, frozen=True, tag="file"):
    path: bytes
    name: bytes | None = None


class _Url(msgspec.Struct, frozen=True, tag="url"):
    url: str


class _Rows(msgspec.Struct, frozen=True, tag="rows", omit_defaults=True):
    """Rows among `count` consecutive ones of a row group.

    Rows whose bit in `chosen` is set are taken; without `chosen` all are. The first row is called `shown`#`number`.
    """

    url: str
    shown: str
    group: int
    row: int
    number: int
    count: int
    chosen: bytes = b""


class _Pixels(msgspec.Struct, frozen=True, tag="pixels"):
    data: bytes
    shape: tuple[int, ...]
    name: bytes


class _Bytes(msgspec.Struct, frozen=True, tag="bytes"):
    data: bytes
    name: bytes


class _Broken(msgspec.Struct, frozen=True, tag="broken"):
    name: bytes
    cause: str


_Place = _File | _Url | _Rows | _Pixels | _Bytes | _Broken


class _Views(msgspec.Struct, frozen=True):
    """The views that an item takes of its images.

    Attributes:
        augment: Changes that make the views.
        seed: Seed of the changes.
        image: Number of the first image of the item.
        skipped: Views of the first image that belong to the item before.
    """

    augment: Augment
    seed: int
    image: int
    skipped: int


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run of consecutive images, or of their views.

    Attributes:
        first: Number of the first among all.
        count: Number of images, or of views.
        places: Files, URLs, rows or pixels from which a worker reads the images.
        labels: Class numbers as int64, or nothing.
        views: The views; None for the images alone.
    """

    first: int
    count: int
    places: list[_Place]
    labels: bytes = b""
    views: _Views | None = None

    def sources(self) -> Sequence[Source]:
        """Return the images.

        Iterating over them fetches those of object stores and tables a little ahead.
        """
        return _Run(self)


class _Run(LazySequence[Source]):
    def __init__(self, item: Item) -> None:
        self._item = item

    def __len__(self) -> int:
        return self._item.count

    def __iter__(self) -> Iterator[Source]:
        images = _fetched(source for place in self._item.places for source in _sources(place))
        views = self._item.views
        if views is None:
            return images
        return islice(_views_of(images, views), views.skipped, views.skipped + self._item.count)

    def at(self, row: int) -> Source:
        return next(islice(self, row, None))


def items(sources: Sequence[Source], *, workers: int, labels: np.ndarray | None = None) -> Iterator[bytes]:
    """Cut all images into items.

    Args:
        sources: The images.
        workers: Number of workers.
        labels: Class numbers of the images, shape (n,), where they have classes.

    Yields:
        The encoded items in the order of the images.
    """
    start = 0
    for stop in _ends(sources, item_count(workers)):
        numbers = b"" if labels is None else np.ascontiguousarray(labels[start:stop], np.int64)
        images, rows, views = sources, range(start, stop), None
        if isinstance(sources, Views):
            each = sources.augment.count
            images, rows = sources.images, range(sources.rows[start] // each, sources.rows[stop - 1] // each + 1)
            views = _Views(sources.augment, sources.seed, sources.first + rows.start, sources.rows[start] % each)
        item = Item(start, stop - start, list(_places(images, rows)), bytes(numbers), views)
        yield msgspec.msgpack.encode(item)
        start = stop


def item_count(workers: int) -> int:
    """Return the number of items that a long job is cut into; a short one has fewer."""
    return min(ITEMS_A_WORKER * workers, max(MOST_ITEMS, 4 * workers))


def decode(data: bytes) -> Item:
    """Decode an item that `items` has encoded."""
    return msgspec.msgpack.decode(data, type=Item)


def _ends(sources: Sequence[Source], parts: int) -> Iterator[int]:
    """Yield the rows where items end.

    They end with the shards of so many parts, or a little before, where a row group begins.
    """
    last = 0
    for part in range(parts):
        rows = shard(len(sources), part, parts)
        if not rows:
            continue
        end = rows.stop
        if end < len(sources):
            batch = -(-_group_start(sources, end) // BATCH_SIZE) * BATCH_SIZE
            end = batch if batch > last else end
        yield end
        last = end


def _group_start(sources: Sequence[Source], row: int) -> int:
    """Return the first row of a row's group; the row itself if it has none."""
    match sources:
        case ImageList():
            return sources.group_start(row)
        case Subset(whole=ImageList() as whole, rows=rows):
            return int(np.searchsorted(rows, whole.group_start(int(rows[row]))))
        case _:
            return row


def _places(sources: Sequence[Source], rows: range) -> Iterator[_Place]:
    """Yield the places of consecutive images.

    Those of a row group of an `ImageList` are one place.
    """
    if isinstance(sources, ImageList):
        yield from _places_of_rows(sources, np.arange(rows.start, rows.stop))
    elif isinstance(sources, Subset) and isinstance(sources.whole, ImageList):
        yield from _places_of_rows(sources.whole, sources.rows[rows.start : rows.stop])
    else:
        yield from map(_place, sources[rows.start : rows.stop])


def _places_of_rows(images: ImageList, rows: NDArray[np.intp]) -> Iterator[_Place]:
    """Yield the places of the images of some ascending rows."""
    for number in range(bisect_right(images.ends, rows[0]), bisect_right(images.ends, rows[-1]) + 1):
        part, end = images.parts[number], images.ends[number]
        inner = rows[slice(*np.searchsorted(rows, (end - len(part), end)))] - (end - len(part))
        if not len(inner):
            continue
        if not isinstance(part, RowGroup):
            yield from map(_place, (part[row] for row in inner.tolist()))
            continue
        first, count = int(inner[0]), int(inner[-1] - inner[0]) + 1
        chosen = np.zeros(count, bool)
        chosen[inner - first] = True
        bits = b"" if chosen.all() else np.packbits(chosen).tobytes()
        yield _Rows(_absolute(part.url), part.url, part.group, first, part.first + first, count, bits)


def _place(source: Source) -> _Place:
    name = os.fsencode(source.name)
    match source:
        case PackedImage():
            shown, _, number = source.name.rpartition("#")
            return _Rows(_absolute(source.url), shown, source.group, source.row, int(number), 1)
        case StoredImage():
            return _Url(source.url)
        case ImageFile():
            path = os.fsencode(source.path.absolute())  # a worker has another working folder
            return _File(path, None if path == name else name)
        case ImageArray():
            return _Pixels(source.pixels.tobytes(), source.pixels.shape, name)
        case EncodedImage():
            return _Bytes(source.data, name)
        case Unreadable():
            return _Broken(name, source.cause)
        case Tile():
            raise ConfigError("tiles are fitted on by this machine alone: leave out --engine ray")
        case OpenImage() | View():
            raise TypeError("an image that is open in this process, or a view alone, cannot be sent to another")


def _absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).absolute())


def _sources(place: _Place) -> Iterator[Source]:
    match place:
        case _File(path, name):
            yield ImageFile(Path(os.fsdecode(path)), os.fsdecode(name or path))
        case _Url(url):
            yield StoredImage(url)
        case _Rows(url, shown, group, row, number, count, chosen):
            bits = np.unpackbits(np.frombuffer(chosen, np.uint8), count=count) if chosen else np.ones(count, np.uint8)
            for each in np.flatnonzero(bits).tolist():
                yield PackedImage(url, group, row + each, f"{shown}#{number + each}")
        case _Pixels(data, shape, name):
            yield ImageArray(np.frombuffer(data, np.uint8).reshape(shape), os.fsdecode(name))
        case _Bytes(data, name):
            yield EncodedImage(data, os.fsdecode(name))
        case _Broken(name, cause):
            yield Unreadable(os.fsdecode(name), cause)


def _views_of(images: Iterable[Source], views: _Views) -> Iterator[Source]:
    """Yield the views of images that are read in order, each image once."""
    for number, image in enumerate(images, start=views.image):
        yield from Views.of([image], views.augment, seed=views.seed, first=number)


def _fetched(sources: Iterator[Source]) -> Iterator[Source]:
    """Yield the images in order; threads fetch those of object stores and tables."""
    with (
        threads_of_a_generator(FETCHERS, "lit_od-fetch") as pool,
        threads_of_a_generator(1, "lit_od-table") as reader,  # a table is read in order
    ):
        window: deque[Source | Future[EncodedImage | Unreadable]] = deque()
        for source in sources:
            if isinstance(source, StoredImage | PackedImage):
                window.append((pool if isinstance(source, StoredImage) else reader).submit(source.fetched))
            else:
                window.append(source)
            if len(window) > _AHEAD:
                yield _taken(window.popleft())
        yield from map(_taken, window)


def _taken(each: Source | Future[EncodedImage | Unreadable]) -> Source:
    return each.result() if isinstance(each, Future) else each
