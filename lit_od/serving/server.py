"""The server: listens, reports readiness, and stops on a signal."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from lit_od.errors import ConfigError
from lit_od.serving.connection import Connection
from lit_od.serving.limits import Limits
from lit_od.serving.log import Log

BACKLOG = 1024
"""Connections that the system accepts ahead of the server."""


ACCEPTED = 16
"""Connections that are accepted at once, and attempts of it when the system has no room for one."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of the system when it has no room for a further connection."""

SILENCE = 60.0
"""Seconds between two lines about that."""

KEEP_ALIVE = 30
"""Seconds for which a connection may rest between requests."""

LAST_ANSWERS = 1.0
"""Seconds for the answers to requests that the end of the grace period finds unscored."""


class Server(uvicorn.Server):
    """A server that stops gracefully.

    A first signal lets requests finish, a second one does not wait for them. A thread that a decoder or a graph still
    holds after the grace period cannot be ended; the process is, which the log says.

    A signal while `load` still runs ends the process at once: there is nothing to finish, and a graph that is being
    loaded may never come to its end.

    Attributes:
        failure: Error that `load` has raised; the server stops then.
    """

    failure: BaseException | None = None
    _watchdog: threading.Timer | None = None
    _last_line = -SILENCE
    _loading = True

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        ready: Callable[[], None],
        load: Callable[[], None] | None = None,
        log: Log | None = None,
        refused: Callable[[int], None] | None = None,
    ) -> None:
        """Configure uvicorn.

        Args:
            app: The application.
            limits: Limits of connections and of time.
            ready: Called on a thread once the server can be reached and all is loaded.
            load: Called on that thread before. None loads nothing.
            log: The log. None writes text.
            refused: Told the status of each answer to a connection without a request. None tells nobody.
        """
        limited = type(
            "Limited", (Connection,), {"limits": limits, "refused": staticmethod(refused or Connection.refused)}
        )
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
                backlog=ACCEPTED,
                timeout_keep_alive=KEEP_ALIVE,
                limit_concurrency=None,
                timeout_graceful_shutdown=max(1, round(limits.grace)),
            )
        )
        self._limits = limits
        self._load, self._ready, self._log = load, ready, log or Log()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and begin to load."""
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has set it to the number that it accepts at once
        threading.Thread(target=self._loaded, name="lit_od-load", daemon=True).start()

    def _loaded(self) -> None:
        """Load, then call `ready`; stop the server if that fails."""
        try:
            if self._load is not None:
                self._load()
            self._loading = False
            self._ready()
        except BaseException as error:
            self.failure = error
            self._loading = False
            self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on a signal.

        Uvicorn's own handler raises the signal again at the end, and the process would seem killed.
        """
        if self._loading:
            os._exit(128 + sig)
        self._log.note("stopping", "stopping", {"signal": sig})
        self.force_exit = self.should_exit
        self.should_exit = True
        self._end_within(0 if self.force_exit else self._limits.grace + self._limits.drain)

    def ended(self) -> None:
        """Note that all threads have ended, so that the process ends by itself."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _end_within(self, seconds: float) -> None:
        self.ended()
        self._watchdog = threading.Timer(seconds + LAST_ANSWERS, self._end)
        self._watchdog.daemon = True
        self._watchdog.start()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report errors that reach nobody; exhausted resources in one line at times."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in EXHAUSTED):
            loop.default_exception_handler(context)
        elif loop.time() >= self._last_line + SILENCE:
            self._last_line = loop.time()
            line = f"no further connection can be taken: {error.strerror}. Raise the limit (ulimit -n)"
            self._log.say("exhausted", line, level="error")

    def _end(self) -> None:
        line = "stopped, though a decoder or a graph had not come to its end"
        self._log.say("stopped", line, level="warning")
        os._exit(0)


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


def serve(server: Server, listener: socket.socket, *, close: Callable[[], None]) -> None:
    """Serve until a signal stops it.

    Args:
        server: The server.
        listener: A listening socket, which is closed at the end.
        close: Called once it cannot be reached any more, to wait for the threads that score.

    Raises:
        BaseException: What loading has raised.
    """
    with closing(listener):
        try:
            server.run([listener])
        finally:
            close()
            server.ended()
    if server.failure is not None:
        raise server.failure
