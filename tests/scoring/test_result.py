"""Verdicts as rows, CSV and data frames."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lit_od import Result
from lit_od.errors import MissingExtra
from lit_od.scoring import result as results
from lit_od.scoring.result import COLUMNS


@pytest.fixture
def result() -> Result:
    nan = float("nan")
    return Result(
        ["=a.png", "b,\udcff.png", "gone.png"],
        np.array([1.5, 0.1, nan]),
        np.array([0.25, 1.0, nan]),
        np.array([True, False, False]),
        [None, None, "no such file"],
    )


def test_rows_are_dictionaries_without_nan(result: Result) -> None:
    assert result.rows() == [
        {"path": "=a.png", "score": 1.5, "p_value": 0.25, "is_outlier": True, "error": None},
        {"path": "b,\udcff.png", "score": 0.1, "p_value": 1.0, "is_outlier": False, "error": None},
        {"path": "gone.png", "score": None, "p_value": None, "is_outlier": None, "error": "no such file"},
    ]
    assert tuple(result.rows()[0]) == COLUMNS


def test_csv_is_that_of_the_command(result: Result, tmp_path: Path) -> None:
    result.to_csv(file := tmp_path / "rows.csv")
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as rows:
        assert list(csv.reader(rows)) == [
            list(COLUMNS),
            ["./=a.png", "1.5", "0.25", "true", ""],
            ["b,\udcff.png", "0.1", "1.0", "false", ""],
            ["gone.png", "", "", "", "no such file"],
        ]
    with pytest.raises(OSError, match="No such file"):
        result.to_csv(tmp_path / "missing" / "rows.csv")


@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])
def test_data_frames_read_it(result: Result, library: str) -> None:
    pytest.importorskip("pyarrow")
    module = pytest.importorskip(library, "3.0" if library == "pandas" else None)
    rows = result.rows()
    rows[1]["path"] = "b,\\udcff.png"
    if library == "pandas":
        frame = module.DataFrame.from_arrow(result)
        assert [str(kind) for kind in frame.dtypes[1:3]] == ["float64", "float64"]
        found = frame.astype(object).where(frame.notna(), None).to_dict("records")
    elif library == "polars":
        found = module.DataFrame(result).to_dicts()
    else:
        found = module.table(result).to_pylist()
    assert found == rows


def test_without_pyarrow_the_pip_line(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingExtra("no PyArrow")

    monkeypatch.setattr(results, "arrow", absent)
    with pytest.raises(MissingExtra, match="no PyArrow"):
        result.__arrow_c_stream__()
