"""Hand rows on to a program or a web server; scoring never waits for it."""

import http.client
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

from lit_od.errors import ConfigError, first_line, without_credentials
from lit_od.formats.text import one_line
from lit_od.versions import __version__

MOST_WAITING = 10_000
"""Rows that wait to be handed on; others are dropped and counted."""

ROWS_A_REQUEST = 100
"""Most rows of one request."""

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each further attempt; the last one for all that follow."""

PATIENCE = 10.0
"""Seconds that a server has for an answer, and the rows that wait at the end to be handed on."""

LONGEST = 60.0
"""Seconds after which a command is ended."""

TRY_AGAIN = (408, 425, 429)
"""Statuses below 500 after which the same request may succeed."""

_LOG = logging.getLogger(__name__)
"""Logger that Python prints to standard error where nothing else is set up."""

RowObject: TypeAlias = Mapping[str, object]
"""A row, its values by column."""

Send: TypeAlias = Callable[[Sequence[RowObject]], None]
"""Function that hands rows on; raises Refused, or an OSError where another attempt may succeed."""


class Refused(Exception):
    """Rows that were not taken, and would not be at another attempt."""


class Deliveries:
    """Rows that a thread hands on, in their order.

    Attributes:
        sent: Number of rows handed on.
        failed: Number of rows that were refused, or still waited at the end.
        dropped: Number of rows for which there was no room.
    """

    def __init__(self, name: str, send: Send, *, at_once: int, most: int = MOST_WAITING) -> None:
        """Start the thread.

        Args:
            name: Name of the way, for messages.
            send: Function that hands rows on.
            at_once: Most rows of one call.
            most: Most rows that wait.
        """
        self.name = name
        self.sent = self.failed = self.dropped = 0
        self._taken = 0
        self._send, self._at_once, self._most = send, at_once, most
        self._waiting: deque[RowObject] = deque()
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._said = False
        self._thread = threading.Thread(target=self._run, name="lit_od-deliveries", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close(PATIENCE if error is None or isinstance(error, Exception) else 0)  # an interrupt waits for nothing

    def put(self, rows: Sequence[RowObject]) -> None:
        """Have rows handed on, as far as there is room for them."""
        with self._changed:
            room = max(self._most - len(self._waiting), 0)
            self._waiting.extend(rows[:room])
            self._taken += len(rows[:room])
            self.dropped += len(rows[room:])
            self._changed.notify_all()

    def close(self, patience: float = PATIENCE) -> None:
        """Wait until all rows are handed on, but no longer than `patience` seconds."""
        with self._changed:
            self._deadline = time.monotonic() + patience
            self._changed.notify_all()
        self._thread.join(patience + 0.5)
        with self._changed:
            self._waiting.clear()
            self.failed = self._taken - self.sent  # those too that a slow program or server still has

    def __str__(self) -> str:
        more = [f"{self.failed:,} not taken"] if self.failed else []
        more += [f"{self.dropped:,} dropped, because they came faster than they were taken"] if self.dropped else []
        return ", ".join([f"{self.name}: {self.sent:,} rows handed on", *more])

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._deadline is not None)
                rows = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
            if not rows:
                return
            taken = self._deliver(rows)
            with self._changed:
                self.sent += len(rows) if taken else 0
                self.failed += 0 if taken else len(rows)

    def _deliver(self, rows: Sequence[RowObject]) -> bool:
        """Hand rows on, at as many attempts as it takes; return True if they were taken."""
        attempt = 0
        while True:
            try:
                self._send(rows)
            except Refused as error:
                self._say(f"{error}; such rows are counted")
                return False
            except OSError as error:
                self._say(f"{_cause(error)}; rows wait, and are sent again")
            else:
                self._said = False
                return True
            if not self._pause(PAUSES[min(attempt, len(PAUSES) - 1)]):
                return False
            attempt += 1

    def _pause(self, seconds: float) -> bool:
        """Wait, but not beyond the end; return True if there is time for another attempt."""
        until = time.monotonic() + seconds
        with self._changed:
            while (now := time.monotonic()) < until:
                if self._deadline is not None and now >= self._deadline:
                    return False
                ends = until if self._deadline is None else min(until, self._deadline)
                self._changed.wait(ends - now)
        return True

    def _say(self, words: str) -> None:
        """Log a failure, the first of several."""
        if not self._said:
            _LOG.warning("lit-od: %s: %s", self.name, one_line(words))
        self._said = True


def command(text: str) -> Send:
    """Return a function that gives a row to a command, as JSON on standard input.

    What the command prints goes to standard error: standard output may hold rows.

    Raises:
        ConfigError: If there is no such program.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--exec {text}: {first_line(error).lower()}") from None
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"--exec {text}: there is no such program; for a shell's commands write sh -c '...'")

    def send(rows: Sequence[RowObject]) -> None:
        for row in rows:
            line = json.dumps(row) + "\n"
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=sys.__stderr__ or subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C ends the watch, not the command
                )
            except OSError as error:
                raise Refused(_cause(error)) from None
            with process:
                try:
                    process.communicate(line.encode(), timeout=LONGEST)
                except subprocess.TimeoutExpired:
                    _end(process)
                    raise Refused(f"it took longer than {LONGEST:g} s and was ended") from None
            if process.returncode:
                raise Refused(f"exit status {process.returncode}")

    return send


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command that leads a session, with the programs that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A refusal of redirects, which would turn a POST into a GET without rows."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect."""


def poster(url: str) -> Send:
    """Return a function that posts rows to a URL, as a JSON array of objects.

    Raises:
        ConfigError: If it is no URL of a web server.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--post {one_line(url)} is no URL: {first_line(error)}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"--post {without_credentials(url)} is no URL that rows can be posted to: wanted http://...")
    if not re.fullmatch(r"[!-~]+", url):
        raise ConfigError(f"--post {without_credentials(url)}: a URL is ASCII without spaces: write others as %20")
    if parts.username is not None:
        raise ConfigError(f"--post {without_credentials(url)}: a user's name in a URL is not sent; leave it out")
    opener = urllib.request.build_opener(_NoRedirect)
    headers = {"Content-Type": "application/json", "User-Agent": f"lit-od/{__version__}"}

    def send(rows: Sequence[RowObject]) -> None:
        request = urllib.request.Request(url, json.dumps(list(rows)).encode(), headers, method="POST")
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500 and error.code not in TRY_AGAIN:
                    raise Refused(f"the server answers {error.code} {error.reason}") from None
                raise OSError(f"the server answers {error.code} {error.reason}") from None
        except http.client.HTTPException as error:
            raise OSError(f"the server's answer is no HTTP: {first_line(error) or type(error).__name__}") from None

    return send


def _cause(error: OSError) -> str:
    """Describe in a few words why something was not sent."""
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or first_line(error)
