"""Rows as Parquet."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_od.bundle.folder import Bundle
from lit_od.images.sources import Source
from lit_od.scoring.rows import parquet_rows, row_writer
from lit_od.scoring.scorer import Scorer
from tests.support.tables import arrow

Command = Callable[..., Any]


def test_rows_as_parquet(made_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command) -> None:
    parquet = arrow("pyarrow.parquet")
    odd = "not unicode \udcff.png"
    (tmp_path / "list.txt").write_bytes(f"{digit_files}/0\n".encode())
    files = [str(file) for file in sorted(digit_files.rglob("*.png"))]
    paths = [*files, str(tmp_path / "gone.png"), str(tmp_path / odd)]
    status, out, err = command("score", made_bundle.path, *paths, "--format", "parquet", "--out", tmp_path / "rows")
    assert (status, out) == (1, "")
    assert "2 of 42 images could not be read" in err
    rows = parquet.read_table(tmp_path / "rows").to_pydict()
    assert rows["path"] == [*paths[:-1], str(tmp_path / "not unicode \\udcff.png")]
    want = Scorer.load(made_bundle.path).score(files)
    assert rows["score"] == [*want.score, None, None]
    assert rows["p_value"] == [*want.p_value, None, None]
    assert rows["is_outlier"] == [*want.is_outlier, None, None]
    assert rows["error"] == [None] * 40 + ["no such file"] * 2
    status, _, err = command("score", made_bundle.path, files[0], "--format", "parquet")
    assert (status, err) == (2, "lit-od: --format parquet needs a file: give --out FILE\n")
    for place, message in ((tmp_path, "is a folder, wanted a file"), (tmp_path / "no" / "rows", "no such folder")):
        status, _, err = command("score", made_bundle.path, files[0], "--format", "parquet", "--out", place)
        assert status == 2
        assert message in err


def test_a_parquet_file_is_there_whole_or_not_at_all(
    tmp_path: Path, made_bundle: Bundle, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = arrow("pyarrow.parquet")
    monkeypatch.setattr("lit_od.scoring.rows.ROWS_A_GROUP", 10)
    results = list(Scorer.of(made_bundle).stream(digits[:25], batch_size=5))
    with parquet_rows(tmp_path / "rows") as write:
        for result in results:
            write(result)
    about = parquet.read_metadata(tmp_path / "rows")
    assert [about.row_group(group).num_rows for group in range(3)] == [10, 10, 5]
    before = (tmp_path / "rows").read_bytes()

    def interrupted() -> None:
        with parquet_rows(tmp_path / "rows") as write:
            write(results[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "rows").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["rows"]


class Terminal(io.StringIO):
    """A terminal that a person looks at."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_no_control_characters() -> None:
    name = "\x1b]0;x\x07\x9b2J日本.png"
    for out, shown in ((Terminal(), "\\x1b]0;x\\x07\\x9b2J日本.png"), (io.StringIO(), name)):
        row_writer(out, "csv", ("path", "error"))([name, None])
        assert out.getvalue() == f"path,error\n{shown},\n"
