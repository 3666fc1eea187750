"""A connection whose client may not dawdle: uvicorn's own has no limit on the time that a request's head takes."""

import asyncio
import json
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """HTTP/1.1 with limits of time on a request's head and on a client that does not read its answer.

    Attributes:
        patience: Seconds for either.
    """

    patience: ClassVar[float] = 15.0
    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._head = self.loop.call_later(self.patience, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that has begun must end in time, whatever drips in."""
        super().data_received(data)
        between_requests = self.cycle is None or self.cycle.response_complete
        if not between_requests:
            _cancel(self._head)
            self._head = None
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.patience, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        _cancel(self._head)
        _cancel(self._unread)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: give it some time."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        _cancel(self._unread)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._answer(HTTPStatus.BAD_REQUEST, "this is no HTTP request, or its head is longer than 64 KB")

    def _head_is_late(self) -> None:
        begun, _ = self.conn.trailing_data
        if not begun:  # a browser's spare connection, say
            self.transport.close()
        elif not self.transport.is_closing():
            message = f"the head of the request did not come within {self.patience:g} s"
            self._answer(HTTPStatus.REQUEST_TIMEOUT, message)

    def _answer(self, status: HTTPStatus, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
