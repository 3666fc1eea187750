"""The way back from prepared pixels to those of the image as it was given."""

import math
from dataclasses import dataclass
from typing import Self, TypeAlias

from PIL import Image

from lit_od.images.corrections import orientation_of
from lit_od.images.preparation import Preparation, crop_box

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are excluded."""

_WAYS_BACK = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""By EXIF orientation: exchange x and y, then count x from the right, then y from the bottom."""

_DIGITS = 6
"""Decimals of a pixel that rounding outwards looks at: 3.0000000001 is 3."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Size and orientation of an image as it was given.

    Attributes:
        size: Height and width of its pixels as they are stored, before it was turned upright.
        orientation: EXIF orientation by which it was turned, 1 to 8; 1 for an image that was not.
    """

    size: tuple[int, int]
    orientation: int = 1

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """Return the geometry of a decoded, upright image."""
        orientation = orientation_of(image)
        size = image.size if orientation > 4 else image.size[::-1]
        return cls(size, orientation)

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the image after it was turned upright."""
        return self.size[::-1] if self.orientation > 4 else self.size

    def box(self, box: Box, preparation: Preparation) -> Box:
        """Carry a box of prepared pixels to the image, rounded outwards to whole pixels.

        Args:
            box: A box within the prepared image.
            preparation: The preparation that cut and resized the image.
        """
        left, top = self._given(box[0], box[1], preparation)
        right, bottom = self._given(box[2], box[3], preparation)
        (left, right), (top, bottom) = sorted((left, right)), sorted((top, bottom))
        height, width = self.size
        return (
            max(math.floor(round(left, _DIGITS)), 0),
            max(math.floor(round(top, _DIGITS)), 0),
            min(math.ceil(round(right, _DIGITS)), width),
            min(math.ceil(round(bottom, _DIGITS)), height),
        )

    def pixel(self, x: int, y: int, preparation: Preparation) -> tuple[int, int]:
        """Return x and y of the image's pixel at the centre of a prepared one.

        Args:
            x: Column of the prepared pixel.
            y: Row of the prepared pixel.
            preparation: The preparation that cut and resized the image.
        """
        across, down = self._given(x + 0.5, y + 0.5, preparation)
        height, width = self.size
        return min(max(math.floor(across), 0), width - 1), min(max(math.floor(down), 0), height - 1)

    def scale(self, preparation: Preparation) -> float:
        """Return the area of a prepared pixel, in pixels of the image."""
        left, top, right, bottom = crop_box(self.upright, preparation)
        return (right - left) * (bottom - top) / (preparation.size[0] * preparation.size[1])

    def _given(self, x: float, y: float, preparation: Preparation) -> tuple[float, float]:
        """Carry a point of the prepared plane to that of the image as it is stored."""
        left, top, right, bottom = crop_box(self.upright, preparation)
        x = left + x * (right - left) / preparation.size[1]
        y = top + y * (bottom - top) / preparation.size[0]
        exchange, from_right, from_bottom = _WAYS_BACK[self.orientation]
        if exchange:
            x, y = y, x
        return (self.size[1] - x if from_right else x), (self.size[0] - y if from_bottom else y)
