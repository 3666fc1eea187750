"""The Open Inference Protocol, version 2, over HTTP: requests and answers.

A request brings one input: `images`, UINT8 (n, h, w, c), or `encoded`, BYTES (n), image files. Its data
are in the JSON, or follow it in binary form (the binary tensor data extension). It may name the outputs
that it wants; else it gets those of `PLAIN`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lit_od.images.sources import Source
from lit_od.serving import tensors
from lit_od.serving.limits import Refused
from lit_od.serving.sent_images import DecodingRoom, SentArray, sent_file
from lit_od.serving.tensors import Column

VERSION = "1"
"""Version of every model."""

EXTENSIONS = ["binary_tensor_data"]

PLAIN = ("score", "p_value", "is_outlier", "error")
"""Outputs of a request that names none."""

BINARY = ("raw",)
"""Outputs in binary form alone: as JSON they would take many times the memory."""

LENGTH_HEADER = "Inference-Header-Content-Length"
"""Header with the number of bytes of the JSON before binary tensors."""

MOST_ID = 256
"""Characters that a request's id may have: the answer repeats it."""

MOST_OBJECTS = 1000
"""Opening braces in a request's JSON: one input, a few outputs and their parameters, each larger than its text."""

MOST_SHAPE = 1000
"""Characters of a shape's text: decoded, a list of numbers is several times as large."""


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
    shape: msgspec.Raw
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
class ScoreRequest:
    """A request to score images.

    Attributes:
        id: Its identifier, which the answer repeats.
        sources: The images.
        outputs: The wanted outputs by name; True for binary form.
    """

    id: str
    sources: Sequence[Source]
    outputs: Mapping[str, bool]


def read(
    body: bytes | bytearray,
    json_length: str | None,
    *,
    known: Collection[str],
    most: int,
    pixels: int,
    decoding: DecodingRoom,
) -> ScoreRequest:
    """Read a request.

    Args:
        body: JSON, then binary tensors.
        json_length: Bytes of the JSON, from its header; None if the body is JSON alone.
        known: Outputs that the model has.
        most: Largest number of images.
        pixels: Largest number of pixels of an image; a file with more becomes an error when it is decoded.
        decoding: Room that each image takes while it is decoded.

    Raises:
        Refused: 400 if it does not follow the protocol, 413 if it holds too many images or pixels.
    """
    end = len(body)
    if json_length is not None:
        end = int(json_length) if json_length.isascii() and json_length.isdecimal() and len(json_length) < 20 else -1
        if not 0 <= end <= len(body):
            raise Refused(400, f"{LENGTH_HEADER} is {json_length[:40]!r}, the body has {len(body)} bytes")
    if body.count(b"{", 0, end) > MOST_OBJECTS:
        raise Refused(400, f"the request holds more than {MOST_OBJECTS} objects: name each output once")
    try:
        parsed = msgspec.json.decode(memoryview(body)[:end], type=_Inference)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the request is not as the protocol has it: {error}") from None
    if len(parsed.id) > MOST_ID:
        raise Refused(400, f"the id may have {MOST_ID} characters, got {len(parsed.id)}: send a shorter one")
    sources = _sources(parsed.inputs, memoryview(body)[end:], most, pixels, decoding)
    binary = parsed.parameters.binary_data_output
    outputs: dict[str, bool] = {}
    for each in parsed.outputs:
        if each.parameters.classification is not msgspec.UNSET:
            raise Refused(400, "the classification extension is not served: ask for score, p_value or is_outlier")
        if each.name not in known:
            raise Refused(400, f"there is no output {each.name[:100]!r}: this model has {', '.join(known)}")
        own = each.parameters.binary_data
        outputs[each.name] = binary if own is None else own
        if each.name in BINARY and not outputs[each.name]:
            raise Refused(
                400, f'{each.name} is given in binary form alone: ask with "parameters": {{"binary_data": true}}'
            )
    return ScoreRequest(parsed.id, sources, outputs or dict.fromkeys(PLAIN, binary))


