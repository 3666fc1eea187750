"""`lit-od monitor`: statuses, table, JSON, picture, growing files and odd rows."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.bundle.folder import Bundle
from lit_od.commands import monitor
from lit_od.operations import scored_rows

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def normal(made_bundle: Bundle) -> list[float]:
    """Scores like those of the bundle's calibration images."""
    found: list[float] = np.random.default_rng(0).choice(made_bundle.calibration.scores, 200).tolist()
    return found


@pytest.fixture
def rows(tmp_path: Path, normal: list[float]) -> Path:
    return written(tmp_path / "rows.csv", normal)


@pytest.fixture
def drifting(tmp_path: Path, normal: list[float]) -> Path:
    return written(tmp_path / "drifting.csv", [*normal, *(2 * score for score in normal)])


def written(file: Path, scores: list[float]) -> Path:
    lines = [f"{number}.png,{score},,,\n" for number, score in enumerate(scores, start=1)]
    file.write_text("path,score,p_value,is_outlier,error\n" + "".join(lines), "utf-8")
    return file


def test_normal_rows_raise_no_alarm(made_bundle: Bundle, rows: Path, command: Command) -> None:
    status, out, err = command("monitor", made_bundle.path, rows)
    assert (status, err) == (0, "")
    assert "rows    200, 200 tested\n" in out
    assert "bag     400 calibration scores of the bundle" in out
    assert "alarms  0" in out


def test_a_drift_is_status_3_with_rows_and_images(made_bundle: Bundle, drifting: Path, command: Command) -> None:
    status, out, _ = command("monitor", made_bundle.path, drifting)
    assert status == 3
    assert "alarms  1" in out
    status, out, _ = command("monitor", made_bundle.path, drifting, "--json")
    found = json.loads(out)
    assert status == 3
    assert found["begins_with"] == "400 calibration scores of the bundle"
    [alarm] = found["latest_alarms"]
    assert 200 < alarm["row"] < 230
    assert alarm["path"] == f"{alarm['row']}.png"
    assert abs(alarm["start"] - 201) < 30
    assert alarm["evidence"] >= 2
    status, out, _ = command("monitor", made_bundle.path, drifting, "--standing", "10000")
    assert status == 3
    assert "alarm   at 10,000 of the standing watch" in out


def test_a_burn_in_and_rows_begin_the_bag_where_they_are_given(
    made_bundle: Bundle, rows: Path, drifting: Path, command: Command
) -> None:
    status, out, _ = command("monitor", made_bundle.path, drifting, "--burn-in", 50)
    assert status == 3
    assert "rows    400, 300 tested" in out, "50 rows begin the first bag, and 50 the one after the alarm"
    assert "bag     burn-in: the first 50 rows, as --burn-in says" in out
    status, out, _ = command("monitor", made_bundle.path, rows, "--calibration", rows)
    assert status == 0
    assert f"bag     200 scores of {rows}" in out


def test_images_begin_the_bag(made_bundle: Bundle, digit_files: Path, rows: Path, command: Command) -> None:
    status, out, _ = command("monitor", made_bundle.path, rows, "--calibration", digit_files)
    assert status in (0, 3)
    assert f"bag     40 scores of {digit_files}" in out


def test_rows_of_score_carry_what_monitor_reads(
    made_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command
) -> None:
    for name in ("rows.csv", "rows.jsonl"):
        command("score", made_bundle.path, digit_files, "--statistics", "--out", tmp_path / name)
        status, out, _ = command("monitor", made_bundle.path, tmp_path / name, "--json")
        found = json.loads(out)
        assert (status, found["rows"], found["tested"]) == (0, 40, 40)
        assert found["latest_bags"] == [{"row": 1, "begins_with": 400, "reason": "first row"}]


def test_rows_of_another_detector_begin_with_the_burn_in(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("score,detector\n" + "1,0123456789ab\n" * 120, "utf-8")
    _, out, _ = command("monitor", made_bundle.path, file, "--json")
    assert json.loads(out)["latest_bags"] == [{"row": 1, "begins_with": 100, "reason": "another detector"}]
    assert "a new bag begins at row 1: another detector" in command("monitor", made_bundle.path, file).out
    status, _, err = command("monitor", made_bundle.path, file, "--calibration", file)
    assert status == 2
    assert "holds scores of the detector 0123456789ab" in err


def test_frames_are_told_to_be_no_independent_rows(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"score": 3.0, "frame": n}) + "\n" for n in range(30)), "utf-8")
    status, out, _ = command("monitor", made_bundle.path, file, "--every", 5, "--burn-in", 2)
    assert status == 0
    assert "24 not taken (--every)" in out
    assert "successive ones are not exchangeable" in out


