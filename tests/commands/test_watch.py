"""`lit-od watch`: each image has its row once, also when it is killed, and it ends in order."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from lit_od.images import watch_folder
from lit_od.images.find_local import find
from lit_od.images.folder_walk import version_of
from lit_od.operations.row_log import Row, RowLog
from lit_od.scoring.rows import COLUMNS

Command = Callable[..., Any]
needs_av = pytest.mark.skipif(find_spec("av") is None, reason="PyAV is not installed")


@pytest.fixture
def incoming(digit_files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digit_files, tmp_path / "in"))


def watching(*words: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "lit_od.cli", "watch", *map(str, words)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def wait_for(count: int, file: Path) -> None:
    """Wait until a file has so many rows."""
    end = time.monotonic() + 20
    while (not file.exists() or len(file.read_bytes().splitlines()) <= count) and time.monotonic() < end:
        time.sleep(0.005)


def interrupted(seen: Callable[[], bool]) -> None:
    """Have this process get Ctrl-C once something is seen."""

    def interrupt() -> None:
        end = time.monotonic() + 20
        while not seen() and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()


def test_a_folder_while_it_is_killed_and_started(made_bundle: Bundle, incoming: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    words = (made_bundle.path, incoming, "--out", out, "--settle", 0, "--poll", 0.01, "--batch-size", 2, "--threads", 1)
    process = watching(*words)
    wait_for(10, out)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(rows_of(out)) >= 10
    (incoming / "broken.png").touch()  # it is given a second try, and left to the next start
    process = watching(*words)
    wait_for(40, out)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert err.splitlines()[0] == f"lit-od: watching {incoming}, every 0.01 s; Ctrl-C ends it"
    assert "images scored" in err.splitlines()[1]
    want = Scorer.load(made_bundle.path).score(
        [source.name for source in find([incoming]) if "broken" not in source.name]
    )
    found = {row["path"]: float(row["score"]) for row in rows_of(out)}
    assert len(rows_of(out)) == 40
    assert found == pytest.approx(dict(zip(want.name, want.score.tolist(), strict=True)), rel=1e-6)


def test_ctrl_c_ends_it_with_status_1_where_an_image_could_not_be_read(
    made_bundle: Bundle, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_folder, "SECOND_TRY", 0.05)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").touch()
    out = tmp_path / "rows.jsonl"

    interrupted(lambda: out.exists() and out.stat().st_size > 0)
    came = command("watch", made_bundle.path, tmp_path / "in", "--out", out, "--settle", 0)
    assert came.status == 1
    assert json.loads(out.read_text())["error"] == "empty file"
    last = "lit-od: 0 images scored, 0 outliers; 1 could not be read; their rows say why"
    assert came.err.splitlines()[1:] == [last]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_killed_watch_has_not_moved_is_moved_by_the_next(
    made_bundle: Bundle, incoming: Path, tmp_path: Path, command: Command
) -> None:
    files = sorted(incoming.rglob("*.png"))
    out, moved = tmp_path / "rows.csv", tmp_path / "out"
    log = RowLog(out, "csv", COLUMNS)
    log.write(
        [
            Row((str(file), 9.0, 0.01, number == 1, None), str(file), version_of(file.stat()), kind)
            for number, file in enumerate(files)
            for kind in ["outliers" if number == 1 else "inliers"]
        ]
    )
    log.close(whole=False)
    interrupted(lambda: moved.exists())
    came = command("watch", made_bundle.path, incoming, "--out", out, "--move", f"outliers={moved}", "--poll", 0.01)
    assert came.status == 0
    assert [file.name for file in moved.rglob("*.png")] == [files[1].name]
    assert len(rows_of(out)) == 40


@needs_av
def test_a_video_file_with_maps_and_a_second_start(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    from tests.support.videos import write_video

    write_video(tmp_path / "film.mp4", 12)
    words = ("watch", made_bundle.path, tmp_path / "film.mp4", "--threads", 1)
    out = tmp_path / "rows.csv"
    first = command(*words, "--every", 4, "--out", out, "--maps", tmp_path / "maps")
    assert (first.status, first.out) == (0, "")
    assert first.err.splitlines()[-1].startswith("lit-od: 3 frames scored")
    assert [(row["frame"], row["time"]) for row in rows_of(out)] == [("0", "0.0"), ("4", "0.4"), ("8", "0.8")]
    second = command(*words, "--every", 2, "--out", out, "--maps", tmp_path / "maps")
    assert second.status == 0
    assert [row["frame"] for row in rows_of(out)] == ["0", "4", "8", "2", "6", "10"]
    drawn = rows_of(tmp_path / "maps" / "maps.csv")
    assert [row["path"] for row in drawn] == [row["path"] for row in rows_of(out)]
    assert len({row["map"] for row in drawn}) == 6
    assert all((tmp_path / "maps" / row["map"]).is_file() for row in drawn)
    printed = command(*words, "--every", 4, "--format", "jsonl")
    assert [json.loads(line)["frame"] for line in printed.out.splitlines()] == [0, 4, 8]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none.mp4"], "none.mp4 does not exist: wanted a folder, a video file"),
        (["in", "--every", "2"], "--every chooses among frames"),
        (["in/0.png"], "is an image: lit-od score takes it"),
        (["film.mp4", "--move", "outliers=out"], "--move goes with a folder, and film.mp4 is none"),
        (["film.mp4", "--settle", "0"], "--settle goes with a folder"),
        (["in", "--settle", "soon"], "must be a number of seconds from 0 to 86400, got 'soon'"),
        (["in", "--outliers-only"], "--outliers-only goes with --maps, --exec or --post"),
        (["in", "--maps", "in/maps"], "--maps in/maps lies in in, where its files would be scored again"),
        (["in", "--move", "outliers=in/out"], "--move in/out lies in in"),
        (["in", "--move", "outliers=BUNDLE"], "lies in the folder of a bundle"),
        (["in", "--exec", "no-such-program"], "there is no such program"),
        (["in", "--post", "x"], "is no URL that rows can be posted to"),
        (["in", "--out", "old.csv"], "--out old.csv holds rows already"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    words: list[str],
    line: str,
    made_bundle: Bundle,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    digit_files: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    shutil.copy(next(digit_files.rglob("*.png")), "in/0.png")
    Path("film.mp4").touch()
    Path("old.csv").write_text("path,score,p_value,is_outlier,error\n")
    before = sorted(tmp_path.rglob("*"))
    came = command("watch", made_bundle.path, *(word.replace("BUNDLE", str(made_bundle.path)) for word in words))
    assert came.status == 2
    assert came.out == ""
    assert line in came.err
    assert len(came.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
