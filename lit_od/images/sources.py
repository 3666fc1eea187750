"""Sources of images: files, arrays, opened images and encoded bytes.

A source is one image with a name to report it by and, where it is known, a class label. A file is opened
only when it is read; one that turns out to be missing or broken is an error then.
"""

import os
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
from lit_od.images.geometry import Geometry
from lit_od.images.memory import BUDGET
from lit_od.images.preparation import Preparation, from_array, loaded, open_image, prepare
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


Version: TypeAlias = tuple[int, int]
"""Size of a file in bytes, and its time of change in milliseconds, which all file systems keep alike."""


def version_of(found: os.stat_result) -> Version:
    """Return the version of a file."""
    return found.st_size, found.st_mtime_ns // 1_000_000


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


Source: TypeAlias = ImageFile | ImageArray | OpenImage | EncodedImage | Unreadable

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
