"""Items of work: runs of consecutive images, told in so few bytes that a worker finds them.

Where items begin and end is as in `lit_od.shares`, so the graph is given the batches that one process would give
it, and a score does not depend on how many workers there are.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import overload

import msgspec
import numpy as np

from lit_od.cluster.inputs import Images, PackedImage, RowGroup, StoredImage
from lit_od.loading import threads_of_a_generator
from lit_od.shares import share
from lit_od.sources import EncodedImage, ImageArray, ImageFile, OpenImage, Source, Unreadable

ITEMS_A_WORKER = 64
"""Items are made so large that each worker gets about so many: fewer are uneven at the end, more cost more."""

MOST_ITEMS = 1 << 16
"""More items than this the driver does not hand out, however many workers there are: each takes it milliseconds."""

FETCHERS = 16
"""Threads that wait for object stores, in each worker: they wait, and take no core."""

_AHEAD = 4 * FETCHERS


class _File(msgspec.Struct, frozen=True, tag="file"):
    path: bytes
    name: bytes | None = None


class _Url(msgspec.Struct, frozen=True, tag="url"):
    url: str


class _Rows(msgspec.Struct, frozen=True, tag="rows"):
    """Consecutive rows of a row group; the first of them is called `shown`#`number`."""

    url: str
    shown: str
    group: int
    row: int
    number: int
    count: int


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


class Item(msgspec.Struct, frozen=True):
    """A run of consecutive images.

    Attributes:
        first: Number of the first among all.
        count: How many.
        places: Where they are.
        labels: Their class numbers as int64, or nothing.
    """

    first: int
    count: int
    places: list[_Place]
    labels: bytes = b""

    def sources(self) -> Sequence[Source]:
        """The images; who goes through them has those of object stores and tables fetched a little ahead."""
        return _Run(self)


class _Run(Sequence[Source]):
    def __init__(self, item: Item) -> None:
        self._item = item

    def __len__(self) -> int:
        return self._item.count

    def __iter__(self) -> Iterator[Source]:
        return _fetched(source for place in self._item.places for source in _found(place))

    @overload
    def __getitem__(self, row: int) -> Source: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Source]: ...

    def __getitem__(self, row: int | slice) -> Source | Sequence[Source]:
        return list(self)[row]


def items(sources: Sequence[Source], *, workers: int, labels: np.ndarray | None = None) -> Iterator[bytes]:
    """All images in items, encoded, in their order."""
    parts = item_count(workers)
    for part in range(parts):
        rows = share(len(sources), part, parts)
        if rows:
            numbers = b"" if labels is None else np.ascontiguousarray(labels[rows.start : rows.stop], np.int64)
            item = Item(rows.start, len(rows), _places(sources, rows), bytes(numbers))
            yield msgspec.msgpack.encode(item)


def item_count(workers: int) -> int:
    """Into how many items a long job is cut; a short one makes fewer."""
    return min(ITEMS_A_WORKER * workers, max(MOST_ITEMS, 4 * workers))


def decode(data: bytes) -> Item:
    """An item that `items` has encoded."""
    return msgspec.msgpack.decode(data, type=Item)


def _places(sources: Sequence[Source], rows: range) -> list[_Place]:
    """Where consecutive images lie; rows of a table that follow each other are one place."""
    if isinstance(sources, Images):
        places: list[_Place] = []
        for part, inner in sources.runs(rows):
            if isinstance(part, RowGroup):
                shown, first = part.url, part.first + inner.start
                places.append(_Rows(_everywhere(shown), shown, part.group, inner.start, first, len(inner)))
            else:
                places += _places(part, inner)
        return places
    places = []
    for source in sources[rows.start : rows.stop]:
        place = _place(source)
        last = places[-1] if places else None
        if isinstance(place, _Rows) and isinstance(last, _Rows) and _follows(place, last):
            places[-1] = msgspec.structs.replace(last, count=last.count + 1)
        else:
            places.append(place)
    return places


def _follows(place: _Rows, last: _Rows) -> bool:
    return (place.url, place.group, place.row) == (last.url, last.group, last.row + last.count)


def _place(source: Source) -> _Place:
    name = os.fsencode(source.name)
    match source:
        case PackedImage():
            shown, _, number = source.name.rpartition("#")
            return _Rows(_everywhere(source.url), shown, source.group, source.row, int(number), 1)
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
        case OpenImage():
            raise TypeError("an image that is open in this process cannot be sent to another")


def _everywhere(url: str) -> str:
    return url if "://" in url else str(Path(url).absolute())


def _found(place: _Place) -> Iterator[Source]:
    match place:
        case _File(path, name):
            yield ImageFile(Path(os.fsdecode(path)), os.fsdecode(name or path))
        case _Url(url):
            yield StoredImage(url)
        case _Rows(url, shown, group, row, number, count):
            yield from (PackedImage(url, group, row + each, f"{shown}#{number + each}") for each in range(count))
        case _Pixels(data, shape, name):
            yield ImageArray(np.frombuffer(data, np.uint8).reshape(shape), os.fsdecode(name))
        case _Bytes(data, name):
            yield EncodedImage(data, os.fsdecode(name))
        case _Broken(name, cause):
            yield Unreadable(os.fsdecode(name), cause)


def _fetched(sources: Iterator[Source]) -> Iterator[Source]:
    """The same images in the same order; what lies elsewhere is fetched by threads, a window ahead."""
    with threads_of_a_generator(FETCHERS, "lit_od-fetch") as pool:
        window: deque[Source | Future[EncodedImage | Unreadable]] = deque()

        def taken() -> Source:
            first = window.popleft()
            return first.result() if isinstance(first, Future) else first

        for source in sources:
            window.append(pool.submit(source.fetched) if isinstance(source, StoredImage | PackedImage) else source)
            if len(window) > _AHEAD:
                yield taken()
        while window:
            yield taken()
