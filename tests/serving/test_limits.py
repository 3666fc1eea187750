"""Whoever asks too much, too slowly or wrongly has an answer of one line, and the others are served meanwhile."""

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress

import numpy as np
import pytest

from lit_od.serving.limits import Limits
from lit_od.serving.models import Answers, Model
from tests.serving.site import Answer, Site, binary, read_all, running

INFER = "/v2/models/digits/infer"
KIB = 1024
SLOW = 0.6
"""Seconds of patience."""


@pytest.fixture(scope="module")
def strict(model: Model) -> Iterator[Site]:
    """A server with narrow limits."""
    limits = Limits(body=256 * KIB, memory=2048 * KIB, images=64, patience=SLOW, drain=1, grace=1)
    with running([model], limits=limits) as site:
        yield site


@pytest.fixture
def others(strict: Site, pictures: list[bytes], expected: np.ndarray) -> Iterator[Callable[[], int]]:
    """Somebody who scores all the while, rightly; counts the answers so far."""
    stop, scores = threading.Event(), list[float]()
    body, headers = binary(pictures[:1])
    failures: list[Answer] = []

    def score() -> None:
        while not stop.is_set():
            answer = strict.ask(INFER, body, headers=headers)
            if answer.status == 200:
                scores.extend(answer.output("score"))
            else:
                failures.append(answer)

    thread = threading.Thread(target=score)
    thread.start()
    yield lambda: len(scores)
    before, deadline = len(scores), time.monotonic() + 10
    while len(scores) < before + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert len(scores) >= before + 3, "the others are not served any more"
    assert not failures
    np.testing.assert_allclose(scores, expected[0], rtol=1e-12)


