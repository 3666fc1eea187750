"""Intake of bodies, and delivery of answers, within limits of time and memory."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lit_od.serving.limits import MIB, RETRY_AFTER, ClientGone, Limits, Refused

TYPES = ("application/json", "application/octet-stream")
"""Content types of a request; without one, the protocol's headers decide."""

_PIECE = 64 * 1024
"""Bytes of an answer that are handed to the connection at once; it takes more only when nearly all are read."""


def require_type(request: Request) -> None:
    """Raise Refused unless the content type and encoding are the protocol's."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in TYPES:
        raise Refused(415, f"content type {kind[:100]} is not taken: send {' or '.join(TYPES)}")
    require_plain(request)


def require_plain(request: Request) -> None:
    """Raise Refused if the body is compressed."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise Refused(415, f"content encoding {coding[:100]} is not taken: send the body as it is")


@dataclass(slots=True)
class Room:
    """Memory that a request holds.

    Attributes:
        intake: The intake that counts it.
        held: Bytes of it.
    """

    intake: "Intake"
    held: int = 0

    def take(self, size: int) -> None:
        """Count more bytes. Raises Refused 503 if memory is full."""
        if self.intake.held + size > self.intake.limits.memory:
            raise Refused(503, "the server is full: try again", retry_after=RETRY_AFTER)
        self.held += size
        self.intake.held += size


@dataclass(slots=True)
class Intake:
    """Reader of bodies, and counter of the memory that requests hold.

    Attributes:
        limits: Limits of size, time and memory.
        held: Bytes of all bodies, pictures and answers that are being read, scored or sent.
    """

    limits: Limits
    held: int = field(default=0, init=False)

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Yield room in memory, which is given back when the block ends."""
        room = Room(self)
        try:
            yield room
        finally:
            self.held -= room.held

    async def body(self, request: Request, room: Room) -> bytearray:
        """Read a body into a request's room.

        Raises:
            Refused: 413 if it is too large, 408 if it comes too slowly, 503 if memory is full.
            ClientGone: If the client leaves.
        """
        limits = self.limits
        if int(request.headers.get("content-length", "0")) > limits.body:
            raise _too_large(limits)
        body = bytearray()
        now = asyncio.get_running_loop().time
        begun = now()
        deadline = begun + limits.patience
        more = True
        while more:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await request.receive()
            except TimeoutError:
                took = now() - begun
                raise Refused(408, f"the body came too slowly: {len(body)} bytes in {took:.0f} s") from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            size = len(message["body"])
            if len(body) + size > limits.body:
                raise _too_large(limits)
            room.take(size)
            body += message["body"]
            # Bytes buy time, yet who has sent many at once may not be silent for long: the body holds memory.
            deadline = min(deadline + size / limits.rate, now() + limits.patience)
            more = message["more_body"]
        return body


class CountedAnswer(Response):
    """An answer that holds room in memory until its client has read nearly all of it.

    Args:
        content: The body.
        intake: The intake that counts it.
        media_type: Its content type.
        headers: Further headers.
    """

    def __init__(
        self, content: bytes, intake: Intake, *, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it piece by piece. Raises Refused 503 if memory is full."""
        with self._intake.room() as room:
            room.take(len(self.body))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), _PIECE):
                piece = bytes(self.body[start : start + _PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"a request may have {limits.body / MIB:g} MiB: send fewer images, or start with --max-body")
