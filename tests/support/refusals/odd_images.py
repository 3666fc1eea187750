"""Images as they turn up: every kind that must be read, and every kind that must be refused, under its name."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from lit_od.images.find_local import find
from tests.support.images import ASSETS

WRITE_ONLY = Path("/sys/bus/cpu/uevent")
"""A file that not even root can open for reading, where there is one."""
CLOSABLE = os.geteuid() != 0 or WRITE_ONLY.exists()


def digit() -> Image.Image:
    """A grey digit, 28 by 28."""
    return find([f"{ASSETS}/digits.npz:test_images"])[0].decode()


def colours() -> Image.Image:
    """Three digits as red, green and blue."""
    return Image.fromarray(
        np.stack([source.decode() for source in find([f"{ASSETS}/digits.npz:test_images"])[:3]], axis=-1)
    )


def saved(image: Image.Image, form: str = "PNG", **options: object) -> Callable[[Path], None]:
    """What writes an image to a file of any name."""

    def write(file: Path) -> None:
        with file.open("wb") as out:
            image.save(out, form, **options)

    return write


def _with_alpha() -> Image.Image:
    image = colours().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _bomb(file: Path) -> None:
    """The beginning of a PNG file that claims to be large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))))


def _truncated(file: Path) -> None:
    saved(colours().resize((200, 200)), "JPEG")(file)
    file.write_bytes(file.read_bytes()[:1500])


def _closed(file: Path) -> None:
    if os.geteuid() == 0:
        file.symlink_to(WRITE_ONLY)
    else:
        saved(digit())(file)
        file.chmod(0)


def _floats(scale: float) -> Image.Image:
    return Image.fromarray(np.asarray(digit(), dtype=np.float32) * np.float32(scale))


READABLE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "alpha": ("alpha.png", saved(_with_alpha())),
    "a palette": ("palette.png", saved(colours().quantize(32), transparency=3)),
    "CMYK": ("cmyk.tif", saved(colours().convert("CMYK"), "TIFF")),
    "16 bits": ("sixteen.png", saved(Image.fromarray(np.asarray(digit()).astype(np.uint16) * 257))),
    "floats in [0, 1]": ("float.tif", saved(_floats(1 / 255), "TIFF")),
    "an animation": ("animated.gif", saved(digit(), "GIF", save_all=True, append_images=[digit().rotate(90)])),
    "PNG that is called JPEG": ("png.jpg", saved(digit())),
    "a name with spaces": ("  two spaces .png", saved(digit())),
    "a name with quotes": ('it\'s "q", c;.png', saved(digit())),
    "a name with a newline": ("new\nline.png", saved(digit())),
    "a name in other scripts": ("日本語 ё.png", saved(digit())),
    "a name of any bytes": (os.fsdecode(b"\xff\xfe.png"), saved(digit())),
}
"""What it is, its name, and what writes it."""

BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "floats beyond [0, 1]": ("far.tif", saved(_floats(1.0), "TIFF"), "floating-point values must lie in [0, 1]"),
    "truncated": ("truncated.jpg", _truncated, "damaged image: image file is truncated"),
    "zero bytes": ("empty.png", Path.touch, "empty file"),
    "text that is called PNG": ("text.png", lambda file: file.write_text("text") and None, "not an image"),
    "400 million pixels": ("bomb.png", _bomb, "pixels exceed the limit of 89,478,485"),
    **({"no permission": ("closed.png", _closed, "permission denied")} if CLOSABLE else {}),
    "a link to nowhere": ("link.png", lambda file: file.symlink_to("nowhere.png"), "no such file"),
}
"""What is wrong, its name, what writes it, and what is said of it."""


def write_all(folder: Path) -> None:
    """Write every one of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write, *_ in (*READABLE.values(), *BROKEN.values()):
        write(folder / name)
