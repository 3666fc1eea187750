"""The gate: refuses foreign pages and hosts, sets the headers of all answers.

A page of another site that is open in the user's browser can send requests to this machine. It is kept
out twice: its Origin differs from the Host that it asks (a page cannot omit or forge either), and a domain
that it lets point to this machine (DNS rebinding) is no name of this server. An answer reaches a client
that still sends its body.
"""

import asyncio
import ipaddress
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_od.serving.limits import RETRY_AFTER, ClientGone, Refused

FAILURE = Refused(500, "the server has failed on this request; its log says how")
"""Answer to a request that raised an unexpected error."""

STOPPED = Refused(503, "the server is being stopped: try again", retry_after=RETRY_AFTER)
"""Answer to a request that is not scored when the grace period ends."""


@dataclass(frozen=True, slots=True)
class Gate:
    """An ASGI application in front of another.

    Attributes:
        app: The application behind the gate.
        hosts: Names of this server, besides localhost and IP addresses.
        drain: Seconds for which an unwanted body is still read.
    """

    app: ASGIApp
    hosts: Collection[str]
    drain: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        exchange = _Exchange(scope, receive, send, self.drain)
        try:
            require_allowed(exchange.headers, self.hosts)
            await self.app(scope, exchange.receive, exchange.send)
        except Refused as refusal:
            await refused(refusal)(scope, exchange.receive, exchange.send)
        except ClientGone:
            pass
        except asyncio.CancelledError:  # the server is being stopped, and has waited for long enough
            if not exchange.answered:
                await refused(STOPPED)(scope, exchange.receive, exchange.send)
        except Exception as error:  # a defect: log one line, and keep serving
            line = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"lit-od: {scope['method']} {scope['path']}: unexpected {line}", file=sys.stderr)  # noqa: T201
            if not exchange.answered:
                await refused(FAILURE)(scope, exchange.receive, exchange.send)


def require_allowed(headers: Headers, hosts: Collection[str]) -> None:
    """Raise Refused for a foreign host name, or a page of another site."""
    host = headers.get("host", "")
    name = _name(host)
    if not (name in ("", "localhost") or name.endswith(".localhost") or name in hosts or _is_address(name)):
        raise Refused(403, f"{name[:100]!r} is no name of this server: start it with --allow-host {name[:100]}")
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host.lower():
        raise Refused(403, f"requests from pages of {origin[:100]} are not taken")


def refused(refusal: Refused) -> JSONResponse:
    """Make the answer of a refusal."""
    headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
    return JSONResponse({"error": " ".join(refusal.message.split())}, refusal.status, headers)


class _Exchange:
    """Messages of one request; it notes if the body is read and an answer begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, drain: float) -> None:
        self.headers = Headers(scope=scope)
        self.answered = False
        self._receive, self._send, self._drain = receive, send, drain
        self._unread = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            headers = MutableHeaders(scope=message)
            headers["x-content-type-options"] = "nosniff"
            headers["cross-origin-resource-policy"] = "same-origin"
            headers.setdefault("cache-control", "no-store")
            if self._unread:
                headers["connection"] = "close"
        elif self._unread and not message.get("more_body", False):
            # Closing now would reset the connection, and a client that still sends would lose the answer.
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(self._drain):
                    while self._unread:
                        await self.receive()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


def _name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
