"""Rows of verdicts as a Parquet file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lit_od.errors import ConfigError, missing_extra
from lit_od.formats.atomic import replacing_file
from lit_od.scorer import Result

ROWS_A_GROUP = 1 << 16
"""Rows that are gathered before they are written: in small groups a column compresses badly and reads slowly."""


@contextmanager
def parquet_rows(file: Path) -> Iterator[Callable[[Result], None]]:
    r"""A function that takes verdicts, in their order; the file is there, whole, once the block has ended.

    Columns: path (string), score and p_value (double), is_outlier (bool), error (string), null as the cells of
    a CSV are empty. Names that are not Unicode have their bytes as escapes (`\udcff`).

    Raises:
        ConfigError: If the file cannot be written.
        MissingExtra: If PyArrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        missing_extra("PyArrow", "ray,cpu")
    schema = pa.schema(
        {
            "path": pa.string(),
            "score": pa.float64(),
            "p_value": pa.float64(),
            "is_outlier": pa.bool_(),
            "error": pa.string(),
        }
    )
    if file.is_dir():
        raise ConfigError(f"--out {file} is a folder, wanted a file")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"cannot write --out {file}: there is no such folder")
    waiting: list[Result] = []
    with replacing_file(file) as partial, parquet.ParquetWriter(partial, schema) as out:

        def flush() -> None:
            broken = np.array([error is not None for result in waiting for error in result.error], dtype=bool)
            columns = [
                _strings([name for result in waiting for name in result.name]),
                *(
                    pa.array(np.concatenate([getattr(result, part) for result in waiting]), mask=broken)
                    for part in ("score", "p_value", "is_outlier")
                ),
                _strings([error for result in waiting for error in result.error]),
            ]
            out.write_table(pa.table(columns, schema=schema))
            waiting.clear()

        def write(result: Result) -> None:
            waiting.append(result)
            if sum(map(len, waiting)) >= ROWS_A_GROUP:
                flush()

        yield write
        if waiting:
            flush()


def _strings(texts: list[str] | list[str | None]) -> Any:
    """An Arrow array of texts that may not be Unicode, or not be at all."""
    import pyarrow as pa

    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        known = [None if text is None else text.encode(errors="backslashreplace").decode() for text in texts]
        return pa.array(known, pa.string())
