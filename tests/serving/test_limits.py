"""Whoever asks too much, too slowly or wrongly has an answer of one line, and the others are served meanwhile."""

import gc
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from lit_od.images.preparation import MAX_PIXELS
from lit_od.serving import connection
from lit_od.serving.limits import Limits
from lit_od.serving.map_answers import MAP
from lit_od.serving.models import Answers, Model
from tests.support.images import encoded
from tests.support.site import Answer, Site, binary, read_all, running

pytestmark = pytest.mark.usefixtures("in_turn")  # what takes too long here takes seconds: never two of them at once

INFER = "/v2/models/digits/infer"
KIB = 1024
SLOW = 1.0
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

    def test_a_client_that_is_slow_with_a_head_behind_another_request(self, strict: Site) -> None:
        with socket.create_connection(strict.place, timeout=10) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\nGET /v2")
            first, _, second = read_all(connection).partition(b"HTTP/1.1 408")
        assert first.startswith(b"HTTP/1.1 200")
        assert status_of(b"HTTP/1.1 408" + second)[0] == 408

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
    limits = Limits(rate=len(body) // 4, patience=1.5, grace=1)
    with running([model], limits=limits) as site, closing(socket.create_connection(site.place, timeout=10)) as client:
        whole = request_of(body, headers)
        for start in range(0, len(whole), len(whole) // 9 + 1):
            client.sendall(whole[start : start + len(whole) // 9 + 1])
            time.sleep(0.2)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_client_that_falls_silent_in_a_body_that_came_fast(model: Model) -> None:
    """What it has sent would give it 40 seconds in the long run."""
    limits = Limits(rate=1000, patience=0.4, drain=0.5, grace=1)
    with running([model], limits=limits) as site, closing(socket.create_connection(site.place, timeout=10)) as client:
        begun = time.monotonic()
        head = f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\n"
        client.sendall(head.encode() + bytes(40_000))
        status, message = status_of(read_all(client))
        assert (status, "slowly: 40000 bytes" in message) == (408, True)
        assert time.monotonic() - begun < 5


def test_a_body_that_comes_too_slowly_in_the_long_run(model: Model) -> None:
    """It is never silent for as long as it may be."""
    limits = Limits(rate=1000, patience=0.5, drain=0.5, grace=1)
    with running([model], limits=limits) as site, closing(socket.create_connection(site.place, timeout=10)) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n".encode())
        client.settimeout(0.1)
        received, deadline = b"", time.monotonic() + 8
        while not received and time.monotonic() < deadline:
            client.sendall(b"x" * 10)
            with suppress(TimeoutError):
                received = client.recv(65_536)
        client.settimeout(10)
        assert status_of(received + read_all(client))[0] == 408


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


M = TypeVar("M", bound=Model)


def of_kind(kind: type[M], model: Model) -> M:
    return kind(model.name, model.bundle, model.whole, model.single, model.maps, model.nearest)


class Talkative(Model):
    """A model with large answers."""

    size = 2**24

    def answer(self, sources: object, wanted: frozenset[str], *, alone: bool) -> Answers:
        answers = super().answer(sources, wanted, alone=alone)  # type: ignore[arg-type]
        return {**answers, "error": ["x" * self.size], MAP: [bytes(self.size)]}


def test_pictures_that_wait_for_the_rest_of_their_request_hold_memory(model: Model, pictures: list[bytes]) -> None:
    with running([of_kind(Talkative, model)], limits=Limits(memory=2**23, grace=1)) as site:
        for _ in range(2):
            body, headers = binary(pictures[:1], outputs=[{"name": name} for name in ("map", "error")])
            answer = site.ask(INFER, body, headers=headers)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.error == "the server is full: try again"
            body, headers = binary(pictures[:1], outputs=[{"name": name} for name in ("score", "error")])
            assert site.ask(INFER, body, headers=headers).status == 503  # the answer itself


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


def require_requests(site: Site, number: int) -> None:
    """Wait until a server's queue has so many requests."""
    deadline = time.monotonic() + 10
    while site.queue.requests != number and time.monotonic() < deadline:
        time.sleep(0.01)
    assert site.queue.requests == number


class Unended(Halted):
    """As Halted, for another test."""

    may = threading.Event()
    begun = threading.Semaphore(0)
    answered: "list[int]" = []  # noqa: RUF012 -- as above


def test_what_is_not_scored_when_the_server_ends_is_told_so(model: Model, pictures: list[bytes]) -> None:
    body, headers = binary(pictures[:1])
    with ThreadPoolExecutor(1) as clients, running([of_kind(Unended, model)], limits=Limits(grace=1)) as site:
        sent = clients.submit(site.ask, INFER, body, headers=headers)
        sent.add_done_callback(lambda answer: Unended.may.set())
        assert Unended.begun.acquire(timeout=10)
    answer = sent.result(0)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.error == "the server is being stopped: try again"


def test_what_a_client_has_given_up_is_not_scored(
    model: Model, pictures: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    halted = of_kind(Halted, model)
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
                    require_requests(site, 3)
                require_requests(site, 2)
        finally:
            Halted.may.set()
        for connection in running_now:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            connection.close()
        assert site.ask(INFER, body, headers=headers).status == 200
    assert Halted.answered == [3, 3, 3]
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_defect_is_an_answer_too(model: Model, pictures: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    class Defective(Model):
        def answer(self, sources: object, wanted: frozenset[str], *, alone: bool) -> Answers:
            raise ArithmeticError("two\nlines")

    defective = of_kind(Defective, model)
    body, headers = binary(pictures[:1])
    with running([defective]) as site:
        answer = site.ask(INFER, body, headers=headers)
        assert answer.status == 500
        assert "server has failed" in answer.error
        assert site.ask("/v2/health/ready").status == 200
    assert capsys.readouterr().err == f"lit-od: POST {INFER}: unexpected ArithmeticError: two lines\n"


class Stuck(Halted):
    """As Halted, for another test."""

    may = threading.Event()
    begun = threading.Semaphore(0)
    answered: "list[int]" = []  # noqa: RUF012 -- as above


def test_a_request_that_takes_too_long_is_answered_and_what_is_left_of_it_not_scored(
    model: Model, pictures: list[bytes]
) -> None:
    stuck = of_kind(Stuck, model)
    with running([stuck], limits=Limits(time=0.5, grace=1)) as site:
        try:
            with ThreadPoolExecutor(3) as clients:
                body, headers = binary(pictures[:40])
                sent = [clients.submit(site.ask, INFER, body, headers=headers)]
                for _ in range(2):  # workers; the third piece waits, and so do the other requests
                    assert Stuck.begun.acquire(timeout=10)
                body, headers = binary(pictures[:3])
                sent += [clients.submit(site.ask, INFER, body, headers=headers) for _ in range(2)]
                for each in sent:
                    answer = each.result(20)
                    assert answer.status == 504
                    assert answer.error == "not scored within 0.5 s: send fewer images, or start with --max-time"
            assert site.queue.requests == 0
        finally:
            Stuck.may.set()
        answer = site.ask(INFER, body, headers=headers)
        assert answer.status == 200
    assert Stuck.answered == [16, 16, 3]


def test_an_image_with_too_many_pixels_is_a_row_with_an_error(model: Model, pictures: list[bytes]) -> None:
    """Its header suffices to know."""
    large = encoded(Image.new("L", (50, 40)))
    with running([model], limits=Limits(pixels=1000, grace=1)) as site:
        body, headers = binary([pictures[0], large, large[:50]])
        answer = site.ask(INFER, body, headers=headers)
        assert answer.output("error") == ["", *["50x40 pixels exceed the limit of 1,000"] * 2]
        assert [score is None for score in answer.output("score")] == [False, True, True]
        given = {"name": "images", "datatype": "UINT8", "shape": [1, 40, 50, 1], "data": [0] * 2000}
        assert site.infer({"inputs": [given]}).status == 413


def test_the_usual_limit_of_pixels_is_below_what_can_be_decoded() -> None:
    assert 24_000_000 < Limits().pixels < MAX_PIXELS


class TestConnections:
    """One more than the two that this server takes."""

    @pytest.fixture
    def full(self, model: Model, request: pytest.FixtureRequest) -> Iterator[Site]:
        """Two connections are open; others are read for a second, or as long as is asked for."""
        limits = Limits(connections=2, patience=20, drain=getattr(request, "param", 1), grace=1)
        with running([model], limits=limits) as site, ExitStack() as two:
            self.two = [two.enter_context(socket.create_connection(site.place, timeout=20)) for _ in range(2)]
            for each in self.two:
                self.require_served(each)
            yield site

    def require_served(self, client: socket.socket) -> None:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):
            data = client.recv(4096)
            assert data, "closed"
            received += data
        assert received.startswith(b"HTTP/1.1 200")

    def test_is_told_so_although_it_sends_everything_first(self, full: Site) -> None:
        for _ in range(3):
            answer = full.ask(INFER, bytes(8 * 2**20), headers={"content-type": "application/octet-stream"})
            assert answer.status == 503
            assert answer.headers["content-type"] == "application/json"
            assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
            assert answer.error == "the server has 2 connections: try again"

    def test_does_not_disturb_the_others_and_is_let_in_later(self, full: Site) -> None:
        with ExitStack() as more:
            for _ in range(5):
                more.enter_context(socket.create_connection(full.place, timeout=20))
            self.require_served(self.two[0])
            self.two[0].close()
            deadline = time.monotonic() + 10
            while (answer := full.ask("/v2/health/live")).status == 503 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert answer.status == 200  # though the five are not gone

    def test_is_closed_though_it_says_nothing(self, full: Site) -> None:
        begun = time.monotonic()
        assert status_of(full.raw(b""))[0] == 503
        assert time.monotonic() - begun < 5

    def test_is_closed_though_it_stays(self, full: Site) -> None:
        with socket.create_connection(full.place, timeout=20) as client:
            client.sendall(b"GET / HTTP/1.1\r\n")
            assert status_of(read_all(client))[0] == 503
            deadline = time.monotonic() + 5
            with pytest.raises(ConnectionError):  # noqa: PT012 -- the first bytes after the end go through
                while time.monotonic() < deadline:
                    client.sendall(b"x")
                    time.sleep(0.05)

    @pytest.mark.parametrize("full", [20], indirect=True)
    def test_is_not_waited_for_where_too_many_are(self, full: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "MOST_SURPLUS", 0)
        begun = time.monotonic()
        assert status_of(full.raw(b""))[0] == 503
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(("step", "whole"), [(2**18, True), (2**14, False)], ids=["steadily", "too slowly"])
def test_a_client_that_reads_its_answer(model: Model, pictures: list[bytes], step: int, whole: bool) -> None:
    """At some 6 MB a second it may take longer than patience, where 2 are wanted, and at 0.8 it may not."""
    body, headers = binary(pictures[:1])
    limits = Limits(patience=0.8, rate=2**21, grace=1)
    with running([of_kind(Talkative, model)], limits=limits) as site, closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**17)
        client.settimeout(20)
        client.connect(site.place)
        client.sendall(request_of(body, {**headers, "connection": "close"}))
        received, begun = 0, time.monotonic()
        with suppress(ConnectionResetError):
            while data := client.recv(step):
                received += len(data)
                if whole or time.monotonic() < begun + 3 * limits.patience:  # then it takes what the system holds
                    time.sleep(0.02)
        assert (received > Talkative.size) == whole
        assert time.monotonic() - begun > limits.patience * (2 if whole else 1)


def test_a_client_that_does_not_read_its_answer_is_left(model: Model, pictures: list[bytes]) -> None:
    """Its answer is larger than what the system holds for it."""
    body, headers = binary(pictures[:1])
    limits = Limits(patience=0.3, grace=1)
    with running([of_kind(Talkative, model)], limits=limits) as site, closing(socket.socket()) as client:
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
        assert received < Talkative.size / 2
        assert site.ask(INFER, body, headers=headers).output("error") == ["x" * Talkative.size]
