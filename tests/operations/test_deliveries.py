"""Rows handed on to programs and web servers, by a thread that nobody waits for."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_od.errors import ConfigError
from lit_od.operations import deliveries
from lit_od.operations.deliveries import Deliveries, Refused, command, poster


def numbered(count: int) -> list[dict[str, object]]:
    return [{"path": f"{number}.png", "score": number / 2} for number in range(count)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "PAUSES", (0.01,))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def server(statuses: Sequence[int], received: list[object]) -> Iterator[str]:
    """A web server that answers with each status in turn, and with 200 to all that follow."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = left.pop(0) if left else 200
            if status == 200:
                assert self.headers["Content-Type"] == "application/json"
                received.append(body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/rows"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def test_rows_are_posted_in_batches_and_again_where_the_server_fails(caplog: pytest.LogCaptureFixture) -> None:
    received: list[list[object]] = []
    with server([503, 500, 429], received) as url:
        way = Deliveries("--post", poster(url), at_once=40)
        way.put(numbered(100))
        way.close()
    assert [row for batch in received for row in batch] == numbered(100)
    assert max(map(len, received)) <= 40
    assert (way.sent, way.failed, way.dropped) == (100, 0, 0)
    assert caplog.messages == [
        "lit-od: --post: the server answers 503 Service Unavailable; rows wait, and are sent again"
    ]
    assert str(way) == "--post: 100 rows handed on"


@pytest.mark.parametrize("status", [400, 302])
def test_refused_rows_are_counted_and_the_next_are_sent(status: int, caplog: pytest.LogCaptureFixture) -> None:
    received: list[list[object]] = []
    with server([status], received) as url:
        way = Deliveries("--post", poster(url), at_once=1)
        way.put(numbered(3))
        way.close()
    assert received == [[row] for row in numbered(3)[1:]]
    assert (way.sent, way.failed) == (2, 1)
    assert f"the server answers {status}" in caplog.text
    assert str(way) == "--post: 2 rows handed on, 1 not taken"


def test_a_server_that_is_not_there_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    with server([], []) as url:
        pass
    way = Deliveries("--post", poster(url), at_once=10, most=50)
    for _ in range(100):
        way.put(numbered(2))
    way.close(0.1)
    assert way.sent == 0
    assert way.dropped >= 140
    assert way.failed + way.dropped == 200
    assert caplog.text.count("refused") == 1


def test_rows_that_wait_at_the_end_are_handed_on() -> None:
    taken: list[object] = []

    def slow(rows: Sequence[object]) -> None:
        time.sleep(0.02)
        taken.extend(rows)

    way = Deliveries("slow", slow, at_once=1)
    way.put(numbered(5))
    way.close()
    assert taken == numbered(5)


def test_rows_that_a_slow_program_still_has_at_the_end_are_counted_as_not_taken() -> None:
    ended = threading.Event()
    with Deliveries("slow", lambda rows: ended.wait(20) and None, at_once=1) as way:
        way.put(numbered(5))
        way.close(0.05)
    ended.set()
    assert str(way) == "slow: 0 rows handed on, 5 not taken"


@pytest.mark.parametrize(("error", "sent"), [(None, 3), (OSError(), 3), (KeyboardInterrupt(), 0)])
def test_a_block_that_fails_hands_its_rows_on_but_an_interrupt_waits_for_none(
    error: BaseException | None, sent: int
) -> None:
    begin = threading.Event()
    with (
        suppress(OSError, KeyboardInterrupt),
        Deliveries("way", lambda rows: begin.wait(20) and None, at_once=3) as way,
    ):
        way.put(numbered(3))
        if sent:
            begin.set()
        if error is not None:
            raise error
    assert way.sent == sent
    begin.set()


def test_an_answer_that_is_no_http_is_as_none(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        way = Deliveries("--post", poster(f"http://127.0.0.1:{listener.getsockname()[1]}/"), at_once=5)
        way.put(numbered(5))
        for answer in (b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
            connection, _ = listener.accept()
            with connection:
                while b"]" not in connection.recv(1 << 16):
                    pass
                connection.sendall(answer)
        way.close()
    assert way.sent == 5
    assert "the server's answer is no HTTP" in caplog.text


def test_a_command_reads_each_row_from_its_standard_input(tmp_path: Path) -> None:
    way = Deliveries("--exec", command(f"sh -c 'cat >> {tmp_path}/rows'"), at_once=1)
    way.put(numbered(3))
    way.close()
    assert [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()] == numbered(3)
    assert way.sent == 3


def test_a_command_that_fails_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    way = Deliveries("--exec", command("sh -c 'exit 3'"), at_once=1)
    way.put(numbered(3))
    way.close()
    assert (way.sent, way.failed) == (0, 3)
    assert caplog.messages == ["lit-od: --exec: exit status 3; such rows are counted"]


def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "LONGEST", 0.1)
    with pytest.raises(Refused, match=r"longer than 0\.1 s"):
        command("sleep 60")(numbered(1))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no groups of processes")
def test_what_a_command_has_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "LONGEST", 0.5)
    with pytest.raises(Refused, match="was ended"):
        command(f"sh -c 'sleep 60 & echo $! > {tmp_path}/child; wait'")(numbered(1))
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 10
    while time.monotonic() < end and _runs(child):
        time.sleep(0.02)
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Return True for a process that lives; one that has ended may still wait to be collected."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize("text", ["", "no-such-program-here x", "sh -c 'open"])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--exec"):
        command(text)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "rows",
        "ftp://h/x",
        "http://",
        "http://me:secret@h/x",
        "http://[::1",
        "http://h:99999/",
        "http://h:0",
        "http://h/a b",
        "http://h/é",
    ],
)
def test_what_is_no_url_to_post_to_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="--post") as caught:
        poster(url)
    assert "secret" not in str(caught.value)
