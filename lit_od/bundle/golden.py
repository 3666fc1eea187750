"""Golden images: a few encoded image files with their expected pixels and scores.

They are real images of the calibration part, written as other sizes, modes and formats than the
backbone's, so that `verify` proves decoding, preparation, graph and detector on the present machine. With tiles each is
a single tile, of which all pixels count.
"""

import io
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from msgspec import UNSET
from PIL import Image

from lit_od.backbone.model import Backbone
from lit_od.bundle.manifest import Tolerance
from lit_od.detectors import Detector
from lit_od.errors import LitODError
from lit_od.images.bit_depth import eight_bits
from lit_od.images.preparation import MAX_PIXELS, Preparation, open_image, prepare
from lit_od.images.sources import Source
from lit_od.types import Arrays

MAX_SIDE = 512
"""Larger originals are shrunk to this side, to keep bundles small."""

_FILE = "file."


def make(sources: Sequence[Source], preparation: Preparation, backbone: Backbone, detector: Detector) -> Arrays:
    """Encode some of the sources, and compute their pixels, outputs and scores.

    Args:
        sources: Images to choose from, at least one, all readable.
        preparation: The bundle's preparation.
        backbone: The bundle's backbone.
        detector: The bundle's detector.

    Returns:
        `file.0` ... (bytes as uint8), `pixels` (n, h, w, c), `outputs` (n, ...) and `scores` (n,).
    """
    encoders = _encoders(preparation)
    chosen = [sources[row] for row in np.linspace(0, len(sources) - 1, len(encoders)).astype(int)]
    files = [encode(_small(each.decode(), preparation)) for each, encode in zip(chosen, encoders, strict=True)]
    preparation = _alone(preparation)
    pixels = np.stack([prepare(open_image(file), preparation) for file in files])
    outputs = backbone(pixels)
    arrays: Arrays = {f"{_FILE}{row}": np.frombuffer(file, dtype=np.uint8) for row, file in enumerate(files)}
    return {**arrays, "pixels": pixels, "outputs": outputs, "scores": detector.score(outputs)}


def differences(
    golden: Arrays, preparation: Preparation, backbone: Backbone, detector: Detector, allowed: Tolerance
) -> list[str]:
    """Decode, prepare and score golden images again, and report differences.

    Args:
        golden: Arrays as `make` returns them.
        preparation: The bundle's preparation.
        backbone: The bundle's backbone.
        detector: The bundle's detector.
        allowed: Largest differences that are not reported.

    Returns:
        A line for each difference.
    """
    pixels, outputs = golden["pixels"], golden["outputs"]
    found = pixel_differences(golden, preparation, allowed)
    for name, limit, want, compute in (
        ("outputs", allowed.outputs, outputs, lambda: backbone(pixels)),
        ("scores", allowed.scores, golden["scores"], lambda: detector.score(outputs)),
    ):
        gap = relative_difference(want, compute())
        if not gap <= limit:
            found.append(f"golden {name} differ by {gap:.3g} relative, allowed {limit:g}")
    return found


def pixel_differences(golden: Arrays, preparation: Preparation, allowed: Tolerance) -> list[str]:
    """Decode and prepare golden images again, and report differences, a line each.

    Args:
        golden: Arrays as `make` returns them.
        preparation: The bundle's preparation.
        allowed: Largest differences that are not reported.
    """
    pixels, found = golden["pixels"], []
    preparation = _alone(preparation)
    for row, file in enumerate(golden_files(golden)):
        try:
            off = int(np.abs(prepare(open_image(file), preparation).astype(int) - pixels[row]).max())
        except LitODError as error:
            found.append(f"golden image {row} cannot be read: {error}")
            continue
        if off > allowed.pixels:
            found.append(f"golden image {row}: pixels differ by {off} of 255, allowed {allowed.pixels}")
    return found


def _alone(preparation: Preparation) -> Preparation:
    """Return the preparation of a golden image: with tiles that of one tile."""
    if not preparation.has_tiles:
        return preparation
    return msgspec.structs.replace(preparation, overlap=UNSET, mask=UNSET, mask_colour=UNSET)


def golden_files(golden: Arrays) -> list[bytes]:
    """Return the encoded golden images."""
    return [golden[f"{_FILE}{row}"].tobytes() for row in range(len(golden["pixels"]))]


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Compute max |a - b| / max |a|.

    Infinite where the shapes differ, 0 where both arrays are all zero.
    """
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore", over="ignore"):  # infinity and NaN differ from everything, without a warning
        gap = float(np.abs(a - b).max(initial=0.0))
    return 0.0 if gap == 0 else gap / float(np.abs(a).max() or np.finfo(float).tiny)


def _small(image: Image.Image, preparation: Preparation) -> Image.Image:
    """Convert an image to 8 bits, and shrink it or cut a tile out of it.

    It is not shrunk below the crop's size.
    """
    image = eight_bits(image, preparation.white)
    if preparation.has_tiles:
        (height, width), (left, top) = preparation.size, (image.width // 2, image.height // 2)
        left, top = min(left, image.width - width), min(top, image.height - height)
        return image.crop((left, top, left + width, top + height))
    height, width = preparation.crop or (1, 1)
    side = max(MAX_SIDE, 2 * max(*preparation.size, height, width))
    scale = max(side / max(image.size), width / image.width, height / image.height)
    if scale < 1:
        image = image.convert("RGB").resize((math.ceil(image.width * scale), math.ceil(image.height * scale)))
    return image


def _saved(image: Image.Image, form: str, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    if form == "JPEG":
        image.save(buffer, form, quality=90, exif=exif or Image.Exif())
    else:
        image.save(buffer, form)
    return buffer.getvalue()


def _larger_png(image: Image.Image) -> bytes:
    size = (image.width * 2 + 1, image.height * 2)
    if size[0] * size[1] > MAX_PIXELS:  # no image may be larger
        return _saved(image.convert("RGB"), "PNG")
    return _saved(image.convert("RGB").resize(size), "PNG")


def _palette_png(image: Image.Image) -> bytes:
    return _saved(image.convert("RGB").quantize(64), "PNG")


def _alpha_png(image: Image.Image) -> bytes:
    opaque = image.convert("RGBA")
    opaque.putalpha(Image.linear_gradient("L").resize(image.size))
    return _saved(opaque, "PNG")


def _sixteen_bit_png(image: Image.Image, white: int) -> bytes:
    grey = np.asarray(image.convert("RGB").convert("L")).astype(np.uint32)
    return _saved(Image.fromarray(((grey * white + 127) // 255).astype(np.uint16)), "PNG")


def _turned_jpeg(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    return _saved(image.convert("RGB").transpose(Image.Transpose.ROTATE_90), "JPEG", exif)


def _encoders(preparation: Preparation) -> tuple[Callable[[Image.Image], bytes], ...]:
    """Return the encoders of images; those of tiles keep their size."""
    white, same_size = preparation.white, preparation.has_tiles
    return (
        lambda image: _saved(image.convert("RGB"), "PNG"),
        lambda image: _saved(image.convert("RGB"), "JPEG"),
        *(() if same_size else (_larger_png,)),
        _palette_png,
        _alpha_png,
        lambda image: _sixteen_bit_png(image, white),
        _turned_jpeg,
    )
