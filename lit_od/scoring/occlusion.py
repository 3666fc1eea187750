"""Occlusion maps: the fall of the outlier score when image parts are hidden.

Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks. Windows over the prepared
image are blurred, one at a time, and the image is scored anew. Any backbone of features and any detector
serve, and the bundle needs no further file.
"""

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lit_od.images.preparation import counted_pixels
from lit_od.images.sources import ImageArray
from lit_od.scoring.scorer import Scorer
from lit_od.types import Images, Stats

WINDOWS = 8
"""Windows along each side; an image is scored once for each of their squared number, and once unchanged."""

SIDE = 1 / 6
"""Side of a window, as a share of the image's."""

BLUR = 0.1
"""Standard deviation of the blur, as a share of the image's shorter side."""


def occlusion_maps(scorer: Scorer, images: Images) -> NDArray[np.float32]:
    """Compute occlusion maps: the mean fall of the score over the windows on a pixel.

    Above 0 where the image raises its outlier score, below 0 where it lowers it. Runs on the scorer's
    threads, a batch of windows in memory at a time.

    Args:
        scorer: A bundle that gives features.
        images: Prepared images, (n, h, w, c) uint8.

    Returns:
        Shape (n, h, w), in the unit of the score; 0 where an image's outputs are not finite.

    Raises:
        BackboneError: If the graph takes other images.
    """
    n, height, width = images.shape[:3]
    # prepared images must be neither cropped nor masked again
    whole = msgspec.structs.replace(
        scorer.preparation,
        size=(height, width),
        crop=None,
        crop_fraction=None,
        mask=msgspec.UNSET,
        mask_colour=msgspec.UNSET,
    )
    down, across = _windows(height), _windows(width)
    sources = (source for image in images for source in _hidden(image, down, across))
    stream = replace(scorer, extractor=replace(scorer.extractor, preparation=whole)).stream(sources)
    scores = np.concatenate([np.empty(0), *(result.score for result in stream)])
    scores = scores.reshape(n, 1 + WINDOWS**2)
    falls = np.nan_to_num(scores[:, :1] - scores[:, 1:], nan=0.0, posinf=0.0, neginf=0.0)
    sums = down.T.astype(float) @ falls.reshape(n, WINDOWS, WINDOWS) @ across  # (n, h, w)
    covered: Stats = down.sum(axis=0)[:, None] * across.sum(axis=0)
    maps: NDArray[np.float32] = (sums / covered).astype(np.float32)
    counted = counted_pixels(scorer.preparation)
    return maps if counted is None else maps * counted


def _windows(length: int) -> NDArray[np.bool_]:
    """Return masks of the pixels along a side that each window covers.

    Returns:
        Shape (WINDOWS, length); together the windows cover all pixels.
    """
    centres = (np.arange(WINDOWS) + 0.5) * length / WINDOWS
    pixels = np.arange(length) + 0.5
    reach = max(SIDE * length, 1.0) / 2
    return np.abs(pixels - centres[:, None]) <= reach


def _hidden(image: Images, down: NDArray[np.bool_], across: NDArray[np.bool_]) -> Iterator[ImageArray]:
    """Yield the image unchanged, then with each window blurred, row by row."""
    yield ImageArray(image, "")
    blurred = _blurred(image)
    for rows in down:
        for columns in across:
            window = (rows[:, None] & columns)[..., None]
            yield ImageArray(np.where(window, blurred, image), "")


def _blurred(image: Images) -> Images:
    radius = BLUR * min(image.shape[:2])
    smooth = ImageFilter.GaussianBlur(radius)
    planes = [np.asarray(Image.fromarray(plane).filter(smooth)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack(planes, axis=2)
