"""Images take turns at memory before they are decoded."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import ImageError
from lit_od.images.memory import MOST_BYTES_A_PIXEL, bytes_needed
from lit_od.images.sources import EncodedImage, ImageArray
from lit_od.serving.limits import Limits
from lit_od.serving.sent_images import DecodingRoom, SentArray, SentImage, decoding_bytes
from tests.support.images import GREY, encoded

SIZE = (40, 30)


class Noted(DecodingRoom):
    """A room that notes how much is held."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.asked: list[int] = []

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        self.asked.append(size)
        with super().hold(size):
            yield


def test_memory_is_known_from_the_header() -> None:
    image = Image.new("RGB", SIZE)
    for file in (encoded(image), encoded(image)[:60]):
        assert decoding_bytes(file) == bytes_needed(image)
    assert decoding_bytes(b"broken") == 0


def test_images_hold_room_while_they_are_prepared() -> None:
    room = Noted(10**6)
    file = encoded(Image.linear_gradient("L"))
    np.testing.assert_array_equal(
        SentImage(file, "a", decoding=room).prepare(GREY), EncodedImage(file, "a").prepare(GREY)
    )
    pixels = np.arange(1200, dtype=np.uint8).reshape(30, 40)
    np.testing.assert_array_equal(
        SentArray(pixels, "b", decoding=room).prepare(GREY), ImageArray(pixels, "b").prepare(GREY)
    )
    with pytest.raises(ImageError):
        SentImage(file[:200], "c", decoding=room).prepare(GREY)
    assert room.asked == [decoding_bytes(file), MOST_BYTES_A_PIXEL * 30 * 40, decoding_bytes(file)]
    assert room.held == 0


def test_an_image_waits_until_there_is_room() -> None:
    room, entered = DecodingRoom(100), threading.Event()

    def later() -> None:
        with room.hold(60):
            entered.set()

    waiting = threading.Thread(target=later)
    with room.hold(60):
        waiting.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    waiting.join()
    with room.hold(1000):  # more than there is: alone
        assert room.held == 100
    assert room.held == 0


def test_the_room_suffices_for_any_image_that_is_taken() -> None:
    limits = Limits()
    assert limits.decoding == MOST_BYTES_A_PIXEL * limits.pixels
