"""The gate: refuses foreign pages and hosts, sets the headers of all answers.

A page of another site that is open in the user's browser can send requests to this machine. It is kept
out twice: its Origin differs from the Host that it asks (a page cannot omit or forge either), and a domain
that it lets point to this machine (DNS rebinding) is no name of this server. An answer reaches a client
that still sends its body.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_od.serving.access import Token
from lit_od.serving.limits import RETRY_AFTER, ClientGone, Refused
from lit_od.serving.log import Log
from lit_od.serving.metrics import Metrics

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
        token: Token that requests must carry; None wants none.
        operation: Metrics and log of the requests.
    """

    app: ASGIApp
    hosts: Collection[str]
    drain: float
    token: Token | None
    operation: "Operation"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        begun = time.perf_counter()
        exchange = _Exchange(scope, receive, send, self.drain)
        try:
            await self._answer(scope, exchange)
        finally:
            self.operation.answered(scope, exchange.status, time.perf_counter() - begun)

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        try:
            require_allowed(exchange.headers, self.hosts)
            if self.token is not None:
                self.token.require(scope["path"], exchange.headers)
            await self.app(scope, exchange.receive, exchange.send)
        except Refused as refusal:
            await refused(refusal)(scope, exchange.receive, exchange.send)
        except ClientGone:
            pass
        except asyncio.CancelledError:  # the server is being stopped, and has waited for long enough
            if exchange.status is None:
                await refused(STOPPED)(scope, exchange.receive, exchange.send)
        except Exception as error:  # a defect: log one line, and keep serving
            self.operation.failed(scope, error)
            if exchange.status is None:
                await refused(FAILURE)(scope, exchange.receive, exchange.send)


@dataclass(frozen=True, slots=True)
class Operation:
    """Metrics and log of requests.

    Attributes:
        metrics: The metrics.
        log: The log.
        route: Function that returns the address of a request, with names in place of what varies.
    """

    metrics: Metrics
    log: Log
    route: Callable[[Scope], str]

    def answered(self, scope: Scope, status: int | None, seconds: float) -> None:
        """Note a request and its answer.

        Args:
            scope: The request.
            status: Status of the answer; None if the client left before it.
            seconds: Time from the request's head to the answer's end.
        """
        self.metrics.answered(self.route(scope), status, seconds)
        method, path = scope["method"][:20], scope["path"][:200]
        fields = {"method": method, "path": path, "status": status, "seconds": round(seconds, 6)}
        self.log.note("request", f"{method} {path} {status}", fields)

    def failed(self, scope: Scope, error: Exception) -> None:
        """Log a defect in one line."""
        line = " ".join(f"{type(error).__name__}: {error}".split())
        fields = {"method": scope["method"], "path": scope["path"]}
        message = f"{scope['method']} {scope['path']}: unexpected {line}"
        self.log.say("failure", message, fields, level="error")


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
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": " ".join(refusal.message.split())}, refusal.status, headers)


class _Exchange:
    """Messages of one request; it notes if the body is read, and the answer's status."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, drain: float) -> None:
        self.headers = Headers(scope=scope)
        self.status: int | None = None
        self._receive, self._send, self._drain = receive, send, drain
        self._unread = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
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