def test_a_picture_is_drawn(made_bundle: Bundle, drifting: Path, tmp_path: Path, command: Command) -> None:
    for name in ("drift.png", "drift.svg"):
        assert command("monitor", made_bundle.path, drifting, "--out", tmp_path / name).status == 3
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")
    assert "alarm at 100" in (tmp_path / "drift.svg").read_text("utf-8")


def test_a_table_needs_no_matplotlib(
    made_bundle: Bundle, rows: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "lit_od.evaluation.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delattr("lit_od.evaluation.plots", raising=False)
    assert command("monitor", made_bundle.path, rows).status == 0
    status, _, err = command("monitor", made_bundle.path, rows, "--out", tmp_path / "drift.png")
    assert status == 2
    assert "this needs matplotlib" in err
    assert 'Run: pip install "lit-od[evaluate,cpu]"' in err


def test_a_growing_file_is_followed_until_interrupted(
    made_bundle: Bundle, rows: Path, normal: list[float], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [0.0, 1.0]

    def wait() -> None:
        if not steps:
            raise KeyboardInterrupt
        if steps.pop() == 1:
            with rows.open("a", encoding="utf-8") as out:
                out.writelines(f"late.png,{2 * score},,,\n" for score in normal[:60])
        else:
            rows.write_text("path,score\n" + "new.png,1\n" * 3, "utf-8")

    monkeypatch.setattr(scored_rows, "_sleep", wait)
    status, out, err = command("monitor", made_bundle.path, rows, "--follow")
    assert status == 3
    assert err.count("alarm at row") == 1
    assert "(late.png): likely changed from row" in err
    assert "the file was truncated or replaced: it is read anew, with a new bag" in err
    assert "rows    263" in out
    assert "a new bag begins at row 261: file begun anew" in out


def test_a_follower_that_saw_nothing_ends_well(
    made_bundle: Bundle, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scored_rows, "_sleep", stop)
    (tmp_path / "rows.csv").touch()
    status, out, err = command("monitor", made_bundle.path, tmp_path / "rows.csv", "--follow")
    assert (status, err) == (0, "")
    assert "now     no row was tested yet" in out


def test_bad_rows_are_counted(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("path,score,error\n" + "a,20,\n" * 30 + "b,,broken\nc,inf,\nd,x,\n", "utf-8")
    status, out, _ = command("monitor", made_bundle.path, file, "--burn-in", 5)
    assert status in (0, 3)
    assert ", 1 with an error, 1 not finite, 1 malformed" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--burn-in", "5", "--calibration", "x"], "--burn-in and --calibration both say what the bag begins with"),
        (["--burn-in", "0"], "must be a whole number of at least 1"),
        (["--every", "0"], "must be a whole number of at least 1"),
        (["--level", "2"], "level must be a number in (0, 1)"),
        (["--standing", "0"], "standing must be a number in [1"),
        (["--seed", "-1"], "seed must be an integer of at least 0"),
        (["--out", "drift.txt"], "--out names a picture that ends in .png, .svg, .pdf, got 'drift.txt'"),
        (["--burn-in", "500"], "200 rows with a score are all burn-in (500)"),
        (["--calibration", "gone.csv"], "gone.csv"),
        (["--data.root", "x"], "unknown option --data.root"),
    ],
)
def test_odd_arguments_are_refused(
    words: list[str], line: str, made_bundle: Bundle, rows: Path, command: Command
) -> None:
    status, out, err = command("monitor", made_bundle.path, rows, *words)
    assert (status, out) == (2, "")
    assert line in err


def test_rows_of_nothing_are_refused(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("path,score,error\na,,broken\n", "utf-8")
    assert "no row has a score (1 with an error)" in command("monitor", made_bundle.path, file).err
    status, _, err = command("monitor", made_bundle.path, file, "--calibration", file)
    assert status == 2
    assert "gives no score: name rows with scores, or images that can be read" in err


def test_large_numbers_are_shown_by_their_power() -> None:
    assert [monitor._power(each) for each in (0.0, 2.5, -3.0, 27.16, -400.0)] == [
        "1",
        "316",
        "0.001",
        "10^27.2",
        "10^-400.0",
    ]
