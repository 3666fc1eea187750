"""Sources of images: files, arrays, opened images, bytes, views and tiles.

A source is one image with a name to report it by and, where it is known, a class label. A file is opened
only when it is read; one that turns out to be missing or broken is an error then.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import DataError, ImageError
from lit_od.images.augment import Change, changed
from lit_od.images.colour import from_array
from lit_od.images.geometry import Geometry
from lit_od.images.memory import BUDGET
from lit_od.images.preparation import Preparation, counted_pixels, crop_box, loaded, open_image, prepare
from lit_od.images.tiles import Place, places_of
from lit_od.types import Images, Labels

_OPEN_LOCKS = tuple(threading.Lock() for _ in range(32))
"""Locks by image: a list may name an open image twice, and Pillow must not decode it on two threads."""


class _Image(ABC):
    """An image that can be decoded."""

    __slots__ = ()

    @abstractmethod
    def decode(self) -> Image.Image:
        """Return the image, upright. Raises ImageError where it cannot be read."""

    def prepare(self, preparation: Preparation) -> Images:
        """Return pixels of shape (h, w, c).

        Raises:
            ImageError: If the image cannot be read.
        """
        return self.located(preparation)[0]

    def located(self, preparation: Preparation) -> tuple[Images, Geometry]:
        """Return pixels of shape (h, w, c), and the image's own geometry.

        With tiles the image is whole and keeps its height and width.

        Raises:
            ImageError: If the image cannot be read.
        """
        with BUDGET.returned():
            image = self.decode()
            return prepare(image, preparation.for_image((image.height, image.width))), Geometry.of(image)


@dataclass(frozen=True, slots=True)
class ImageFile(_Image):
    """An image file."""

    path: Path
    name: str
    label: str | None = None

    def decode(self) -> Image.Image:
        """Return the image, upright. Raises ImageError where the file cannot be read."""
        return open_image(self.path)


@dataclass(frozen=True, slots=True)
class ImageArray(_Image):
    """An image that is already decoded."""

    pixels: NDArray[np.uint8] = field(repr=False)
    name: str
    label: str | None = None

    def located(self, preparation: Preparation) -> tuple[Images, Geometry]:
        """Return pixels of shape (h, w, c), and the array's height and width."""
        height, width = self.pixels.shape[:2]
        return prepare(self.pixels, preparation.for_image((height, width))), Geometry((height, width))

    def decode(self) -> Image.Image:
        """Return the image."""
        return from_array(self.pixels)


