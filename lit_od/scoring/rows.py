"""Rows of verdicts as CSV, JSON lines or a Parquet file."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TextIO

import numpy as np

from lit_od.errors import ConfigError
from lit_od.formats.atomic import atomic_file
from lit_od.formats.text import csv_cell, csv_path, csv_row, printable, unicode_text
from lit_od.images.object_store import arrow
from lit_od.images.statistics import STATISTICS
from lit_od.scoring.result import COLUMNS, Result, arrow_columns

DETECTOR = "detector"
"""Column that stands, with `STATISTICS`, behind the others where rows carry statistics: `detector_hash`."""

ROWS_A_GROUP = 1 << 16
"""Rows of a Parquet row group: in smaller groups a column compresses badly and reads slowly."""


@contextmanager
def parquet_rows(file: Path, *, detector: str | None = None) -> Iterator[Callable[[Result], None]]:
    """Yield a function that writes results; the file appears at the block's end.

    The file is written whole or not at all. Columns: path (string), score and p_value (double), is_outlier (bool),
    error (string), null where the cells of a CSV are empty; with statistics these (double) and detector (string). In
    names that are not Unicode, bytes are written as backslash escapes.

    Raises:
        ConfigError: If the file cannot be written.
        MissingExtra: If PyArrow is not installed.
    """
    arrow()
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.schema(
        {
            "path": pa.string(),
            "score": pa.float64(),
            "p_value": pa.float64(),
            "is_outlier": pa.bool_(),
            "error": pa.string(),
            **({} if detector is None else dict.fromkeys(STATISTICS, pa.float64()) | {DETECTOR: pa.string()}),
        }
    )
    if file.is_dir():
        raise ConfigError(f"--out {file} is a folder, wanted a file")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"cannot write --out {file}: there is no such folder")
    waiting: list[Result] = []
    with atomic_file(file) as partial, parquet.ParquetWriter(partial, schema) as out:

        def flush() -> None:
            result = Result.joined(waiting)
            columns = arrow_columns(result)
            if detector is not None:
                assert result.statistics is not None
                found = zip(STATISTICS, result.statistics.T, strict=True)
                columns |= {name: pa.array(each, mask=np.isnan(each)) for name, each in found}
                columns[DETECTOR] = pa.array([detector] * len(result))
            out.write_table(pa.table(columns, schema=schema))
            waiting.clear()

        def write(result: Result) -> None:
            waiting.append(result)
            if sum(map(len, waiting)) >= ROWS_A_GROUP:
                flush()

        yield write
        if waiting:
            flush()


@contextmanager
def output(file: str | None) -> Iterator[TextIO]:
    """Open a file, or standard output for None, and keep bytes of non-Unicode names.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if file is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(newline="")
        yield sys.stdout
        return
    try:
        with Path(file).open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            yield out
    except IsADirectoryError:
        raise ConfigError(f"--out {file} is a folder, wanted a file") from None
    except OSError as error:
        if error.filename not in (None, file):  # of another file
            raise
        cause = error.strerror or error
        raise ConfigError(f"cannot write --out {file}: {cause}. Rows that are there stay; name another file") from error


@contextmanager
def rows_to(file: str | None, form: str, *, detector: str | None = None) -> Iterator[Callable[[Result], None]]:
    """Yield a function that writes results to a file or to standard output.

    Args:
        file: The file; None for standard output, which takes no Parquet.
        form: "csv", "jsonl" or "parquet".
        detector: The detector's hash where rows are to carry it and the results' statistics; None writes neither.

    Raises:
        ConfigError: If the file cannot be written, or Parquet has no file.
        MissingExtra: If Parquet is wanted and PyArrow is not installed.
    """
    if form != "parquet":
        with output(file) as out:
            yield _writer(out, form, detector)
        return
    if file is None:
        raise ConfigError("--format parquet needs a file: give --out FILE")

    with parquet_rows(Path(file), detector=detector) as write:
        yield write


def _writer(out: TextIO, form: str, detector: str | None) -> Callable[[Result], None]:
    put = row_writer(out, form, COLUMNS if detector is None else (*COLUMNS, *STATISTICS, DETECTOR))

    def write(result: Result) -> None:
        more: Iterable[Sequence[object]] = repeat(())
        if detector is not None:
            assert result.statistics is not None
            more = (
                (*(None if math.isnan(each) else each for each in row), detector) for row in result.statistics.tolist()
            )
        for row, also in zip(result.row_values(), more, strict=False):
            put((*row, *also))
        out.flush()  # the rows of whole batches outlive a killed process

    return write


@contextmanager
def regions_to(file: str | None) -> Iterator[Callable[[Result], None]]:
    """Yield a function that writes regions to a file, a line of JSON an image.

    A line holds `path`, and `regions`: box (left, top, right, bottom; right and bottom excluded), area, peak and at (x,
    y), in the image's own pixels; null where the image has no score.

    Args:
        file: The file; None writes nothing.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if file is None:
        yield lambda result: None
        return
    with output(file) as out:
        put = row_writer(out, "jsonl", ("path", "regions"))

        def write(result: Result) -> None:
            assert result.regions is not None
            for name, regions, error in zip(result.name, result.regions, result.error, strict=True):
                put((name, None if error else [asdict(region) for region in regions]))
            out.flush()

        yield write


def row_writer(out: TextIO, form: str, columns: Sequence[str]) -> Callable[[Sequence[object]], None]:
    """Write the head of a table, if it has one; return a function that writes a row.

    In JSON, bytes of names that are no Unicode are backslash escapes; CSV holds the bytes. A terminal is shown escapes
    in place of control characters.

    Args:
        out: Text file for the rows.
        form: "csv" or "jsonl".
        columns: Names of the columns; a value that is None is an empty cell, or null. What stands under `path` is
            written so that no spreadsheet takes it for a formula.
    """
    place = columns.index("path") if "path" in columns else None
    shown = partial(printable, keep="\n") if out.isatty() else str  # a stranger's file name is no command
    if form == "csv":
        out.write(csv_row(columns))

    def write(values: Sequence[object]) -> None:
        if form == "jsonl":
            known = (unicode_text(value) if isinstance(value, str) else value for value in values)
            out.write(json.dumps(dict(zip(columns, known, strict=True))) + "\n")
        else:
            cells = [csv_cell(value) for value in values]
            if place is not None:
                cells[place] = csv_path(cells[place])
            out.write(shown(csv_row(cells)))

    return write
