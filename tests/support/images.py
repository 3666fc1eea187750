"""Images that ship with the package, the preparation that most tests use, and MNIST's format."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

import lit_od
from lit_od import Preparation

ASSETS = Path(lit_od.__file__).parent / "assets"
GREY = Preparation(size=(28, 28), mode="grey")


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """Return an image as a file's bytes; the options are Pillow's."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_idx(file: Path, array: np.ndarray) -> None:
    """Write an array of uint8 in MNIST's own format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + array.tobytes())
