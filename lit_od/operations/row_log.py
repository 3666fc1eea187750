"""Append rows to a file, each image once, whatever kills the process.

Beside the rows lies a state file, a line of JSON a batch: where its rows begin, and the end of each row with the key
and the version of its image. The line is on disk before the rows are. A process that is killed between the two, or half
way through the rows, leaves a line that says more than the rows hold: the next process cuts the rows after the last
whole one, and scores the images of the others again. Rows that are taken out of the file stay done.
"""

import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Protocol, TextIO

from lit_od.errors import ConfigError
from lit_od.formats.atomic import flush_folder
from lit_od.images.folder_walk import Version
from lit_od.scoring.rows import output, row_writer

_FCNTL = import_module("fcntl") if os.name == "posix" else None  # without it nothing is locked

STATE = ".state"
"""Ending of the state file, after the name of the file of rows."""

FLUSH = 1.0
"""Seconds between two flushes of frames' rows to disk."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row with what it is remembered by.

    Attributes:
        values: Values of its columns.
        key: Key of its image; empty for one that never comes again.
        version: Version of its image.
        kind: Kind of its verdict.
    """

    values: tuple[object, ...]
    key: str = ""
    version: Version = (0, 0)
    kind: str = ""


class Rows(Protocol):
    """Rows that are written, and remembered.

    Attributes:
        count: Number of rows written by this process.
        latest: Rows of the last batch that an earlier process wrote, without values, unless it ended in order.
    """

    count: int
    latest: list[Row]

    def known(self, key: str, version: Version) -> bool:
        """Return True for an image that has its row."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of a batch."""


class PrintedRows:
    """Rows on standard output, remembered while the process lives."""

    def __init__(self, out: TextIO, form: str, columns: Sequence[str], *, frames: bool = False) -> None:
        """Write the head of the table.

        Args:
            out: Text file for the rows.
            form: "csv" or "jsonl".
            columns: Names of the columns.
            frames: The rows are of frames, none of which comes twice.
        """
        self._frames = frames
        self._out, self._put = out, row_writer(out, form, columns)
        self._done: set[int] = set()
        self.latest: list[Row] = []
        self.count = 0
        out.flush()

    def known(self, key: str, version: Version) -> bool:
        """Return True for an image that has its row."""
        return _mark(key, version) in self._done

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of a batch."""
        for row in rows:
            self._put(row.values)
            if row.key and not self._frames:
                self._done.add(_mark(row.key, row.version))
        self._out.flush()
        self.count += len(rows)


class RowLog:
    """Rows in a file that grows, flushed to disk batch by batch.

    Attributes:
        count: Number of rows written by this process.
        latest: Rows of the last batch that an earlier process wrote, without values, unless it ended in order.
    """

    def __init__(self, file: Path, form: str, columns: Sequence[str], *, frames: bool = False) -> None:
        """Open the file, put it in order, and go on behind its last row.

        Args:
            file: The file, which may not exist yet.
            form: "csv" or "jsonl".
            columns: Names of the columns.
            frames: The rows are of frames: none comes twice to one process, and a loss of power may cost those of the
                last second, since flushing each batch would take longer than scoring it.

        Raises:
            ConfigError: If the file holds other rows, or another process writes to it.
        """
        self._buffer = io.StringIO(newline="")
        self._put = row_writer(self._buffer, form, columns)
        head = self._text()
        self._done: set[int] = set()
        self._frames, self._flushed = frames, 0.0
        self.latest: list[Row] = []
        self.count = 0
        state = file.with_name(file.name + STATE)
        _require_rows(file, state, head, columns)
        self._state, self._rows = _opened(state), _opened(file)
        try:
            _lock(self._state, file)
            self._size = os.fstat(self._rows).st_size
            self._recall(state)
            self._complete(head)
            flush_folder(file.absolute().parent)
        except BaseException:
            os.close(self._state)
            os.close(self._rows)
            raise

    def known(self, key: str, version: Version) -> bool:
        """Return True for an image that has its row."""
        return _mark(key, version) in self._done

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows of a batch; they are on disk when this returns."""
        data, batch = b"", []
        for row in rows:
            self._put(row.values)
            data += self._text()
            batch.append((self._size + len(data), row))
        if not (self._done or any(row.key for row in rows)):
            os.ftruncate(self._state, 0)  # of a stream nothing is remembered but the batch that is being written
        due = not self._frames or time.monotonic() - self._flushed >= FLUSH
        self._note(batch, flush=due)
        _append(self._rows, data, flush=due)
        self._flushed = time.monotonic() if due else self._flushed
        self._size += len(data)
        if not self._frames:
            self._remember(batch)
        self.count += len(rows)

    def close(self, *, whole: bool) -> None:
        """Close both files, and if the last batch is whole note that first."""
        if whole:
            os.fsync(self._rows)
            self._note([])
        os.close(self._rows)
        os.close(self._state)

    def _note(self, rows: Sequence[tuple[int, Row]], *, instead: bool = False, flush: bool = True) -> None:
        """Add a batch to the state file.

        Args:
            rows: Rows that are to be written next, each with its end.
            instead: The line stands for the one before it.
            flush: Flush the line to disk.
        """
        entries = [[end, row.key, *row.version, row.kind] if row.key else [end] for end, row in rows]
        tree = {"begin": self._size, "rows": entries} | ({"instead": True} if instead else {})
        line = json.dumps(tree, separators=(",", ":"))
        _append(self._state, f"{line}\n".encode(), flush=flush)

    def _text(self) -> bytes:
        """Return what was put into the buffer, and empty it."""
        text = self._buffer.getvalue().encode("utf-8", "surrogateescape")
        self._buffer.seek(0)
        self._buffer.truncate()
        return text

    def _recall(self, state: Path) -> None:
        """Read the state file, and cut what a killed process has left half written."""
        begin, batch, instead, kept = 0, list[tuple[int, Row]](), False, 0
        with os.fdopen(os.dup(self._state), "rb") as lines:
            lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n"):  # its writer was killed before it wrote a row
                    os.ftruncate(self._state, kept)
                    break
                kept += len(line)
                begin, after, instead = _entries(line, state)
                if not instead:
                    self._remember(batch)
                batch = after
        whole = [(end, row) for end, row in batch if instead or begin < end <= self._size]
        self._remember(whole)
        self.latest = [row for _, row in whole if row.key]
        if len(whole) < len(batch):
            if begin <= self._size:
                self._size = whole[-1][0] if whole else begin
                os.ftruncate(self._rows, self._size)
                os.fsync(self._rows)
            self._note(whole, instead=True)

    def _complete(self, head: bytes) -> None:
        """Write what the file lacks of its head, or of the end of its last line."""
        rest = head[self._size :]
        if self._size > len(head) and os.lseek(self._rows, -1, os.SEEK_END):
            rest = b"" if os.read(self._rows, 1) == b"\n" else b"\n"
        _append(self._rows, rest)
        self._size += len(rest)

    def _remember(self, batch: Sequence[tuple[int, Row]]) -> None:
        self._done.update(_mark(row.key, row.version) for _, row in batch if row.key)


