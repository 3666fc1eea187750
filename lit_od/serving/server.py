"""The server: listens, reports readiness, and stops on a signal."""

import socket
from collections.abc import Callable
from contextlib import closing
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from lit_od.errors import ConfigError
from lit_od.serving.connection import Connection
from lit_od.serving.limits import Limits

BACKLOG = 1024
"""Connections that the system accepts ahead of the server."""


KEEP_ALIVE = 30
"""Seconds for which a connection may rest between requests."""


class Server(uvicorn.Server):
    """A server that stops gracefully.

    A first signal lets requests finish, a second one does not wait for them.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, ready: Callable[[], None]) -> None:
        """Configure uvicorn.

        Args:
            app: The application.
            limits: Limits of connections and of time.
            ready: Called once the server can be reached.
        """
        limited = type("Limited", (Connection,), {"limits": limits})
        super().__init__(
            uvicorn.Config(
                app,
                http=limited,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                limit_concurrency=None,
                timeout_graceful_shutdown=max(1, round(limits.grace)),
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `ready`."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on a signal.

        Uvicorn's own handler raises the signal again at the end, and the process would seem killed.
        """
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Raises:
        ConfigError: If the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen at {host}:{port}: {cause}. Name another --host or --port") from None


def address(listener: socket.socket) -> str:
    """Return the address of a listening socket, for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: ASGIApp, listener: socket.socket, *, limits: Limits, ready: Callable[[], None]) -> None:
    """Serve an application until a signal stops it.

    Args:
        app: The application.
        listener: A listening socket, which is closed at the end.
        limits: Limits of connections and of time.
        ready: Called once the server can be reached.
    """
    with closing(listener):
        Server(app, limits=limits, ready=ready).run([listener])
