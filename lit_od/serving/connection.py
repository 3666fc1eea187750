"""Connections with limits of time, which uvicorn lacks for a request's head."""

import asyncio
import json
import socket
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from lit_od.serving.limits import RETRY_AFTER, Limits

MOST_SURPLUS = 128
"""Number of surplus connections that may wait at a time to be refused."""

UNSENT = 128 * 1024
"""Bytes that the system buffers beyond those it can send at once. Without this limit it takes megabytes at a time, then
none for so long that a client which reads steadily seems not to read.
"""


class Connection(H11Protocol):
    """HTTP/1.1 with limits of connections, and of the time of heads and of answers.

    Attributes:
        limits: The limits.
    """

    limits: ClassVar[Limits] = Limits()
    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _left = 0
    _slack = 0.0

    @staticmethod
    def refused(status: int) -> None:
        """Take note of an answer the application does not see; the server replaces it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start to wait for the first head, or refuse a surplus connection."""
        super().connection_made(transport)
        self._slack = self.limits.patience
        if len(self.connections) > self.limits.connections:
            self.connections.discard(self)
            transport.set_protocol(SurplusConnection(transport, self.limits))
            self.refused(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that has begun must be complete in time."""
        super().data_received(data)
        if not self._between_requests():
            _cancel(self._head)
            self._head = None
        else:
            self._await_head()

    def on_response_complete(self) -> None:
        """Start the next request; if its head has begun already, it must end in time."""
        super().on_response_complete()
        self._slack = self.limits.patience
        begun, _ = self.conn.trailing_data
        if begun and self._between_requests():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        _cancel(self._head)
        _cancel(self._unread)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start to wait for a client that reads too slowly."""
        super().pause_writing()
        self._left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self._slack, self._answer_is_unread)

    def resume_writing(self) -> None:
        """Stop waiting: the client has read nearly all that the connection holds.

        An answer comes in pieces; the time that is left goes on with the next one.
        """
        if self._unread is not None and not self._between_requests():
            read = self._left - self.transport.get_write_buffer_size()
            self._slack = min(self._unread.when() - self.loop.time() + read / self.limits.rate, self.limits.patience)
        _cancel(self._unread)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to bytes that are no HTTP request."""
        self._answer(HTTPStatus.BAD_REQUEST, "this is no HTTP request, or its head is longer than 64 KB")

    def _await_head(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.limits.patience, self._head_is_late)

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _head_is_late(self) -> None:
        begun, _ = self.conn.trailing_data
        if not begun:  # a browser's spare connection, say
            self.transport.close()
        elif not self.transport.is_closing():
            message = f"the head of the request did not come within {self.limits.patience:g} s"
            self._answer(HTTPStatus.REQUEST_TIMEOUT, message)

    def _answer_is_unread(self) -> None:
        """Close the connection unless the client has read since the last call.

        As for a body, bytes that are read buy time, at most the patience at once.
        """
        left = self.transport.get_write_buffer_size()
        read, self._left = self._left - left, left
        if read <= 0:
            self.transport.abort()
        else:
            more = min(read / self.limits.rate, self.limits.patience)
            self._unread = self.loop.call_later(more, self._answer_is_unread)

    def _answer(self, status: HTTPStatus, message: str) -> None:
        self.refused(status)
        self.transport.write(_refusal(status, message))
        self.transport.close()


class SurplusConnection(asyncio.Protocol):
    """A surplus connection, answered 503 once it sends a request.

    An answer before the request confuses clients; and if the connection were closed while the client still
    sends, it would be reset and the answer lost. So it is read for a moment, unless too many are.
    """

    _all: ClassVar[set["SurplusConnection"]] = set()

    def __init__(self, transport: asyncio.Transport, limits: Limits) -> None:
        self._transport = transport
        message = f"the server has {limits.connections} connections: try again"
        self._answer = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, f"retry-after: {RETRY_AFTER}\r\n")
        self._all.add(self)
        self._end = asyncio.get_running_loop().call_later(
            limits.drain if len(self._all) <= MOST_SURPLUS else 0, self._leave
        )

    def data_received(self, data: bytes) -> None:
        """Answer 503 to any bytes."""
        if self._answer:
            self._transport.write(self._answer)
            self._transport.write_eof()
            self._answer = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._all.discard(self)
        self._end.cancel()

    def _leave(self) -> None:
        if self._answer:
            self._transport.write(self._answer)
        self._transport.close()


def _refusal(status: HTTPStatus, message: str, headers: str = "") -> bytes:
    """Format an answer like the application's."""
    body = json.dumps({"error": message}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n{headers}"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
