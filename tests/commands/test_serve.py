"""`lit-od serve`: says where it is, stops when told to, refuses in one line."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lit_od.bundle.folder import Bundle
from lit_od.commands._status import REFUSED

pytestmark = pytest.mark.starlette  # in a process of its own

Command = Callable[..., Any]


@contextmanager
def served(*words: object) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """The command in a process of its own, its line and its address."""
    words = ("-m", "lit_od.cli", "serve", *words, "--port", "0", "--threads", "1")
    process = subprocess.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+/", line)
        assert found, line
        yield process, line, found[0]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_ends_in_peace(made_bundle: Bundle, sign: signal.Signals) -> None:
    with served(made_bundle.path, f"other={made_bundle.path}") as (process, line, url):
        assert re.fullmatch(r"lit-od: serving digits, other at http://127\.0\.0\.1:\d+/ \(Ctrl-C stops\)\n", line)
        with urllib.request.urlopen(f"{url}v2/models/other") as answer:
            assert json.load(answer)["name"] == "other"
        process.send_signal(sign)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")


def test_a_request_under_way_is_finished_first(made_bundle: Bundle) -> None:
    given = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}
    body = json.dumps({"inputs": [given]}).encode()
    with served(made_bundle.path) as (process, _, url):
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=20) as client:
            lines = f"host: localhost\r\nexpect: 100-continue\r\ncontent-length: {len(body)}"
            client.sendall(f"POST /v2/models/digits/infer HTTP/1.1\r\n{lines}\r\n\r\n".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 100 ")  # it reads the body by now
            process.send_signal(signal.SIGTERM)
            client.sendall(body[:100])
            time.sleep(0.5)
            client.sendall(body[100:])
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert process.wait(20) == 0


def test_a_port_that_is_taken(command: Command, made_bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = command("serve", made_bundle.path, "--port", port)
    assert told.status == REFUSED
    assert f"cannot listen at 127.0.0.1:{port}" in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "must be a port"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["--queue", "0"], "at least 1"),
        (["--data.root", "x"], "unknown option"),
        (["--normal", "/nowhere"], "does not exist"),
    ],
)
def test_what_is_wrong_is_said(command: Command, made_bundle: Bundle, words: list[str], message: str) -> None:
    told = command("serve", made_bundle.path, *(["--port", "0"] if "--port" not in words else []), *words)
    assert told.status == REFUSED
    assert message in told.err
    assert told.err.count("\n") == 1


def test_names(command: Command, made_bundle: Bundle, tmp_path: Path) -> None:
    twice = command("serve", made_bundle.path, made_bundle.path)
    assert twice.status == REFUSED
    assert "both named digits" in twice.err
    assert "give it one, as NAME=" in command("serve", f"a/b={made_bundle.path}").err
    equals = Path(shutil.copytree(made_bundle.path, tmp_path / "a=b"))
    with served(equals) as (_, line, _):
        assert "serving a=b at" in line


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client", "python_multipart"])
def test_without_the_extra(
    command: Command, made_bundle: Bundle, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [
        each for each in sys.modules if each.partition(".")[0] == package or each.startswith("lit_od.serving")
    ]:
        monkeypatch.delitem(sys.modules, name)
    import lit_od

    monkeypatch.delattr(lit_od, "serving", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    told = command("serve", made_bundle.path)
    assert told.status == REFUSED
    assert told.err.startswith("lit-od: this needs a web server (Starlette, uvicorn, prometheus-client, python-mul")
    assert told.err.endswith('Run: pip install "lit-od[serve,cpu]"\n')


LOADING = """
import sys, threading
from lit_od.cli import main
from lit_od.serving.models import Model

Model.load = lambda *given, **options: threading.Event().wait()  # as a graph that never ends
sys.exit(main(["serve", *sys.argv[1:], "--port", "0", "--log", "json"]))
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_while_it_loads_it_lives_is_not_ready_and_ends_at_once(made_bundle: Bundle, sign: signal.Signals) -> None:
    words = [sys.executable, "-c", LOADING, str(made_bundle.path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = json.loads(process.stderr.readline())
            assert told["event"] == "loading"
            place = urlsplit(told["address"])
            found = {}
            paths = ("/health/live", "/health/ready", "/v2/health/ready", "/v2/models/digits", "/models", "/docs")
            with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)) as connection:
                for path in paths:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    answer.read()
                    found[path] = answer.status
            assert found == {
                "/health/live": 200, "/health/ready": 503, "/v2/health/ready": 503, "/v2/models/digits": 503,
                "/models": 503, "/docs": 200,
            }  # fmt: skip
            process.send_signal(sign)
            assert process.wait(10) == 128 + sign
        finally:
            process.kill()
