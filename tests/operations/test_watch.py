"""The loop that scores what arrives: rows as the scorer gives them, and what follows from them."""

import csv
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.backbone.extractor import Extracted
from lit_od.bundle.folder import Bundle
from lit_od.images import watch_folder
from lit_od.images.sources import Source
from lit_od.images.video_place import Frame
from lit_od.images.watch_folder import ArrivedFile, FolderWatch
from lit_od.operations.deliveries import Deliveries
from lit_od.operations.moves import Moves
from lit_od.operations.row_log import PrintedRows
from lit_od.operations.watch import FRAME_COLUMNS, Arrival, Watch
from lit_od.scoring.result import COLUMNS


@pytest.fixture
def scorer(made_bundle: Bundle) -> Scorer:
    return Scorer.load(made_bundle.path, threads=1)


def rows_in(out: io.StringIO) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))


@pytest.fixture
def incoming(tmp_path: Path, digits: list[Source], garments: list[Source]) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, source in enumerate([*digits[1300:1305], *garments[:3]]):
        source.decode().save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    return folder


def watched(
    folder: Path, rows: PrintedRows, count: int
) -> tuple[FolderWatch, Iterator[list[Arrival]], threading.Event]:
    """A folder, its arrivals, and an event that is set after so many rows."""
    stop = threading.Event()
    watch = FolderWatch(folder, rows.known, settle=0, poll=0.01)

    def arrivals() -> Iterator[list[ArrivedFile]]:
        for found in watch.arrivals(stop):
            yield found
            if rows.count >= count:
                stop.set()

    return watch, arrivals(), stop


def test_a_folder_is_scored_moved_and_handed_on(
    scorer: Scorer, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_folder, "SECOND_TRY", 0.1)
    want = scorer.score(sorted(incoming.glob("?.png")))
    assert 0 < want.is_outlier.sum() < 8
    names = np.array([Path(name).name for name in want.name])
    out, taken = io.StringIO(), list[Any]()
    rows = PrintedRows(out, "csv", COLUMNS)
    folder, arrivals, stop = watched(incoming, rows, 9)
    way = Deliveries("test", taken.extend, at_once=10)
    moves = Moves(incoming, {"outliers": tmp_path / "out", "errors": tmp_path / "bad"})
    watch = Watch(scorer, rows, COLUMNS, folder, moves, [way], outliers_only=True)
    watch.run(arrivals, stop, batch_size=4)
    way.close()
    found = {Path(row["path"]).name: row for row in rows_in(out)}
    assert len(rows_in(out)) == len(found) == 9
    assert [float(found[name]["score"]) for name in names] == pytest.approx(want.score.tolist(), rel=1e-6)
    assert [float(found[name]["p_value"]) for name in names] == want.p_value.tolist()
    assert list(found)[-1] == "broken.png"  # it has had its second try
    assert "damaged" in found["broken.png"]["error"]
    assert (watch.scored, watch.outliers, watch.unreadable) == (8, want.is_outlier.sum(), 1)
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(names[want.is_outlier])
    assert [file.name for file in (tmp_path / "bad").iterdir()] == ["broken.png"]
    assert {file.name for file in incoming.iterdir()} == set(names[~want.is_outlier])
    assert {Path(row["path"]).name for row in taken} == set(names[want.is_outlier])
    assert all(row["is_outlier"] is True and list(row) == list(COLUMNS) for row in taken)


def test_a_file_that_becomes_whole_after_all_has_one_row_with_its_score(
    scorer: Scorer, incoming: Path, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_folder, "SECOND_TRY", 0.5)
    out = io.StringIO()
    rows = PrintedRows(out, "csv", COLUMNS)
    folder, arrivals, stop = watched(incoming, rows, 9)

    def mended() -> Iterator[list[Arrival]]:
        for found in arrivals:
            yield found
            if rows.count == 8:
                digits[0].decode().save(incoming / "broken.png", "PNG")

    Watch(scorer, rows, COLUMNS, folder).run(mended(), stop)
    assert [row["error"] for row in rows_in(out)] == [""] * 9


def test_frames_are_scored_with_their_number_and_time_and_drawn(scorer: Scorer, digits: list[Source]) -> None:
    pixels = [np.asarray(source.decode()) for source in digits[:5]]
    frames = [Frame(each, f"film#{n}", number=n, time=n / 10, key=f"film#{n}") for n, each in enumerate(pixels)]
    out, drawn, counts = io.StringIO(), list[tuple[int, list[bool]]](), list[int]()
    rows = PrintedRows(out, "jsonl", FRAME_COLUMNS)

    def draw(found: Extracted, chosen: np.ndarray) -> None:
        drawn.append((len(found.batch.sources), chosen.tolist()))

    watch = Watch(scorer, rows, FRAME_COLUMNS, draw=draw)
    watch.run([frames[:3], [], iter(frames[3:])], threading.Event(), batch_size=2, after=counts.append)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(row) for row in found] == [list(FRAME_COLUMNS)] * 5
    assert [(row["path"], row["frame"], row["time"]) for row in found] == [(f.name, f.number, f.time) for f in frames]
    assert [row["score"] for row in found] == pytest.approx(scorer.score(pixels).score.tolist(), rel=1e-6)
    assert drawn == [(2, [True, True]), (1, [True]), (2, [True, True])]
    assert counts == [2, 1, 2]


def test_the_batch_that_is_being_scored_when_it_is_stopped_is_written(scorer: Scorer, digits: list[Source]) -> None:
    stop, out = threading.Event(), io.StringIO()
    rows = PrintedRows(out, "csv", FRAME_COLUMNS)

    def endless() -> Iterator[Frame]:
        for number in range(10**9):
            if number == 50:
                stop.set()
            yield Frame(np.asarray(digits[0].decode()), f"film#{number}", number=number, time=0.0)

    watch = Watch(scorer, rows, FRAME_COLUMNS)
    watch.run([endless()], stop, batch_size=4)
    assert [row["frame"] for row in rows_in(out)] == [str(number) for number in range(rows.count)]
    assert rows.count % 4 == 0
    assert 4 <= rows.count <= 52
