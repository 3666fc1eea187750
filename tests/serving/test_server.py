"""A server that ends in bounded time, and is short of words when it runs out of descriptors."""

import asyncio
import errno
import subprocess
import sys

import pytest

from lit_od.serving.limits import Limits
from lit_od.serving.server import Server

HELD = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from lit_od.serving.limits import Limits
from lit_od.serving.server import Server, listen, serve

pool, never = ThreadPoolExecutor(1), threading.Event()

def ready():
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.{sign})

pool.submit(never.wait)
limits = Limits(grace=0, drain=0)
serve(Server(None, limits=limits, ready=ready), listen("127.0.0.1", 0), close=lambda: pool.shutdown(wait=True))
"""


@pytest.mark.parametrize(("sign", "times"), [("SIGTERM", 1), ("SIGINT", 1), ("SIGINT", 2)])
def test_a_thread_that_never_ends_does_not_hold_the_process(sign: str, times: int) -> None:
    words = [sys.executable, "-c", HELD.format(sign=sign), str(times)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    line = "lit-od: stopped, though a decoder or a graph had not come to its end\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", line)


def test_missing_descriptors_are_one_line(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.new_event_loop()
    now = 1000.0
    monkeypatch.setattr(loop, "time", lambda: now)
    try:
        server = Server(None, limits=Limits(), ready=lambda: None)  # type: ignore[arg-type]
        context = {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Too many")}
        for _ in range(5):
            server._failed(loop, context)
        line = "lit-od: no further connection can be taken: Too many. Raise the limit (ulimit -n)\n"
        assert capsys.readouterr().err == line
        now += 61
        server._failed(loop, context)
        assert capsys.readouterr().err == line
        assert caplog.text == ""
        server._failed(loop, {"message": "a defect", "exception": OSError(errno.EIO, "Input/output error")})
        assert "a defect" in caplog.text
    finally:
        loop.close()
