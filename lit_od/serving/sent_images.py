"""Images from clients, which take turns at memory while they are decoded."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image

from lit_od.images.geometry import Geometry
from lit_od.images.memory import MOST_BYTES_A_PIXEL, bytes_needed
from lit_od.images.preparation import FORMATS, MAX_PIXELS, Preparation, open_image
from lit_od.images.sources import EncodedImage, ImageArray, Source, Unreadable
from lit_od.types import Images

_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")


class DecodingRoom:
    """Memory for the images that are being decoded.

    An image waits until there is enough.

    Args:
        size: Bytes of it. An image that wants more is decoded alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._turn = threading.Lock()  # the first to wait is the first to go on, however large
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold as many bytes during the block."""
        size = min(size, self.size)
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self.held + size <= self.size)
            self.held += size
        try:
            yield
        finally:
            with self._freed:
                self.held -= size
                self._freed.notify_all()


@dataclass(frozen=True, slots=True)
class SentImage(EncodedImage):
    """An image file from a client.

    Attributes:
        pixels: Largest number of pixels.
        decoding: Room that it takes while it is decoded.
    """

    pixels: int = MAX_PIXELS
    decoding: DecodingRoom = field(kw_only=True, repr=False, compare=False)

    def decode(self) -> Image.Image:
        """Decode the bytes, upright.

        Raises:
            ImageError: If the bytes are unreadable, or hold too many pixels.
        """
        return open_image(self.data, most=self.pixels)

    def located(self, preparation: Preparation) -> tuple[Images, Geometry]:
        """Return pixels of shape (h, w, c), and the image's own geometry.

        Raises:
            ImageError: If the image cannot be read.
        """
        with self.decoding.hold(decoding_bytes(self.data)):
            return EncodedImage.located(self, preparation)


@dataclass(frozen=True, slots=True)
class SentArray(ImageArray):
    """An image from a client that is already decoded.

    Attributes:
        decoding: Room that it takes while it is converted.
    """

    decoding: DecodingRoom = field(kw_only=True, repr=False, compare=False)

    def located(self, preparation: Preparation) -> tuple[Images, Geometry]:
        """Return pixels of shape (h, w, c), and the array's height and width."""
        height, width = self.pixels.shape[:2]
        with self.decoding.hold(MOST_BYTES_A_PIXEL * height * width):
            return ImageArray.located(self, preparation)


def decoding_bytes(data: bytes) -> int:
    """Estimate from its header the bytes that decoding an image file takes.

    Converting is counted too. Zero where the header cannot be read: decoding fails then before it takes any.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return bytes_needed(image)
    except Exception:  # Pillow's decoders raise whatever a broken file makes them raise
        return 0


def sent_file(data: bytes, name: str, *, pixels: int, decoding: DecodingRoom) -> Source:
    """Make the source of an image file from a client.

    Args:
        data: The file.
        name: Its name, for the client.
        pixels: Largest number of pixels; a file with more becomes an error when it is decoded.
        decoding: Room that it takes while it is decoded.
    """
    if data.startswith(_POSTSCRIPT):  # Pillow would run Ghostscript on it
        return Unreadable(name, "PostScript is not taken")
    return SentImage(data, name, pixels=pixels, decoding=decoding)
