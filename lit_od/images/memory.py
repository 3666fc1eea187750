"""Bound the memory of the images that are decoded at once."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

MOST = 2**31
"""Bytes of all images that are decoded at once; the largest image takes less."""

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
    pixel = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    pixel += 0 if image.mode in ("L", "RGB") else 4
    pixel += 6 if image.info.get("progressive") else 0  # a JPEG's coefficients, 2 bytes each
    return image.width * image.height * pixel
