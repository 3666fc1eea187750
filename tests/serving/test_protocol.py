"""A request to images and outputs, verdicts to an answer."""

import base64
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from lit_od.images.sources import EncodedImage, ImageArray, Unreadable
from lit_od.serving import protocol, tensors
from lit_od.serving.limits import Refused
from lit_od.serving.sent_images import DecodingRoom

KNOWN = (*protocol.PLAIN, "map")
PIXELS = np.arange(2 * 3 * 4 * 1, dtype=np.uint8).reshape(2, 3, 4, 1)


def images(**changes: Any) -> dict[str, Any]:
    given = {"name": "images", "datatype": "UINT8", "shape": [2, 3, 4, 1], "data": PIXELS.reshape(-1).tolist()}
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


def encoded(**changes: Any) -> dict[str, Any]:
    given = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(b"abc").decode()]}
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


def read(given: Any, behind: bytes = b"", *, announce: bool = False) -> protocol.ScoreRequest:
    head = given if isinstance(given, bytes) else json.dumps(given).encode()
    length = str(len(head)) if behind or announce else None
    return protocol.read(head + behind, length, known=KNOWN, most=8, pixels=10_000, decoding=DecodingRoom(10**6))


@pytest.mark.parametrize("data", [PIXELS.tolist(), PIXELS.reshape(-1).tolist()])
def test_pixels_may_be_flat_or_nested(data: list[Any]) -> None:
    asked = read({"inputs": [images(data=data)], "id": "7"})
    assert asked.id == "7"
    assert asked.outputs == {"score": False, "p_value": False, "is_outlier": False, "error": False}
    for source, row in zip(asked.sources, PIXELS, strict=True):
        assert isinstance(source, ImageArray)
        np.testing.assert_array_equal(source.pixels, row)


def test_json_may_hold_white_space_anywhere() -> None:
    given = json.dumps({"inputs": [images(data=PIXELS.tolist())]}, indent=4, separators=(" ,\t", "\r\n: ")).encode()
    (first, _) = read(given).sources
    assert isinstance(first, ImageArray)
    np.testing.assert_array_equal(first.pixels, PIXELS[0])


def test_an_id_is_bounded() -> None:
    """The answer repeats it."""
    assert read({"inputs": [images()], "id": "x" * 256}).id == "x" * 256
    with pytest.raises(Refused, match="the id may have 256 characters, got 257: send a shorter one"):
        read({"inputs": [images()], "id": "x" * 257})


def test_pixels_in_binary_form() -> None:
    asked = read({"inputs": [images(data=None, parameters={"binary_data_size": 24})]}, PIXELS.tobytes())
    (first, second) = asked.sources
    assert isinstance(first, ImageArray)
    assert isinstance(second, ImageArray)
    np.testing.assert_array_equal(np.stack([first.pixels, second.pixels]), PIXELS)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_files_in_binary_form(shape: list[int]) -> None:
    data = b"\x03\0\0\0abc" + b"\0\0\0\0"
    asked = read({"inputs": [encoded(data=None, shape=shape, parameters={"binary_data_size": len(data)})]}, data)
    assert [each.data for each in asked.sources if isinstance(each, EncodedImage)] == [b"abc", b""]


def test_files_in_json_are_base64() -> None:
    (source,) = read({"inputs": [encoded()]}).sources
    assert isinstance(source, EncodedImage)
    assert source.data == b"abc"


def test_postscript_is_not_handed_to_a_program() -> None:
    (source,) = read({"inputs": [encoded(data=[base64.b64encode(b"%!PS-Adobe").decode()])]}).sources
    assert isinstance(source, Unreadable)


def test_outputs_in_the_form_that_is_asked_for() -> None:
    wanted = [{"name": "map", "parameters": {"binary_data": True}}, {"name": "score"}]
    assert read({"inputs": [images()], "outputs": wanted}).outputs == {"map": True, "score": False}
    both = read({"inputs": [images()], "outputs": wanted, "parameters": {"binary_data_output": True}})
    assert both.outputs == {"map": True, "score": True}
    assert set(read({"inputs": [images()], "parameters": {"binary_data_output": True}}).outputs.values()) == {True}


