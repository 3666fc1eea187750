"""The Open Inference Protocol, version 2, over HTTP: requests and answers.

A request brings one input: `images`, UINT8 (n, h, w, c), or `encoded`, BYTES (n), image files. Its data
are in the JSON, or follow it in binary form (the binary tensor data extension). It may name the outputs
that it wants; else it gets those of `PLAIN`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from PIL import Image

from lit_od.images.preparation import MAX_PIXELS, open_image
from lit_od.images.sources import EncodedImage, ImageArray, Source, Unreadable
from lit_od.serving import tensors
from lit_od.serving.limits import Refused
from lit_od.serving.tensors import Column

VERSION = "1"
"""Version of every model."""

EXTENSIONS = ["binary_tensor_data"]

PLAIN = ("score", "p_value", "is_outlier", "error")
"""Outputs of a request that names none."""

LENGTH_HEADER = "Inference-Header-Content-Length"
"""Header with the number of bytes of the JSON before binary tensors."""

_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")


class _Parameters(msgspec.Struct, frozen=True, gc=False):
    """Parameters that are used.

    Others are skipped as text: decoded, lists of lists are 20 times as large.
    """

    binary_data_size: int | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classification: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    shared_memory_region: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_NONE = _Parameters()


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    parameters: _Parameters = _NONE
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: _Parameters = _NONE


class _Inference(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: _Parameters = _NONE
    outputs: list[_Output] = []


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        id: Its identifier, which the answer repeats.
        sources: The images.
        outputs: The wanted outputs by name; True for binary form.
    """

    id: str
    sources: Sequence[Source]
    outputs: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class SentImage(EncodedImage):
    """An image file from a client.

    Attributes:
        pixels: Largest number of pixels.
    """

    pixels: int = MAX_PIXELS

    def decode(self) -> Image.Image:
        """Decode the bytes, upright.

        Raises:
            ImageError: If the bytes are unreadable, or hold too many pixels.
        """
        return open_image(self.data, most=self.pixels)


def read(body: bytes | bytearray, json_length: str | None, *, known: Collection[str], most: int, pixels: int) -> Asked:
    """Read a request.

    Args:
        body: JSON, then binary tensors.
        json_length: Bytes of the JSON, from its header; None if the body is JSON alone.
        known: Outputs that the model has.
        most: Largest number of images.
        pixels: Largest number of pixels of an image; a file with more becomes an error when it is decoded.

    Raises:
        Refused: 400 if it does not follow the protocol, 413 if it holds too many images or pixels.
    """
    end = len(body)
    if json_length is not None:
        end = int(json_length) if json_length.isascii() and json_length.isdecimal() and len(json_length) < 20 else -1
        if not 0 <= end <= len(body):
            raise Refused(400, f"{LENGTH_HEADER} is {json_length[:40]!r}, the body has {len(body)} bytes")
    try:
        given = msgspec.json.decode(memoryview(body)[:end], type=_Inference)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the request is not as the protocol has it: {error}") from None
    sources = _sources(given.inputs, memoryview(body)[end:], most, pixels)
    binary = given.parameters.binary_data_output
    outputs: dict[str, bool] = {}
    for each in given.outputs:
        if each.parameters.classification is not msgspec.UNSET:
            raise Refused(400, "the classification extension is not served: ask for score, p_value or is_outlier")
        if each.name not in known:
            raise Refused(400, f"there is no output {each.name[:100]!r}: this model has {', '.join(known)}")
        wish = each.parameters.binary_data
        outputs[each.name] = binary if wish is None else wish
    return Asked(given.id, sources, outputs or dict.fromkeys(PLAIN, binary))


def answer(model: str, asked: Asked, columns: Mapping[str, Column]) -> tuple[bytes, int | None]:
    """Encode an answer.

    Args:
        model: The model's name.
        asked: The request.
        columns: Outputs by name, at least the wanted ones.

    Returns:
        The body, and the number of bytes of its JSON; None for the number if all of it is JSON.
    """
    described, behind = [], []
    for name, binary in asked.outputs.items():
        column = columns[name]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": tensors.datatype(column),
            "shape": tensors.shape_of(column),
        }
        if binary:
            behind.append(tensors.as_bytes(column))
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry["data"] = tensors.as_json(column)
        described.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": described}
    if asked.id:
        head["id"] = asked.id
    text = msgspec.json.encode(head)
    return (b"".join((text, *behind)), len(text)) if behind else (text, None)


def _sources(inputs: Sequence[_Input], behind: memoryview, most: int, pixels: int) -> list[Source]:
    if len(inputs) != 1 or inputs[0].name not in ("images", "encoded"):
        came = ", ".join(repr(each.name[:100]) for each in inputs[:5]) or "none"
        raise Refused(400, f"wanted one input, images (UINT8) or encoded (BYTES), got {came}")
    given = inputs[0]
    data = _data(given, behind)
    if given.name == "images":
        if given.datatype != "UINT8" or len(given.shape) != 4 or given.shape[3] not in (1, 3, 4):
            raise Refused(
                400, f"images must be UINT8 (n, h, w, c) with c 1, 3 or 4, got {given.datatype[:40]} {given.shape[:9]}"
            )
        tensors.require_shape("images", given.shape, most=most)
        height, width = given.shape[1:3]
        if height * width > pixels:
            raise Refused(413, f"images of {width}x{height} pixels exceed the limit of {pixels:,}")
        block = tensors.pixels("images", given.shape, data)
        return [ImageArray(image, f"images[{row}]") for row, image in enumerate(block)]
    if given.datatype != "BYTES" or len(given.shape) not in (1, 2) or given.shape[1:] not in ([], [1]):
        raise Refused(400, f"encoded must be BYTES (n), got {given.datatype[:40]} {given.shape[:9]}")
    tensors.require_shape("encoded", given.shape, most=most)
    return [
        _encoded(file, f"encoded[{row}]", pixels)
        for row, file in enumerate(tensors.files("encoded", given.shape[0], data))
    ]


def _data(given: _Input, behind: memoryview) -> memoryview | msgspec.Raw:
    """Return an input's data, from the JSON or from the bytes behind it."""
    size = given.parameters.binary_data_size
    if given.parameters.shared_memory_region is not msgspec.UNSET:
        raise Refused(400, "shared memory is not served: send the data in the body")
    if size is None and given.data is msgspec.UNSET:
        raise Refused(400, f"{given.name} brings no data: neither in the JSON nor, with binary_data_size, behind it")
    if size is not None and given.data is not msgspec.UNSET:
        raise Refused(400, f"{given.name} brings its data twice: in the JSON and with binary_data_size")
    if len(behind) != (size or 0):
        raise Refused(400, f"{given.name} announces {str(size or 0)[:40]} binary bytes, {len(behind)} follow the JSON")
    return behind if given.data is msgspec.UNSET else given.data


def _encoded(file: bytes, name: str, pixels: int) -> Source:
    if file.startswith(_POSTSCRIPT):  # Pillow would run Ghostscript on it
        return Unreadable(name, "PostScript is not taken")
    return SentImage(file, name, pixels=pixels)