def bomb() -> bytes:
    """A PNG of 400 million pixels in 50 KB."""
    side, packer = 20_000, zlib.compressobj(9)
    row = b"\0" * (1 + side // 8)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    framed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def request_of(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def status_of(answer: bytes) -> tuple[int, str]:
    """Status and message of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    message: str = json.loads(body)["error"]
    assert "\n" not in message
    return int(head.split()[1]), message


@pytest.mark.usefixtures("others")
class TestWhileOthersAreServed:
    def test_an_oversized_body(self, strict: Site) -> None:
        """The answer arrives although the client sends everything first."""
        answer = strict.ask(INFER, bytes(1500 * KIB), headers={"content-type": "application/octet-stream"})
        assert answer.status == 413
        assert "0.25 MiB" in answer.error
        assert answer.headers["connection"] == "close"

    def test_an_oversized_body_of_unknown_length(self, strict: Site) -> None:
        chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
        lines = "host: localhost\r\nconnection: close\r\ntransfer-encoding: chunked"
        head = f"POST {INFER} HTTP/1.1\r\n{lines}\r\n\r\n".encode()
        status, message = status_of(strict.raw(head + 20 * chunk + b"0\r\n\r\n"))
        assert (status, "0.25 MiB" in message) == (413, True)

    def test_a_client_that_asks_first_is_refused_before_it_sends(self, strict: Site) -> None:
        head = f"POST {INFER} HTTP/1.1\r\nhost: x.localhost\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n"
        answer = strict.raw(head.encode())
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert status_of(answer)[0] == 413

    def test_a_truncated_image(self, strict: Site, pictures: list[bytes]) -> None:
        body, headers = binary([pictures[0][: len(pictures[0]) // 2]])
        answer = strict.ask(INFER, body, headers=headers)
        assert answer.output("score") == [None]
        (error,) = answer.output("error")
        assert "damaged" in error

    def test_a_decompression_bomb(self, strict: Site) -> None:
        body, headers = binary([bomb()])
        begun = time.monotonic()
        answer = strict.ask(INFER, body, headers=headers)
        assert time.monotonic() - begun < 2
        (error,) = answer.output("error")
        assert "exceed the limit" in error

    @pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "image/png"])
    def test_a_wrong_content_type(self, strict: Site, kind: str) -> None:
        answer = strict.ask(INFER, b"{}", headers={"content-type": kind})
        assert answer.status == 415
        assert kind.partition(";")[0] in answer.error

    def test_a_compressed_body(self, strict: Site) -> None:
        answer = strict.ask(INFER, zlib.compress(bytes(10**6)), headers={"content-encoding": "deflate"})
        assert answer.status == 415
        assert "deflate" in answer.error

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"shape": [1, 28, 28]}, "n, h, w, c"),
            ({"shape": [1, 27, 28, 1]}, "wants 756"),
            ({"datatype": "FP32"}, "UINT8"),
        ],
    )
    def test_a_wrong_shape_or_type(self, strict: Site, changes: dict[str, object], message: str) -> None:
        given = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}
        answer = strict.infer({"inputs": [{**given, **changes}]})
        assert answer.status == 400
        assert message in answer.error

    def test_too_many_images(self, strict: Site) -> None:
        given = {"name": "images", "datatype": "UINT8", "shape": [65, 1, 1, 1], "data": [0] * 65}
        answer = strict.infer({"inputs": [given]})
        assert answer.status == 413
        assert "at most 64" in answer.error

    def test_a_model_that_does_not_exist(self, strict: Site) -> None:
        answer = strict.infer({"inputs": []}, model="letters")
        assert answer.status == 404
        assert "here are digits" in answer.error

    def test_a_client_that_is_slow_with_its_head(self, strict: Site) -> None:
        with socket.create_connection(strict.place, timeout=10) as connection:
            begun = time.monotonic()
            connection.sendall(b"GET /v2 HT")
            time.sleep(SLOW / 2)
            connection.sendall(b"TP/1.1\r\nhost: local")  # a drip does not buy time
            status, message = status_of(read_all(connection))
        assert (status, "head" in message) == (408, True)
        assert SLOW * 0.9 < time.monotonic() - begun < SLOW + 3

    def test_a_connection_on_which_nothing_is_said(self, strict: Site) -> None:
        with socket.create_connection(strict.place, timeout=10) as connection:
            assert read_all(connection) == b""

    def test_a_client_that_is_slow_with_a_later_head(self, strict: Site) -> None:
        with socket.create_connection(strict.place, timeout=10) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /v2")
            assert status_of(read_all(connection))[0] == 408

    def test_a_client_that_is_slow_with_its_body(self, strict: Site) -> None:
        with socket.create_connection(strict.place, timeout=10) as connection:
            begun = time.monotonic()
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n".encode())
            for _ in range(3):
                connection.sendall(b" ")
                time.sleep(SLOW / 4)
            status, message = status_of(read_all(connection))
        assert (status, "slowly: 3 bytes" in message) == (408, True)
        assert time.monotonic() - begun < SLOW + 4

    def test_what_is_no_http(self, strict: Site) -> None:
        assert status_of(strict.raw(b"\x16\x03\x01 hello\r\n\r\n"))[0] == 400
        assert status_of(strict.raw(b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000))[0] == 400

    def test_a_client_that_leaves_in_the_middle(self, strict: Site) -> None:
        with socket.create_connection(strict.place) as connection:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{".encode())


def test_a_body_that_comes_steadily_may_take_longer_than_patience(model: Model, pictures: list[bytes]) -> None:
    body, headers = binary(pictures[:1])
    limits = Limits(rate=len(body) // 2, patience=0.3, grace=1)
    with running([model], limits=limits) as site, closing(socket.create_connection(site.place, timeout=10)) as client:
        whole = request_of(body, headers)
        for start in range(0, len(whole), len(whole) // 6 + 1):
            client.sendall(whole[start : start + len(whole) // 6 + 1])
            time.sleep(0.12)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_full_server_says_when_to_come_back(model: Model, pictures: list[bytes]) -> None:
    with running([model], limits=Limits(queue=0, memory=4 * KIB, grace=1)) as site:
        body, headers = binary(pictures[:1])
        for each, message in ((body, "0 requests are waiting"), (body + bytes(8 * KIB), "the server is full")):
            answer = site.ask(INFER, each, headers=headers)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert message in answer.error


def test_memory_and_queue_are_given_back(model: Model, pictures: list[bytes]) -> None:
    """Many times what either holds, one after the other, answered or refused."""
    body, headers = binary(pictures[:1])
    with running([model], limits=Limits(queue=1, memory=len(body) + 10, grace=1)) as site:
        for _ in range(5):
            assert site.ask(INFER, body, headers=headers).status == 200
            assert site.ask(INFER, b"{", headers={"content-type": "application/json"}).status == 400
            assert site.ask(INFER, bytes(2 * len(body)), headers=headers).status == 503


class Halted(Model):
    """A model that waits until it may answer."""

    may = threading.Event()
    begun = threading.Semaphore(0)
    answered: "list[int]" = []  # noqa: RUF012 -- each test that uses it empties it

    def answer(self, sources: object, wanted: frozenset[str], *, alone: bool) -> Answers:
        type(self).begun.release()
        assert type(self).may.wait(20)
        type(self).answered.append(len(sources))  # type: ignore[arg-type]
        return super().answer(sources, wanted, alone=alone)  # type: ignore[arg-type]


def test_what_a_client_has_given_up_is_not_scored(model: Model, pictures: list[bytes]) -> None:
    halted = Halted(model.name, model.bundle, model.whole, model.single, model.maps, model.nearest)
    body, headers = binary(pictures[:3])
    request = request_of(body, headers)
    with running([halted]) as site:
        try:
            running_now = [socket.create_connection(site.place, timeout=20) for _ in range(2)]  # two workers
            for connection in running_now:
                connection.sendall(request)
                assert Halted.begun.acquire(timeout=10)
            for _ in range(3):
                with socket.create_connection(site.place) as connection:
                    connection.sendall(request)
                    time.sleep(0.1)
            deadline = time.monotonic() + 10
            while site.engine._requests > 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert site.engine._requests == 2
        finally:
            Halted.may.set()
        for connection in running_now:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            connection.close()
        assert site.ask(INFER, body, headers=headers).status == 200
    assert Halted.answered == [3, 3, 3]


def test_a_defect_is_an_answer_too(model: Model, pictures: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    class Defective(Model):
        def answer(self, sources: object, wanted: frozenset[str], *, alone: bool) -> Answers:
            raise ArithmeticError("two\nlines")

    defective = Defective(model.name, model.bundle, model.whole, model.single, model.maps, model.nearest)
    body, headers = binary(pictures[:1])
    with running([defective]) as site:
        answer = site.ask(INFER, body, headers=headers)
        assert answer.status == 500
        assert "server has failed" in answer.error
        assert site.ask("/v2/health/ready").status == 200
    assert capsys.readouterr().err == f"lit-od: POST {INFER}: unexpected ArithmeticError: two lines\n"


def test_a_client_that_does_not_read_its_answer_is_left(model: Model, pictures: list[bytes]) -> None:
    """Its answer, with the mark that it gave, is larger than what the system holds for it."""
    mark = "x" * 2**24
    body, headers = binary(pictures[:1], id=mark)
    with running([model], limits=Limits(patience=0.3, grace=1)) as site, closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(site.place)
        client.sendall(request_of(body, headers))
        assert client.recv(1) == b"H"
        time.sleep(1)
        received = 1
        with suppress(ConnectionResetError):
            while data := client.recv(2**20):
                received += len(data)
        assert received < len(mark) / 2
        assert len(site.ask(INFER, body, headers=headers).json["id"]) == len(mark)