WRONG = [
    (b"not json", "not as the protocol"),
    (b"[" * 100_000, "not as the protocol"),
    (b'\xff{"inputs": []}', "not as the protocol"),
    ({}, "inputs"),
    ({"inputs": []}, "wanted one input"),
    ({"inputs": [images(), encoded()]}, "wanted one input"),
    ({"inputs": [images(name="pixels")]}, "'pixels'"),
    ({"inputs": [images(datatype="FP32")]}, "must be UINT8"),
    ({"inputs": [images(shape=[2, 12])]}, "must be UINT8"),
    ({"inputs": [images(shape=[2, 3, 2, 2])]}, "c 1, 3 or 4"),
    ({"inputs": [images(shape=[2, 3, 5, 1])]}, "wants 30"),
    ({"inputs": [images(shape=[0, 3, 4, 1])]}, "at least 1"),
    ({"inputs": [images(shape=[-2, -3, 4, 1])]}, "at least 1"),
    ({"inputs": [images(data=[1.5] * 24)]}, "whole numbers"),
    ({"inputs": [images(data=[256] * 24)]}, "whole numbers"),
    ({"inputs": [images(data=[-1] * 24)]}, "whole numbers"),
    ({"inputs": [images(data=[2**70] * 24)]}, "whole numbers"),
    ({"inputs": [images(data=["a"] * 24)]}, "whole numbers"),
    ({"inputs": [images(data=[True] * 24)]}, "whole numbers"),
    ({"inputs": [images(data=[])]}, "whole numbers"),
    ({"inputs": [images(data=[[1, 2], [3]])]}, "has 3 values"),
    ({"inputs": [images(data=[[0] * 13, [0] * 11])]}, "list of numbers"),
    ({"inputs": [images(data=PIXELS.reshape(6, 4).tolist())]}, "list of numbers"),
    ({"inputs": [images(data=PIXELS.swapaxes(1, 2).tolist())]}, "list of numbers"),
    ({"inputs": [images(data=[*PIXELS.tolist()[:1], PIXELS[1].swapaxes(0, 1).tolist()])]}, "list of numbers"),
    ({"inputs": [images(data=[[[[0], []]]], shape=[1, 1, 2, 1])]}, "whole numbers"),
    ({"inputs": [images(data=5, shape=[1, 1, 1, 1])]}, "list of numbers"),
    ({"inputs": [images(data={"a": 1})]}, "whole numbers"),
    ({"inputs": [images(data=None)]}, "brings no data"),
    ({"inputs": [images(parameters={"binary_data_size": 24})]}, "twice"),
    ({"inputs": [images(data=None, parameters={"binary_data_size": 24})]}, "announces 24"),
    ({"inputs": [images(data=None, parameters={"binary_data_size": "24"})]}, "not as the protocol"),
    ({"inputs": [images(data=None, parameters={"binary_data_size": -24})]}, "announces -24"),
    ({"inputs": [images(data=None, parameters={"shared_memory_region": "x"})]}, "shared memory"),
    ({"inputs": [encoded(datatype="UINT8")]}, "must be BYTES"),
    ({"inputs": [encoded(shape=[1, 2])]}, "must be BYTES"),
    ({"inputs": [encoded(shape=[2])]}, "has 1 elements"),
    ({"inputs": [encoded(data=["YWJj", "YWJj"])]}, "more elements than the 1"),
    ({"inputs": [encoded(data=[])]}, "has 0 elements"),
    ({"inputs": [encoded(data=["***"])]}, "base64"),
    ({"inputs": [encoded(data=["é"])]}, "base64"),
    ({"inputs": [encoded(data=[1])]}, "base64"),
    ({"inputs": [images()], "outputs": [{"name": "logits"}]}, "no output 'logits'"),
    ({"inputs": [images()], "outputs": [{"name": "score", "parameters": {"classification": 1}}]}, "classification"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_is_wrong_is_said(given: Any, message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        read(given)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "data", [b"", b"\x03\0\0\0ab", b"\x03\0\0", b"\x03\0\0\0abcd", b"\xff\xff\xff\xffabc", b"\0\0\0\0\0\0\0\0"]
)
def test_a_bytes_tensor_whose_lengths_lie(data: bytes) -> None:
    with pytest.raises(Refused, match="encoded"):
        read({"inputs": [encoded(data=None, parameters={"binary_data_size": len(data)})]}, data, announce=True)


@pytest.mark.parametrize("length", ["-1", "999", "1e2", "", "x", "٣", "9" * 30])
def test_a_length_of_the_json_that_lies(length: str) -> None:
    with pytest.raises(Refused, match="Inference-Header-Content-Length"):
        protocol.read(b'{"inputs": []}', length, known=KNOWN, most=8, pixels=10_000, decoding=DecodingRoom(10**6))


def test_too_many_images() -> None:
    with pytest.raises(Refused, match="at most 8") as refusal:
        read({"inputs": [images(shape=[9, 1, 1, 1], data=[0] * 9)]})
    assert refusal.value.status == 413


def test_too_many_pixels() -> None:
    with pytest.raises(Refused, match="101x100 pixels exceed the limit of 10,000") as refusal:
        read({"inputs": [images(shape=[1, 100, 101, 1], data=[0] * 10_100)]})
    assert refusal.value.status == 413
    assert read({"inputs": [images(shape=[1, 100, 100, 1], data=[0] * 10_000)]}).sources


MANY = 20_000
LARGE = {
    "strings": {"inputs": [images(data=["x" * 1000] + [""] * MANY)]},
    "empty lists": {"inputs": [images(data=[[]] * MANY)]},
    "as many empty lists as values": {"inputs": [images(data=[[[[0]] * MANY]] + [[]] * 24)]},
    "lists of one": {"inputs": [images(data=[[[[0]]]] * MANY)]},
    "a list for each value": {"inputs": [images(data=[[[[0]]] * 10_000], shape=[1, 10_000, 1, 1])]},
    "a list too few": {"inputs": [images(data=[[0] * 10_000], shape=[1, 10_000, 1, 1])]},
    "a large shape": {"inputs": [images(data=[0] * MANY, shape=[8, 1000, 1, 4])]},
    "texts": {"inputs": [encoded(data=["ab"] * MANY)]},
    "parameters": {"inputs": [images()], "parameters": {"a": [[]] * MANY}},
    "parameters of the input": {"inputs": [images(parameters={"a": [{}] * MANY})]},
    "outputs": {"inputs": [images()], "outputs": [{"name": "score"}] * MANY},
    "names of outputs": {"inputs": [images()], "outputs": [{"name": f"{row:x}"} for row in range(MANY)]},
}


@pytest.mark.parametrize("given", LARGE.values(), ids=LARGE)
def test_a_request_takes_little_more_memory_than_its_text(given: Any) -> None:
    body = json.dumps(given, separators=(",", ":")).encode()
    tracemalloc.start()
    try:
        with suppress(Refused):
            read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 7 * len(body) + 10_000


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_many_objects_are_refused_before_they_are_made(name: str) -> None:
    given = {"inputs": [images()], name: [{"name": "score"}] * 1001}
    with pytest.raises(Refused, match="more than 1000 objects"):
        read(given)


def test_an_answer_comes_back_as_it_went() -> None:
    asked = protocol.ScoreRequest(
        "mark", [], {"score": True, "error": True, "p_value": False, "is_outlier": True, "map": False}
    )
    columns: dict[str, tensors.Column] = {
        "score": np.array([0.1, np.nan]),
        "p_value": np.array([1 / 3, np.nan]),
        "is_outlier": np.array([True, False]),
        "error": ["", "größer"],
        "map": [b"\x89PNG", b""],
    }
    body, length = protocol.answer("m", asked, columns)
    assert length is not None
    head = json.loads(body[:length])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "1", "mark")
    score, error, p_value, is_outlier, drawn = head["outputs"]
    assert (score["datatype"], score["shape"], score["parameters"]) == ("FP64", [2], {"binary_data_size": 16})
    assert (is_outlier["datatype"], error["datatype"]) == ("BOOL", "BYTES")
    assert p_value["data"] == [1 / 3, None]
    assert drawn["data"] == [base64.b64encode(b"\x89PNG").decode(), ""]
    behind = body[length:]
    np.testing.assert_array_equal(np.frombuffer(behind[:16], "<f8"), columns["score"])
    size = error["parameters"]["binary_data_size"]
    assert tensors.files("error", 2, memoryview(behind[16 : 16 + size])) == [b"", "größer".encode()]
    assert behind[16 + size :] == b"\x01\x00"


def test_a_shape_of_millions_of_numbers_is_refused_undecoded() -> None:
    body = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [' + b"1," * 10**6 + b'1], "data": [1]}]}'
    with pytest.raises(Refused, match="the shape of images is 2,000,003 characters long: wanted a few numbers"):
        read(body)
