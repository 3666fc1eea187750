"""Rows that are appended once each, whatever byte their writer was killed at."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_od.errors import ConfigError
from lit_od.operations.row_log import PrintedRows, Row, RowLog, rows_of

COLUMNS = ("path", "score")
NAMES = ["a.png", 'q"u,o\nte.png', "é.png", "=1.png", "e.png", "f.png"]


def row(name: str, number: int = 0) -> Row:
    return Row((name, 0.5), name, (10, number), "inliers")


def written(file: Path, form: str) -> list[str]:
    """The paths in a file of rows, as a reader of its form gets them."""
    text = file.read_text(encoding="utf-8")
    if form == "jsonl":
        return [json.loads(line)["path"] for line in text.splitlines()]
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == list(COLUMNS)
    return [cells[0].removeprefix("./") for cells in rows[1:]]


def finish(file: Path, form: str) -> None:
    """Write the rows that are not yet there, as the next process would."""
    with rows_of(str(file), form, COLUMNS) as rows:
        missing = [row(name) for name in NAMES if not rows.known(name, (10, 0))]
        if missing:
            rows.write(missing)


def crashes(folder: Path, form: str) -> Iterator[tuple[bytes, bytes]]:
    """State and rows at many a byte at which their writer may be killed, in the order in which it writes them."""
    file, state = folder / "rows", folder / "rows.state"
    log = RowLog(file, form, COLUMNS)
    for start in (0, 2, 4):
        before = state.read_bytes(), file.read_bytes()
        log.write([row(name) for name in NAMES[start : start + 2]])
        after = state.read_bytes(), file.read_bytes()
        yield from ((after[0][:end], before[1]) for end in range(len(before[0]), len(after[0]), 5))
        yield from ((after[0], after[1][:end]) for end in range(len(before[1]), len(after[1]) + 1, 3))
    log.close(whole=True)
    yield state.read_bytes(), file.read_bytes()


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing wait for the disk, which hundreds of files would do for long."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_killed_at_any_byte_each_row_is_there_once(tmp_path: Path, form: str) -> None:
    (tmp_path / "first").mkdir()
    seen = set()
    for number, (state, rows) in enumerate(crashes(tmp_path / "first", form)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "rows").write_bytes(rows)
        (folder / "rows.state").write_bytes(state)
        with rows_of(str(folder / "rows"), form, COLUMNS) as log:
            seen.add(sum(log.known(name, (10, 0)) for name in NAMES))
        finish(folder / "rows", form)
        assert sorted(written(folder / "rows", form)) == sorted(NAMES)
    assert seen == set(range(len(NAMES) + 1))
    assert number > 70


@pytest.mark.usefixtures("quick_disk")
def test_killed_again_while_it_puts_the_file_in_order(tmp_path: Path) -> None:
    """The line that corrects the state may be cut off too, and the rows may be cut already."""
    file = tmp_path / "rows"
    log = RowLog(file, "csv", COLUMNS)
    log.write([row("a.png"), row("b.png")])
    log.close(whole=False)
    text = file.read_bytes()
    file.write_bytes(text[:-3])
    before = (tmp_path / "rows.state").read_bytes()
    with rows_of(str(file), "csv", COLUMNS):
        pass
    state = (tmp_path / "rows.state").read_bytes()
    for end in range(len(before), len(state)):
        (tmp_path / "rows.state").write_bytes(state[:end])
        log = RowLog(file, "csv", COLUMNS)
        assert (log.known("a.png", (10, 0)), log.known("b.png", (10, 0))) == (True, False)
        log.close(whole=False)
        assert written(file, "csv") == ["a.png"]


def test_rows_that_were_moved_away_stay_done(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    for names in (NAMES[:2], NAMES[2:4]):
        with rows_of(str(file), "csv", COLUMNS) as log:
            log.write([row(name) for name in names])
    file.rename(tmp_path / "old.csv")
    finish(file, "csv")
    assert written(file, "csv") == NAMES[4:]
    assert written(tmp_path / "old.csv", "csv") == NAMES[:4]


def test_another_version_of_a_file_is_not_known(tmp_path: Path) -> None:
    with rows_of(str(tmp_path / "rows.csv"), "csv", COLUMNS) as log:
        log.write([row("a.png", 1)])
        assert log.known("a.png", (10, 1))
        assert not log.known("a.png", (10, 2))
        assert not log.known("b.png", (10, 1))


def test_the_last_batch_of_a_killed_writer_is_told_and_that_of_another_is_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    log = RowLog(file, "csv", COLUMNS)
    log.write([row("a.png")])
    log.write([row("b.png")])
    log.close(whole=False)
    with rows_of(str(file), "csv", COLUMNS) as log:
        assert [(each.key, each.version, each.kind) for each in log.latest] == [("b.png", (10, 0), "inliers")]
    with rows_of(str(file), "csv", COLUMNS) as log:
        assert log.latest == []


def fail(file: Path) -> None:
    with rows_of(str(file), "csv", COLUMNS) as log:
        log.write([row("a.png"), row("b.png")])
        raise OSError("the disk is full")


def test_a_writer_that_fails_does_not_call_its_last_batch_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with pytest.raises(OSError, match="full"):
        fail(file)
    file.write_bytes(file.read_bytes()[:-1])
    with rows_of(str(file), "csv", COLUMNS) as log:
        assert not log.known("b.png", (10, 0))


def test_the_state_of_a_stream_does_not_grow(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with rows_of(str(file), "jsonl", COLUMNS) as log:
        for number in range(20):
            log.write([Row((f"stream#{number}", 0.5))])
        assert (tmp_path / "rows.jsonl.state").stat().st_size < 100
    assert len(written(file, "jsonl")) == 20


def test_frames_are_known_to_the_next_process_and_take_no_memory_in_their_own(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with rows_of(str(file), "csv", COLUMNS, frames=True) as log:
        log.write([row("film#0")])
        log.write([row("film#1")])
        assert not log.known("film#0", (10, 0))
    with rows_of(str(file), "csv", COLUMNS, frames=True) as log:
        assert log.known("film#0", (10, 0))
        assert log.known("film#1", (10, 0))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_files_that_are_not_ours_are_refused_and_stay(tmp_path: Path, form: str) -> None:
    file = tmp_path / "rows"
    file.write_text("x,y\n1,2\n" if form == "csv" else '{"x": 1}\n')
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=r"no rows\.state beside it"):
        RowLog(file, form, COLUMNS)
    (tmp_path / "rows.state").touch()
    with pytest.raises(ConfigError, match="holds other columns than path, score"):
        RowLog(file, form, COLUMNS)
    assert file.read_bytes() == before
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        RowLog(tmp_path / "other", form, COLUMNS)
    with pytest.raises(ConfigError, match="no such folder"):
        RowLog(tmp_path / "none" / "rows", form, COLUMNS)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no plain file"):
        RowLog(tmp_path / "pipe", form, COLUMNS)
    assert not (tmp_path / "pipe.state").exists()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_head_or_a_last_line_without_its_end_is_completed(tmp_path: Path, form: str) -> None:
    file = tmp_path / "rows"
    (tmp_path / "rows.state").touch()
    file.write_text("path,sc" if form == "csv" else "")  # there was no more room on the disk
    with rows_of(str(file), form, COLUMNS) as rows:
        rows.write([row("a.png")])
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))  # an editor has saved it
    with rows_of(str(file), form, COLUMNS) as rows:
        rows.write([row("b.png")])
    assert written(file, form) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "line",
    [
        b"[]\n",
        b"{}\n",
        b"\0\0\n",
        b'{"begin": 0, "rows": [[1, "a"]]}\n',
        b'{"begin": 1e999, "rows": []}\n',
        b'{"begin": -5, "rows": [[-3]]}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_damaged_state_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "rows.state").write_bytes(line)
    with pytest.raises(ConfigError, match=r"rows\.state is damaged"):
        RowLog(tmp_path / "rows", "csv", COLUMNS)


def test_a_full_disk_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    rows = RowLog(tmp_path / "rows", "csv", COLUMNS)
    rows.write([row("a.png")])
    with monkeypatch.context() as patched:
        patched.setattr("os.write", full)
        with pytest.raises(ConfigError, match=r"cannot write --out: No space left on device\. Rows that are there"):
            rows.write([row("b.png")])
    rows.close(whole=False)
    with rows_of(str(tmp_path / "rows"), "csv", COLUMNS) as rows:
        assert (rows.known("a.png", (10, 0)), rows.known("b.png", (10, 0))) == (True, False)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        rows_of(str(tmp_path / "rows"), "csv", COLUMNS),
        pytest.raises(ConfigError, match="another lit-od watch writes to"),
    ):
        RowLog(tmp_path / "rows", "csv", COLUMNS)


def test_printed_rows_are_remembered_while_the_process_lives() -> None:
    out = io.StringIO()
    rows = PrintedRows(out, "csv", COLUMNS)
    rows.write([row("a.png"), Row(("stream#0", 1.5))])
    assert out.getvalue() == "path,score\na.png,0.5\nstream#0,1.5\n"
    assert rows.known("a.png", (10, 0))
    assert not rows.known("", (0, 0))
    assert rows.count == 2