@dataclass(frozen=True, slots=True)
class OpenImage(_Image):
    """An image that Pillow has open."""

    image: Image.Image = field(repr=False)
    name: str
    label: str | None = None

    def decode(self) -> Image.Image:
        """Return the image, upright. Raises ImageError where it cannot be read."""
        with _OPEN_LOCKS[id(self.image) // 64 % len(_OPEN_LOCKS)]:
            return loaded(self.image)


@dataclass(frozen=True, slots=True)
class EncodedImage(_Image):
    """The bytes of an image file."""

    data: bytes = field(repr=False)
    name: str
    label: str | None = None

    def decode(self) -> Image.Image:
        """Return the image, upright. Raises ImageError where the bytes cannot be read."""
        return open_image(self.data)


@dataclass(frozen=True, slots=True)
class Unreadable(_Image):
    """An image that is known to be missing or broken before it is opened."""

    name: str
    cause: str
    label: str | None = None

    def decode(self) -> Image.Image:
        """Raise ImageError with the cause."""
        raise ImageError(self.cause)


@dataclass(frozen=True, slots=True)
class View(_Image):
    """A view of another image, which is changed once it is prepared."""

    source: "Source"
    change: Change

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.source.name

    @property
    def label(self) -> str | None:
        """Class of the image."""
        return self.source.label

    def located(self, preparation: Preparation) -> tuple[Images, Geometry]:
        """Return pixels of shape (h, w, c), and the image's own geometry.

        Raises:
            ImageError: If the image cannot be read, or its proportions are lost and the view is turned.
        """
        pixels, geometry = self.source.located(preparation)
        if self.change.rotates:
            _require_proportions(geometry.upright, preparation)
        return changed(pixels, self.change), geometry

    def decode(self) -> Image.Image:
        """Return the image, upright and unchanged."""
        return self.source.decode()


STRETCH = 0.02
"""Relative difference of the scales along both sides with which an image may be turned."""


def _require_proportions(size: tuple[int, int], preparation: Preparation) -> None:
    """Raise ImageError where an image (height, width) is squeezed or stretched."""
    left, upper, right, lower = crop_box(size, preparation)
    height, width = preparation.size
    if abs((right - left) * height - (lower - upper) * width) > STRETCH * (lower - upper) * width:
        raise ImageError(
            f"a turned view needs images of the proportions of {width}x{height}, got {size[1]}x{size[0]} pixels"
        )


class Frame:
    """A large image, decoded for its first tile and forgotten with the last.

    Args:
        source: The image.
        preparation: Its preparation, which has tiles.

    Attributes:
        source: The image.
        geometry: The image's own geometry.
        whole: Its preparation as a whole, at its own resolution.
        places: Places of its tiles, but for those of which no pixel counts.

    Raises:
        ImageError: If the image cannot be read, or is smaller than a tile.
    """

    __slots__ = ("_left", "_lock", "_pixels", "geometry", "places", "source", "whole")

    def __init__(self, source: "Source", preparation: Preparation) -> None:
        assert isinstance(preparation.overlap, int)
        self.source, self._lock, self._left = source, threading.Lock(), 0
        pixels, self.geometry = source.located(preparation)
        self._pixels: Images | None = pixels
        size = (pixels.shape[0], pixels.shape[1])
        self.whole = preparation.for_image(size)
        self.places = places_of(size, preparation.size, preparation.overlap)
        counted = self.counted
        if counted is not None:
            self.places = [each for each in self.places if counted[each.rows, each.columns].any()]
        self._left = len(self.places)

    @property
    def counted(self) -> NDArray[np.bool_] | None:
        """Pixels that count, (h, w); None if all do."""
        return None if self.whole.region is None else _counted(self.whole)

    def tiles(self) -> "list[Tile]":
        """Return the tiles, row by row."""
        return [Tile(self, place) for place in self.places]

    def pixels(self) -> Images:
        """Return the pixels of the whole image, (h, w, c)."""
        with self._lock:
            if self._pixels is None:
                self._pixels, self._left = self.source.prepare(self.whole), len(self.places)
            return self._pixels

    def taken(self, place: Place) -> Images:
        """Return the pixels of a tile, (h, w, c); the last one forgets the image."""
        pixels = self.pixels()[place.rows, place.columns]
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self._pixels = None
        return pixels

    def forget(self) -> None:
        """Forget the pixels, which are decoded again when they are wanted."""
        with self._lock:
            self._pixels = None


@lru_cache(maxsize=4)  # a byte for each of an image's pixels
def _counted(whole: Preparation) -> NDArray[np.bool_] | None:
    return counted_pixels(whole)


@dataclass(frozen=True, slots=True, eq=False)
class Tile(_Image):
    """A tile of a large image; it has the image's name and label."""

    frame: Frame
    place: Place

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.frame.source.name

    @property
    def label(self) -> str | None:
        """Label of the image."""
        return self.frame.source.label

    @property
    def counted(self) -> NDArray[np.bool_] | None:
        """Pixels that count, (h, w); None if all do."""
        whole = self.frame.counted
        counted = None if whole is None else whole[self.place.rows, self.place.columns]
        return None if counted is None or counted.all() else counted

    def located(self, preparation: Preparation) -> tuple[Images, Geometry]:
        """Return pixels of shape (h, w, c), and the tile's height and width."""
        return self.frame.taken(self.place), Geometry(preparation.size)

    def decode(self) -> Image.Image:
        """Return the tile."""
        return from_array(self.frame.taken(self.place))


def tiled(sources: "Sequence[Source]", preparation: Preparation) -> "Sequence[Source]":
    """Return the tiles of all images, to be fitted on; without tiles the images.

    Each image is decoded once to know its size. One that cannot be read stays, and fails when it is read.

    Args:
        sources: The images.
        preparation: Their preparation.
    """
    if not preparation.has_tiles:
        return sources
    found: list[Source] = []
    for source in sources:
        try:
            frame = Frame(source, preparation)
        except ImageError as error:
            found.append(Unreadable(source.name, str(error), source.label))
            continue
        frame.forget()
        found += frame.tiles()
    return found


T = TypeVar("T")


class LazySequence(Sequence[T]):
    """A sequence whose elements are made when they are asked for."""

    @abstractmethod
    def at(self, row: int) -> T:
        """Return the element at a position from 0 to the length less 1."""

    @overload
    def __getitem__(self, row: int) -> T: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[T]: ...

    def __getitem__(self, row: int | slice) -> T | Sequence[T]:
        rows = range(len(self))[row]
        return self.at(rows) if isinstance(rows, int) else [self.at(each) for each in rows]


Source: TypeAlias = ImageFile | ImageArray | OpenImage | EncodedImage | Unreadable | View | Tile

SetOpener: TypeAlias = Callable[[str], "list[Source] | None"]
"""Function from a PATH to the images of the set that it names; None where it names no set."""


def class_numbers(sources: Sequence[Source]) -> Labels:
    """Return the class of each source as a number, shape (n,).

    Classes are numbered in the order of their names.

    Raises:
        DataError: If a source has no label.
    """
    for source in sources:
        if source.label is None:
            raise DataError(
                f"a class-conditional detector needs a class for every image; {source.name} has none. "
                "Give class folders, or a .csv with a label column"
            )
    _, numbers = np.unique(np.array([source.label for source in sources], dtype=str), return_inverse=True)
    return numbers
