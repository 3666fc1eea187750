"""Sources of whatever a caller gives as images."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import DataError
from lit_od.images.find_local import find
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, OpenImage, Source

ImageLike: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8]
"""A path, an encoded image as bytes or open binary file, a Pillow image, or uint8 pixels (h, w), (h, w, 1 | 3 | 4)."""


def sources_of(images: Sequence[ImageLike] | ImageLike) -> list[Source]:
    """Return a source for each image that was given.

    Raises:
        DataError: If something is no image.
    """
    return [source for row, image in enumerate(_as_list(images)) for source in _sources(image, row)]


def _as_list(images: Sequence[ImageLike] | ImageLike) -> Sequence[ImageLike]:
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | Path | bytes | Image.Image | np.ndarray) or _is_open_file(images):
        return [images]  # type: ignore[list-item]  # a file that is open is no sequence
    return images  # type: ignore[return-value]


def _is_open_file(image: object) -> bool:
    """Return True for a binary file or what reads like one."""
    return hasattr(image, "read") and not isinstance(image, io.TextIOBase)


def _sources(image: ImageLike, row: int) -> list[Source]:
    match image:
        case str() | Path():
            return [ImageFile(Path(image), str(image))]
        case bytes():
            return [EncodedImage(image, f"#{row}")]
        case Image.Image():
            return [OpenImage(image, f"#{row}")]
        case np.ndarray() if image.ndim == 4:
            return [ImageArray(pixels, f"#{row}.{part}") for part, pixels in enumerate(image)]
        case np.ndarray():
            return [ImageArray(image, f"#{row}")]
    if _is_open_file(image):
        return [EncodedImage(image.read(), f"#{row}")]
    raise DataError(
        "wanted a path, the bytes or open binary file of an image, a Pillow image or a uint8 array, got "
        f"{type(image).__name__}"
    )


def expanded(images: str | Path | Iterable[str | Path | Source]) -> Iterator[Source]:
    """Yield the sources of PATHs, and sources unchanged."""
    for image in [images] if isinstance(images, str | Path) else images:
        if isinstance(image, str | Path):
            yield from find([image])
        else:
            yield image