def answer(model: str, request: ScoreRequest, columns: Mapping[str, Column]) -> tuple[bytes, int | None]:
    """Encode an answer.

    Args:
        model: The model's name.
        request: The request.
        columns: Outputs by name, at least the wanted ones.

    Returns:
        The body, and the number of bytes of its JSON; None for the number if all of it is JSON.
    """
    described, binaries = [], []
    for name, binary in request.outputs.items():
        column = columns[name]
        entry: dict[str, Any] = {
            "name": name,
            "datatype": tensors.datatype(column),
            "shape": tensors.shape_of(column),
        }
        if binary:
            binaries.append(tensors.as_bytes(column))
            entry["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            entry["data"] = tensors.as_json(column)
        described.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": described}
    if request.id:
        head["id"] = request.id
    text = msgspec.json.encode(head)
    return (b"".join((text, *binaries)), len(text)) if binaries else (text, None)


def _sources(
    inputs: Sequence[_Input], binary: memoryview, most: int, pixels: int, decoding: DecodingRoom
) -> list[Source]:
    if len(inputs) != 1 or inputs[0].name not in ("images", "encoded"):
        found = ", ".join(repr(each.name[:100]) for each in inputs[:5]) or "none"
        raise Refused(400, f"wanted one input, images (UINT8) or encoded (BYTES), got {found}")
    tensor = inputs[0]
    data, shape = _data(tensor, binary), _shape(tensor)
    if tensor.name == "images":
        if tensor.datatype != "UINT8" or len(shape) != 4 or shape[3] not in (1, 3, 4):
            raise Refused(
                400, f"images must be UINT8 (n, h, w, c) with c 1, 3 or 4, got {tensor.datatype[:40]} {shape[:9]}"
            )
        tensors.require_shape("images", shape, most=most)
        height, width = shape[1:3]
        if height * width > pixels:
            raise Refused(413, f"images of {width}x{height} pixels exceed the limit of {pixels:,}")
        block = tensors.pixels("images", shape, data)
        return [SentArray(image, f"images[{row}]", decoding=decoding) for row, image in enumerate(block)]
    if tensor.datatype != "BYTES" or len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise Refused(400, f"encoded must be BYTES (n), got {tensor.datatype[:40]} {shape[:9]}")
    tensors.require_shape("encoded", shape, most=most)
    return [
        sent_file(file, f"encoded[{row}]", pixels=pixels, decoding=decoding)
        for row, file in enumerate(tensors.files("encoded", shape[0], data))
    ]


def _shape(tensor: _Input) -> list[int]:
    """Decode an input's shape, after looking at the length of its text."""
    text = memoryview(tensor.shape)
    if len(text) > MOST_SHAPE:
        raise Refused(400, f"the shape of {tensor.name} is {len(text):,} characters long: wanted a few numbers")
    try:
        return msgspec.json.decode(text, type=list[int])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the request is not as the protocol has it: {error} - at `$.inputs[0].shape`") from None


def _data(tensor: _Input, binary: memoryview) -> memoryview | msgspec.Raw:
    """Return an input's data, from the JSON or from the binary part."""
    size = tensor.parameters.binary_data_size
    if tensor.parameters.shared_memory_region is not msgspec.UNSET:
        raise Refused(400, "shared memory is not served: send the data in the body")
    if size is None and tensor.data is msgspec.UNSET:
        raise Refused(400, f"{tensor.name} brings no data: neither in the JSON nor, with binary_data_size, behind it")
    if size is not None and tensor.data is not msgspec.UNSET:
        raise Refused(400, f"{tensor.name} brings its data twice: in the JSON and with binary_data_size")
    if len(binary) != (size or 0):
        raise Refused(400, f"{tensor.name} announces {str(size or 0)[:40]} binary bytes, {len(binary)} follow the JSON")
    return binary if tensor.data is msgspec.UNSET else tensor.data
