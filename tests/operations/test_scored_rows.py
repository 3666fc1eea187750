"""Rows of scores from CSV and JSON lines, odd ones among them, and from files that grow."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_od.errors import DataError
from lit_od.operations.scored_rows import ScoredRow, has_scores, read_rows

HEAD = "path,score,p_value,is_outlier,error\n"


def scores(rows: Iterator[ScoredRow]) -> list[float | None]:
    return [row.score for row in rows]


def test_rows_of_both_forms_are_the_same(tmp_path: Path) -> None:
    table, lines = tmp_path / "rows.csv", tmp_path / "rows.txt"
    table.write_text(
        HEAD + 'a.png,1.5,0.5,false,\n"two\nlines, ""b"".png",2,0.1,true,\nc.png,,,,no such file\nd.png,nan,,,\n',
        "utf-8",
    )
    cells = [
        {"path": "a.png", "score": 1.5, "error": None},
        {"path": 'two\nlines, "b".png', "score": 2, "error": None},
        {"path": "c.png", "score": None, "error": "no such file"},
        {"path": "d.png", "score": float("nan"), "error": None},
    ]
    lines.write_text("".join(json.dumps(each) + "\n" for each in cells), "utf-8")
    found = list(read_rows([str(table)]))
    assert found == list(read_rows([str(lines)]))
    assert [row.path for row in found] == ["a.png", 'two\nlines, "b".png', "c.png", "d.png"]
    assert [row.score for row in found] == [1.5, 2.0, None, None]
    assert [row.fault for row in found] == [None, None, "with an error", "not finite"]


def test_statistics_detector_and_frames_are_read(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(
        "\ufeffscore,brightness,sharpness,saturation,detector,frame\r\n3,0.5,0.1,0.2,abc,7\r\n4,,,,abc,8\r\n", "utf-8"
    )
    one, two = read_rows([str(table)])
    assert one == ScoredRow("", 3.0, None, "abc", (0.5, 0.1, 0.2), frames=True)
    assert two == ScoredRow("", 4.0, None, "abc", None, frames=True)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("score,error\nmany,\n1,\n", ["malformed", None]),
        ("score,error\n,\n1,\n", ["malformed", None]),
        ("score,error\n1,2,3\n1\n1,\n", ["malformed", "malformed", None]),
        ("score,error\n1,\n\n2,\n", [None, None]),
        ("score\n-inf\n1e400\n", ["not finite", "not finite"]),
        ('{"score": 1}\nno JSON\n[1]\n{"path": "a"}\n\n', [None, "malformed", "malformed", "malformed"]),
        (
            '{"score": true}\n{"score": "2"}\n{"score": [2]}\n{"score": 1e999}\n',
            ["malformed", None, "malformed", "not finite"],
        ),
        ('{"score": 1' + "0" * 400 + "}\n" + "[" * 100_000 + "\n", ["malformed", "malformed"]),
        ("score,path\n1," + "x" * 200_000 + "\n2,a\n", ["malformed", None]),
    ],
)
def test_odd_rows_are_left_out_with_a_reason(text: str, faults: list[str | None], tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text(text, "utf-8")
    rows = list(read_rows([str(file)]))
    assert [row.fault for row in rows] == faults
    assert all((row.score is None) == (row.fault is not None) for row in rows)


def test_files_follow_one_another_and_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.csv").write_text("score\n1\n2", "utf-8")
    (tmp_path / "none.csv").touch()
    (tmp_path / "bytes.csv").write_bytes(b"path,score\n\xff\xfe.png,4\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"score\n3\n")))
    names = [str(tmp_path / "one.csv"), str(tmp_path / "none.csv"), "-", str(tmp_path / "bytes.csv")]
    rows = list(read_rows(names))
    assert [row.score for row in rows] == [1, 2, 3, 4]
    assert os.fsencode(rows[-1].path) == b"\xff\xfe.png"


def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na.png\n", "utf-8")
    with pytest.raises(DataError, match=r"list.csv has no column score: wanted rows .* got the columns path"):
        list(read_rows([str(tmp_path / "list.csv")]))
    (tmp_path / "packed.csv").write_bytes(b"\x1f\x8b\x08\r\x00packed\r\x00\n")
    with pytest.raises(DataError, match=r"packed.csv has no column score: .* got the columns of no table"):
        list(read_rows([str(tmp_path / "packed.csv")]))
    for follow in (False, True):
        with pytest.raises(DataError, match=r"cannot read the rows of .*gone.csv: No such file"):
            list(read_rows([str(tmp_path / "gone.csv")], follow=follow))


def test_rows_are_told_from_lists_of_images(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(HEAD, "utf-8")
    (tmp_path / "list.csv").write_text("path\na.png\n", "utf-8")
    (tmp_path / "none.csv").touch()
    (tmp_path / "packed.csv").write_bytes(b"\x1f\x8b\x08" + b"x" * 200_000)
    names = ("rows.csv", "list.csv", "none.csv", "packed.csv", "any.jsonl", "a.png", "gone.csv")
    assert [has_scores(tmp_path / name) for name in names] == [True, False, False, False, True, False, False]


class Script:
    """Steps taken where a followed file has no more to read; then the reader is interrupted."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def __call__(self) -> None:
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


def followed(file: Path, *steps: Callable[[], object]) -> list[ScoredRow]:
    """Rows that come while a file is changed."""
    found = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # rows come until it
        for row in read_rows([str(file)], follow=True, wait=Script(*steps)):
            found.append(row)
    return found


def appended(file: Path, text: str) -> Callable[[], object]:
    def step() -> None:
        with file.open("a", encoding="utf-8") as out:
            out.write(text)

    return step


def test_a_growing_file_is_followed_and_half_a_line_waits(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("score,path\n1,a\n2", "utf-8")
    rows = followed(file, appended(file, "5,b"), lambda: None, appended(file, '\n3,"two\n'), appended(file, 'lines"\n'))
    assert [(row.score, row.path) for row in rows] == [(1, "a"), (25, "b"), (3, "two\nlines")]
    assert not any(row.restarted for row in rows)


def test_an_empty_file_may_grow(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    rows = followed(file, appended(file, '{"score"'), appended(file, ": 4}\n"))
    assert scores(iter(rows)) == [4]


@pytest.mark.parametrize("way", ["truncated", "replaced", "removed for a while"])
def test_a_file_that_begins_anew_is_read_anew(way: str, tmp_path: Path) -> None:
    file, other = tmp_path / "rows.csv", tmp_path / "other.csv"
    file.write_text("path,score\na,1\nb,2\n", "utf-8")
    other.write_text("score\n3\n", "utf-8")
    last = appended(file, "c,9\n")
    steps: dict[str, list[Callable[[], object]]] = {
        "truncated": [lambda: file.write_text("score\n3\n", "utf-8")],
        "replaced": [lambda: (last(), other.replace(file))],  # what was written before is read first
        "removed for a while": [file.unlink, lambda: None, lambda: other.rename(file)],
    }
    rows = followed(file, *steps[way], appended(file, "4\n"))
    before = [1, 2, 9] if way == "replaced" else [1, 2]
    assert scores(iter(rows)) == [*before, 3, 4]
    assert [row.restarted for row in rows] == [False] * len(before) + [True, False]
