"""Sources of images: files, arrays, opened images, encoded bytes, and views.

A source is one image with a name to report it by and, where it is known, a class label. A file is opened
only when it is read; one that turns out to be missing or broken is an error then.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import DataError, ImageError
from lit_od.images.augment import Change, changed
from lit_od.images.geometry import Geometry
from lit_od.images.memory import BUDGET
from lit_od.images.preparation import Preparation, crop_box, from_array, loaded, open_image, prepare
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

        Raises:
            ImageError: If the image cannot be read.
        """
        with BUDGET.returned():
            image = self.decode()
            return prepare(image, preparation), Geometry.of(image)


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
        return prepare(self.pixels, preparation), Geometry((height, width))

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


Source: TypeAlias = ImageFile | ImageArray | OpenImage | EncodedImage | Unreadable | View

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
