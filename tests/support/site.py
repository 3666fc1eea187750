"""A server in this process for the tests, and a plain client."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lit_od.images.sources import Source
from lit_od.serving.access import Token
from lit_od.serving.app import application
from lit_od.serving.limits import Limits
from lit_od.serving.log import Log
from lit_od.serving.metrics import Metrics
from lit_od.serving.models import Model
from lit_od.serving.normal_images import NormalImages
from lit_od.serving.server import Server, address, listen
from lit_od.serving.shelf import Shelf
from lit_od.serving.work_queue import WorkQueue
from tests.support.images import encoded


@dataclass(frozen=True)
class Site:
    """A server that runs.

    Attributes:
        url: Its address.
        queue: Its queue.
        shelf: Its models.
        metrics: Its metrics.
    """

    url: str
    queue: WorkQueue
    shelf: Shelf
    metrics: Metrics

    @property
    def place(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def ask(
        self, path: str, body: bytes | None = None, *, method: str = "", headers: Mapping[str, str] | None = None
    ) -> "Answer":
        """One request on a connection of its own."""
        with closing(http.client.HTTPConnection(*self.place, timeout=30)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            got = connection.getresponse()
            return Answer(got.status, {key.lower(): value for key, value in got.getheaders()}, got.read())

    def infer(self, given: Mapping[str, Any], *, model: str = "digits") -> "Answer":
        """Score what a JSON request holds."""
        return self.ask(
            f"/v2/models/{model}/infer", json.dumps(given).encode(), headers={"content-type": "application/json"}
        )

    def raw(self, data: bytes) -> bytes:
        """Send bytes and read until the server closes."""
        with socket.create_connection(self.place, timeout=30) as connection:
            connection.sendall(data)
            return read_all(connection)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        told = self.json
        assert list(told) == ["error"]
        message: str = told["error"]
        assert message
        assert "\n" not in message
        return message

    def output(self, name: str) -> list[Any]:
        """An output's data, from JSON."""
        assert self.status == 200, self.body
        data: list[Any] = next(each["data"] for each in self.json["outputs"] if each["name"] == name)
        return data


@contextmanager
def running(
    models: Sequence[Model],
    *,
    limits: Limits | None = None,
    normal: NormalImages | None = None,
    hosts: Sequence[str] = (),
    token: Token | None = None,
    log: Log | None = None,
) -> Iterator[Site]:
    """A server on a free port, stopped at the end of the block; without models it is still loading."""
    limits = limits or Limits(grace=1)
    shelf, metrics = Shelf(), Metrics(log)
    for model in models:
        metrics.serves(model)
    shelf.fill({model.name: model for model in models}, normal)
    queue = WorkQueue(workers=2, capacity=limits.queue, scored=metrics.scored)
    app = application(shelf, queue, limits=limits, metrics=metrics, log=log, hosts=hosts, token=token)
    listener = listen("127.0.0.1", 0)
    where, ready = address(listener), threading.Event()
    server = Server(app, limits=limits, ready=ready.set, refused=metrics.refused)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert ready.wait(10)
        yield Site(where, queue, shelf, metrics)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        queue.close()
        assert not thread.is_alive()


def png(source: Source) -> bytes:
    """A source as the bytes of a PNG file."""
    return encoded(source.decode())


def binary(files: Sequence[bytes], **request: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with image files in binary form."""
    data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    given = {
        "name": "encoded",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [given], **request}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    while data := connection.recv(1 << 16):
        found += data
    return found
