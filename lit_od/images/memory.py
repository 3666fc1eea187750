"""Bound the memory of the images that are decoded at once."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

MOST = 2**31
"""Bytes of all images that are decoded at once; an image that takes more is decoded alone."""

MOST_BYTES_A_PIXEL = 24
"""Largest number of bytes that decoding and converting a pixel takes."""

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes of a decoded pixel by mode; others have 4."""

_TURNED, _CONVERTED = 4, 7
"""Bytes beside a decoded pixel: of RGB that is turned or becomes grey, and of any other that becomes RGB."""

_DECODERS = {"AVIF": 6, "HEIF": 12, "JPEG2000": 20, "TIFF": 8, "WEBP": 12}
"""Bytes of a pixel that decoders take beside those that they return, by format: TIFF's for a single strip."""

_COEFFICIENTS = 8
"""Bytes of a pixel's coefficients, which the decoder of a progressive JPEG keeps: 2 a channel."""

_WEIGHTS = 32
"""Bytes of the weights by which a row or column is resized, at most: they count where an image is very wide."""

_SMALL = 512
"""Images that take less than this part of a budget, 1 / 512, are not counted: the lock would cost more."""


class MemoryBudget:
    """A number of bytes that threads share.

    Args:
        most: Bytes that all threads together may take. A thread gets more where no other one has any.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)  # the threads that would give back are not there

    def _forget(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def returned(self) -> Iterator[None]:
        """Give back at the end all that the thread has taken within."""
        self._own.taken = 0
        try:
            yield
        finally:
            taken = self._own.taken
            del self._own.taken
            if taken:
                with self._changed:
                    self._taken -= taken
                    self._changed.notify_all()

    def take(self, amount: int) -> None:
        """Wait until bytes are free, and take them; outside `returned` do nothing."""
        if amount < self._most // _SMALL or not hasattr(self._own, "taken"):
            return
        with self._changed:
            self._changed.wait_for(lambda: self._taken == self._own.taken or self._taken + amount <= self._most)
            self._taken += amount
            self._own.taken += amount


BUDGET = MemoryBudget(MOST)


def bytes_needed(image: Image.Image) -> int:
    """Count the bytes that decoding and converting an opened image will take."""
    later = _TURNED if image.mode == "RGB" else _CONVERTED
    decoder = _COEFFICIENTS if image.info.get("progressive") else _DECODERS.get(image.format or "", 0)
    pixel = _STORED.get(image.mode, 4) + max(later, decoder)  # a decoder frees its own before the image is converted
    return image.width * image.height * pixel + _WEIGHTS * (image.width + image.height)
