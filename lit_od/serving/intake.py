"""Intake of request bodies, within limits of size, time and memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from lit_od.serving.limits import MIB, RETRY_AFTER, ClientGone, Limits, Refused

TYPES = ("application/json", "application/octet-stream")
"""Content types of a request; without one, the protocol's headers decide."""


def require_type(request: Request) -> None:
    """Raise Refused unless the content type and encoding are the protocol's."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in TYPES:
        raise Refused(415, f"content type {kind[:100]} is not taken: send {' or '.join(TYPES)}")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise Refused(415, f"content encoding {coding[:100]} is not taken: send the body as it is")


@dataclass(slots=True)
class Intake:
    """Reader of bodies.

    Attributes:
        limits: Limits of size, time and memory.
        held: Bytes of all bodies that are being read or scored.
    """

    limits: Limits
    held: int = field(default=0, init=False)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytearray]:
        """Read a body, which holds its room in memory until the block ends.

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
        try:
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
                if self.held + size > limits.memory:
                    raise Refused(503, "the server is full: try again", retry_after=RETRY_AFTER)
                body += message["body"]
                self.held += size
                # Bytes buy time, yet who has sent many at once may not be silent for long: the body holds memory.
                deadline = min(deadline + size / limits.rate, now() + limits.patience)
                more = message["more_body"]
            yield body
        finally:
            self.held -= len(body)


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"a request may have {limits.body / MIB:g} MiB: send fewer images, or start with --max-body")
