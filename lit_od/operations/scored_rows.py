"""Read rows of scores in CSV or JSON lines, also of a file that grows."""

import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from lit_od.errors import DataError
from lit_od.images.statistics import STATISTICS
from lit_od.scoring.rows import DETECTOR

POLL = 0.5
"""Seconds between two looks at a file that grows."""

STREAM_COLUMNS = frozenset({"frame", "time", "track"})
"""Columns of rows that were scored from a stream of frames."""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row of scores.

    Attributes:
        path: Path or name of the image; empty where the row has none.
        score: Its score, finite; None where the row is to be left out.
        fault: Reason why it is: "with an error", "not finite" or "malformed"; None where it is not.
        detector: First digits of the hash of the detector's file; None where the row carries none.
        statistics: The image's brightness, sharpness and saturation; None where the row carries none.
        frames: True if the row is one of a stream of frames.
        restarted: True for the first row after a file was truncated or replaced.
    """

    path: str
    score: float | None
    fault: str | None = None
    detector: str | None = None
    statistics: tuple[float, ...] | None = None
    frames: bool = False
    restarted: bool = False


def read_rows(
    files: Iterable[str], *, follow: bool = False, wait: Callable[[], None] | None = None
) -> Iterator[ScoredRow]:
    """Read the rows of files, one file after the other.

    Args:
        files: CSV files with a column `score`, or JSON lines with that key; `-` is standard input.
        follow: Go on reading the last file as it grows, until interrupted. A last line without its line feed waits for
            the rest. A file that was truncated or replaced is read from its start.
        wait: Called where a followed file has no more to read, before the next look; None sleeps.

    Yields:
        Rows in their order.

    Raises:
        DataError: If a file cannot be read, or has no column `score`.
    """
    names = list(files)
    for name in names:
        if name == "-":
            yield from _rows((line.decode(errors="surrogateescape") for line in sys.stdin.buffer), "standard input")
        elif follow and name == names[-1]:
            yield from _followed(Path(name), wait or _sleep)
        else:
            with _opened(Path(name)) as file:
                yield from _rows((line.decode(errors="surrogateescape") for line in file), name)


def has_scores(file: Path) -> bool:
    """Return True for JSON lines, or a CSV file with a column `score`."""
    if file.suffix.lower() == ".jsonl":
        return True
    if file.suffix.lower() != ".csv" or not file.is_file():
        return False
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        return "score" in _titles(csv.reader(lines))


def _titles(reader: Iterator[list[str]]) -> list[str]:
    """Return the titles of the columns; none of a file that is no CSV."""
    try:
        return next(reader, [])
    except csv.Error:
        return []


def _sleep() -> None:
    time.sleep(POLL)


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(f"cannot read the rows of {file}: {error.strerror or error}") from None


def _followed(file: Path, wait: Callable[[], None]) -> Iterator[ScoredRow]:
    """Yield the rows of a file that grows, anew where it is truncated or replaced."""
    again = False
    with _opened(file):
        pass
    while True:
        while again and not file.is_file():
            wait()
        with _opened(file) as opened:
            for row in _rows(_growing(opened, file, wait), str(file)):
                yield ScoredRow(row.path, row.score, row.fault, row.detector, row.statistics, row.frames, again)
                again = False
        again = True


def _growing(opened: BinaryIO, file: Path, wait: Callable[[], None]) -> Iterator[str]:
    """Yield whole lines until the file is truncated or replaced."""
    waiting = b""
    while True:
        replaced = _is_replaced(opened, file)  # asked before the last look, so that no line is lost
        while line := opened.readline():
            waiting += line
            if waiting.endswith(b"\n"):
                yield waiting.decode(errors="surrogateescape")
                waiting = b""
        if replaced:
            return
        wait()


def _is_replaced(opened: BinaryIO, file: Path) -> bool:
    mine = os.fstat(opened.fileno())
    if mine.st_size < opened.tell():
        return True
    try:
        there = file.stat()
    except OSError:
        return True
    return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)


def _rows(lines: Iterator[str], name: str) -> Iterator[ScoredRow]:
    """Parse lines by the form that the first one shows."""
    first = next(lines, None)
    if first is None:
        return
    first = first.removeprefix("\ufeff")
    parse = _json_rows if first.lstrip().startswith("{") else _csv_rows
    yield from parse(chain([first], lines), name)


def _json_rows(lines: Iterable[str], name: str) -> Iterator[ScoredRow]:
    for line in lines:
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError):
            cells = None
        yield _row(cells) if isinstance(cells, dict) else ScoredRow("", None, "malformed")


def _csv_rows(lines: Iterable[str], name: str) -> Iterator[ScoredRow]:
    reader = csv.reader(lines)
    titles = _titles(reader)
    if "score" not in titles:
        raise DataError(
            f"{name} has no column score: wanted rows as lit-od score writes them, in CSV or JSON lines, "
            f"got the columns {', '.join(titles)[:200] or 'of no table'}"
        )
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield ScoredRow("", None, "malformed")
            continue
        if cells:
            known = {title: cell or None for title, cell in zip(titles, cells, strict=False)}
            yield _row(known) if len(cells) == len(titles) else ScoredRow(known.get("path") or "", None, "malformed")


def _row(cells: Mapping[str, Any]) -> ScoredRow:
    """Make a row of its cells by title, texts or JSON's values."""
    path = str(cells.get("path") or "")
    if cells.get("error"):
        return ScoredRow(path, None, "with an error")
    score = _number(cells.get("score"))
    if score is None or not math.isfinite(score):
        return ScoredRow(path, None, "malformed" if score is None else "not finite")
    statistics = tuple(_number(cells.get(name)) for name in STATISTICS)
    known = tuple(each for each in statistics if each is not None and math.isfinite(each))
    detector = cells.get(DETECTOR)
    return ScoredRow(
        path,
        score,
        detector=None if detector is None else str(detector),
        statistics=known if len(known) == len(STATISTICS) else None,
        frames=not STREAM_COLUMNS.isdisjoint(cells),
    )


def _number(value: object) -> float | None:
    """Return a number of JSON or of a text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
