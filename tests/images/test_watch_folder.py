"""Files that arrive in a folder: each once, when it is whole."""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lit_od.errors import DataError
from lit_od.images import watch_folder
from lit_od.images.watch_folder import FolderWatch, is_remote

SETTLE = 0.1


class Watched:
    """A folder that is watched, and the names of its files that are done."""

    def __init__(self, folder: Path, poll: float | None) -> None:
        self.done: set[tuple[str, tuple[int, int]]] = set()
        self.stop = threading.Event()
        self.watch = FolderWatch(folder, lambda key, version: (key, version) in self.done, settle=SETTLE, poll=poll)
        self.arrivals = self.watch.arrivals(self.stop)
        self.names: list[str] = []

    def look(self, seconds: float = 10.0, until: int = 1) -> list[str]:
        """Names of the files that arrive, until there are enough or the time is over."""
        found: list[str] = []
        end = time.monotonic() + seconds
        while len(found) < until and time.monotonic() < end:
            for file in next(self.arrivals):
                self.done.add((file.key, file.version))
                found.append(file.name)
        return found

    def look_for(self, *names: Path) -> None:
        """See that these files arrive, and no other."""
        assert self.look(10, len(names)) == [str(name) for name in names]
        assert self.look(3 * SETTLE) == []


@pytest.fixture(params=["polled", "noticed"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    if request.param == "noticed":
        pytest.importorskip("watchfiles")
    folder = Watched(tmp_path, 0.01 if request.param == "polled" else None)
    if request.param == "noticed" and folder.watch.poll is not None:
        pytest.skip("the temporary folder lies on a share")
    yield folder
    folder.stop.set()
    assert list(folder.arrivals) == []


def test_each_file_arrives_once_and_again_when_it_is_replaced(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"old")
    watched.look_for(tmp_path / "old.png")
    (tmp_path / "new.png").write_bytes(b"new")
    (tmp_path / "notes.txt").write_bytes(b"no image")
    (tmp_path / ".hidden.png").write_bytes(b"hidden")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "in.png").write_bytes(b"hidden")
    watched.look_for(tmp_path / "new.png")
    (tmp_path / "old.png").write_bytes(b"replaced")
    watched.look_for(tmp_path / "old.png")


def test_files_that_are_moved_in_arrive_with_their_folder(watched: Watched, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    (outside / "b").mkdir(parents=True)
    (outside / "b" / "1.png").write_bytes(b"1")
    assert watched.look(seconds=0.2) == []
    outside.rename(tmp_path / "a")
    watched.look_for(tmp_path / "a" / "b" / "1.png")


def test_a_file_that_grows_arrives_when_it_has_ended(watched: Watched, tmp_path: Path) -> None:
    with (tmp_path / "slow.png").open("wb") as file:
        for _ in range(4):
            time.sleep(SETTLE)
            file.write(b"more")
            file.flush()
            assert next(watched.arrivals) == []
    watched.look_for(tmp_path / "slow.png")
    assert next(iter(watched.done))[1][0] == 16


def test_files_arrive_in_the_order_in_which_they_were_changed(tmp_path: Path) -> None:
    for number, name in enumerate("cab"):
        (tmp_path / f"{name}.png").touch()
        os.utime(tmp_path / f"{name}.png", (1000 + number, 1000 + number))
    assert Watched(tmp_path, 0.01).look(until=3) == [str(tmp_path / f"{name}.png") for name in "cab"]


def test_a_file_that_cannot_be_read_has_a_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_folder, "SECOND_TRY", 0.3)
    (tmp_path / "half.png").write_bytes(b"half")
    watch = FolderWatch(tmp_path, lambda key, version: False, settle=0, poll=0.01)
    arrivals = watch.arrivals(threading.Event())
    (file,) = next(files for files in arrivals if files)
    began = time.monotonic()
    assert watch.again(file)
    (file,) = next(files for files in arrivals if files)
    assert time.monotonic() - began >= 0.3
    assert not watch.again(file)
    assert watch.again(file)  # of a file with the name that comes later
    (tmp_path / "half.png").unlink()
    time.sleep(0.3)
    assert [next(arrivals) for _ in range(3)] == [[], [], []]


def test_a_folder_that_goes_away_is_told_once_and_looked_at_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    watched = Watched(folder, 0.01)
    (folder / "a.png").touch()
    watched.look_for(folder / "a.png")
    shutil.move(folder, tmp_path / "away")
    assert watched.look(seconds=0.1) == []
    assert len(caplog.messages) == 1
    assert "No such file" in caplog.text
    shutil.move(tmp_path / "away", folder)
    (folder / "b.png").touch()
    watched.look_for(folder / "b.png")


@pytest.mark.skipif(find_spec("watchfiles") is None, reason="watchfiles is not installed")
def test_a_folder_of_which_the_system_tells_nothing_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> Iterator[None]:
        raise OSError("limit on the total number of inotify watches reached")
        yield

    monkeypatch.setattr("watchfiles.watch", refuse)
    monkeypatch.setattr(watch_folder, "POLL", 0.01)
    monkeypatch.setattr(watch_folder, "is_remote", lambda folder: False)
    (tmp_path / "a.png").touch()
    assert Watched(tmp_path, None).look() == [str(tmp_path / "a.png")]
    assert caplog.record_tuples[0][1] == logging.WARNING
    assert "inotify watches reached" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
@pytest.mark.parametrize("name", ["in", os.fsdecode(b"\xff")])
def test_names_that_are_no_unicode_arrive(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_folder, "POLL", 0.01)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.png").touch()
    watched = Watched(folder, None)
    watched.look_for(folder / "a.png")
    (folder / os.fsdecode(b"b\xff.png")).touch()
    watched.look_for(folder / os.fsdecode(b"b\xff.png"))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        FolderWatch(tmp_path / "none", lambda key, version: False)


def test_shares_are_told_from_disks(tmp_path: Path) -> None:
    (tmp_path / "on the share" / "deep").mkdir(parents=True)
    (tmp_path / "on the share" / "disk").mkdir()
    place = str(tmp_path).replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        f"40 22 0:40 / {place}/on\\040the\\040share rw shared:7 master:1 - nfs4 server:/x rw\n"
        f"41 40 8:2 / {place}/on\\040the\\040share/disk rw - xfs /dev/sdb rw\n"
    )
    assert is_remote(tmp_path / "on the share" / "deep", table)
    assert not is_remote(tmp_path / "on the share" / "disk", table)
    assert not is_remote(tmp_path, table)
    assert not is_remote(tmp_path, tmp_path / "no table")