@contextmanager
def rows_of(
    file: str | None, form: str, columns: Sequence[str], *, frames: bool = False
) -> Iterator[PrintedRows | RowLog]:
    """Open rows for the block.

    Args:
        file: A file that grows; None is standard output.
        form: "csv" or "jsonl".
        columns: Names of the columns.
        frames: As `RowLog` takes it.

    Raises:
        ConfigError: If the file cannot be written, holds other rows, or another process writes to it.
    """
    if file is None:
        with output(None) as out:
            yield PrintedRows(out, form, columns, frames=frames)
        return
    log = RowLog(Path(file), form, columns, frames=frames)
    try:
        yield log
    except BaseException:
        log.close(whole=False)
        raise
    log.close(whole=True)


def _require_rows(file: Path, state: Path, head: bytes, columns: Sequence[str]) -> None:
    """Raise ConfigError for a file whose rows are not ours to go on with."""
    for place in (file, state):
        if place.exists() and not place.is_file():
            raise ConfigError(f"--out {place} is {'a folder' if place.is_dir() else 'no plain file'}, wanted a file")
    if not file.exists() or not file.stat().st_size:
        return
    if not state.exists():
        raise ConfigError(
            f"--out {file} holds rows already, and no {state.name} beside it says which images they are of: name "
            "another file"
        )
    with file.open("rb") as rows:
        first = rows.readline(1 << 20)
    same = first == head
    if not head:
        try:
            same = list(json.loads(first)) == list(columns)
        except (ValueError, TypeError):
            same = not first.endswith(b"\n")  # a row that was cut off
    if not (same or (head and head.startswith(first))):
        raise ConfigError(f"--out {file} holds other columns than {', '.join(columns)}: name another file")


def _entries(line: bytes, state: Path) -> tuple[int, list[tuple[int, Row]], bool]:
    """Read a line of the state file: where rows begin, the rows with their ends.

    The last value is True if the line stands for the one before it.

    Raises:
        ConfigError: If it is damaged.
    """
    try:
        batch = json.loads(line)
        rows = [
            (int(entry[0]), Row((), str(entry[1]), (int(entry[2]), int(entry[3])), str(entry[4])))
            if len(entry) > 1
            else (int(entry[0]), Row(()))
            for entry in batch["rows"]
        ]
        begin = int(batch["begin"])
        if any(end < begin for end, _ in rows) or begin < 0:
            raise ValueError(line)
        return begin, rows, bool(batch.get("instead"))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{state} is damaged, so that nobody knows what is done: name another --out") from error


def _opened(file: Path) -> int:
    """Open a file to read it and to append to it.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        cause = "there is no such folder" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise ConfigError(f"cannot write --out {file}: {cause}") from None


def _lock(handle: int, file: Path) -> None:
    """Lock the state until the process ends.

    Raises:
        ConfigError: If another process has locked it.
    """
    if _FCNTL is None:
        return
    try:
        _FCNTL.flock(handle, _FCNTL.LOCK_EX | _FCNTL.LOCK_NB)
    except OSError as error:  # others come of a file system without locks
        if isinstance(error, BlockingIOError):
            raise ConfigError(f"another lit-od watch writes to --out {file}: name another file") from None


def _append(handle: int, data: bytes, *, flush: bool = True) -> None:
    """Append bytes. Raises ConfigError if they cannot be written."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
        if flush:
            os.fsync(handle)
    except OSError as error:
        raise ConfigError(f"cannot write --out: {error.strerror or error}. Rows that are there stay") from None


def _mark(key: str, version: Version) -> int:
    """Return 64 bits that stand for a version of an image, in a tenth of its memory."""
    text = f"{key}\0{version[0]}\0{version[1]}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
