"""A folder in the place of another: the old or the new one is there, whole, at whatever moment it ends."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lit_od.errors import ConfigError
from lit_od.formats import atomic as folders
from lit_od.formats.atomic import atomic_file, atomic_folder, read_whole, recover, require_writable


class Crash(BaseException):
    """The process ends here: nothing after it is carried out, cleaning up neither."""


def anything(target: Path) -> None:
    """Every folder may be replaced."""


def write(target: Path, text: str) -> None:
    with atomic_folder(target, replaceable=anything) as folder:
        (folder / "content").write_text(text)


def read(target: Path) -> str:
    return (target / "content").read_text()


@pytest.fixture(params=["exchange", "fallback"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's exchange of two folders, and as on systems that have none."""
    if request.param == "fallback":
        monkeypatch.setattr(folders, "_rename_exchange", lambda one, other: False)


@pytest.mark.usefixtures("both_ways")
def test_a_folder_is_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "target"
    write(target, "old")
    assert read(target) == "old"
    (target / "extra").touch()
    write(target, "new")
    assert read(target) == "new"
    assert [entry.name for entry in target.iterdir()] == ["content"]
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux'")
def test_two_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "content").write_text("1")
    (other / "content").write_text("2")
    assert folders._rename_exchange(one, other)
    assert (read(one), read(other)) == ("2", "1")
    with pytest.raises(FileNotFoundError):
        folders._rename_exchange(one, tmp_path / "missing")


def test_systems_without_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not folders._rename_exchange(tmp_path, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(folders.ctypes, "CDLL", lambda *args, **kwargs: object())  # a C library of old
    assert not folders._rename_exchange(tmp_path, tmp_path)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def spoiled(target: Path) -> None:
        with atomic_folder(target, replaceable=anything) as folder:
            (folder / "content").write_text("half")
            raise error

    with pytest.raises(error):
        spoiled(tmp_path / "free")
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "target", "old")
    with pytest.raises(error):
        spoiled(tmp_path / "target")
    assert read(tmp_path / "target") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_what_must_not_be_replaced_is_asked_for_before_and_after(tmp_path: Path) -> None:
    def never(target: Path) -> None:
        raise ValueError(f"{target.name} stays")

    def late(target: Path) -> None:
        with atomic_folder(target, replaceable=never) as folder:
            (folder / "content").write_text("new")
            target.mkdir()  # somebody else's, made meanwhile
            (target / "precious").touch()

    write(tmp_path / "target", "old")
    with pytest.raises(ValueError, match="target stays"), atomic_folder(tmp_path / "target", replaceable=never):
        raise AssertionError("the block must not begin")
    assert read(tmp_path / "target") == "old"
    with pytest.raises(ValueError, match="late stays"):
        late(tmp_path / "late")
    assert [entry.name for entry in (tmp_path / "late").iterdir()] == ["precious"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["late", "target"]


def test_a_crash_between_the_two_renames_is_mended_by_recover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    write(target, "old")
    rename = Path.rename

    def last(self: Path, to: Path) -> Path:
        rename(self, to)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(folders, "_rename_exchange", lambda one, other: False)
        patched.setattr(Path, "rename", last)
        patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Crash):
            write(target, "new")
    assert not target.exists()
    recover(target)
    assert read(target) == "old"
    recover(target)
    assert read(target) == "old"
    write(target, "newer")
    assert read(target) == "newer"


def test_the_next_writer_recovers_too(tmp_path: Path) -> None:
    target, aside = tmp_path / "target", tmp_path / ".target.lit-od-old"
    write(aside, "old")
    asked = []
    with atomic_folder(target, replaceable=asked.append) as folder:
        assert read(target) == "old"
        (folder / "content").write_text("new")
    assert asked == [target, target]
    assert read(target) == "new"
    assert not aside.exists()


def test_a_second_rename_that_fails_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    write(target, "old")
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if ".lit-od-new-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(folders, "_rename_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(target, "new")
    assert read(target) == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_the_old_folder_outlives_a_rename_that_cannot_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    write(target, "old")
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if to == target:
            raise OSError(5, "Input/output error")
        return rename(self, to)

    with monkeypatch.context() as patched:
        patched.setattr(folders, "_rename_exchange", lambda one, other: False)
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output error"):
            write(target, "new")
    assert not target.exists()
    recover(target)
    assert read(target) == "old"


def test_a_reader_between_the_two_renames_waits_for_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recovery would take the writer's place."""
    target, found = tmp_path / "target", list[str]()
    write(target, "old")

    def reader() -> None:
        recover(target)
        found.append(read(target))

    reading, rename = threading.Thread(target=reader), Path.rename

    def between(self: Path, to: Path) -> Path:
        if to == target:
            reading.start()
            reading.join(0.2)
        return rename(self, to)

    monkeypatch.setattr(folders, "_rename_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", between)
    write(target, "new")
    reading.join()
    assert found == ["new"]
    assert read(target) == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


@pytest.mark.usefixtures("both_ways")
def test_what_is_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    target, texts = tmp_path / "target", ["2", "3"]
    write(target, "1")

    def reader() -> str:
        found = read(target)
        if texts:
            write(target, texts.pop(0))
            raise KeyError("two folders")
        return found

    assert read_whole(target, reader, failure=KeyError) == "3"


def test_a_failure_of_a_folder_that_stays_is_raised_at_once(tmp_path: Path) -> None:
    tries = []

    def reader() -> str:
        tries.append(1)
        raise KeyError("damaged")

    for there in (False, True):
        if there:
            write(tmp_path / "target", "1")
        with pytest.raises(KeyError, match="damaged"):
            read_whole(tmp_path / "target", reader, failure=KeyError)
    assert len(tries) == 2


def test_a_folder_that_is_replaced_for_ever_is_given_up(tmp_path: Path) -> None:
    tries = []

    def reader() -> str:
        tries.append(1)
        write(tmp_path / "target", "again")
        raise KeyError("two folders")

    with pytest.raises(KeyError, match="two folders"):
        read_whole(tmp_path / "target", reader, failure=KeyError)
    assert len(tries) == folders.MOST_READS


def test_recover_leaves_a_folder_that_is_there(tmp_path: Path) -> None:
    write(tmp_path / "target", "new")
    write(tmp_path / ".target.lit-od-old", "old")
    recover(tmp_path / "target")
    assert read(tmp_path / "target") == "new"
    recover(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def held(folder: Path) -> subprocess.Popen[bytes]:
    """A process that fills a folder beside the target, and does not come to an end."""
    code = (
        "import sys, time; from pathlib import Path; from lit_od.formats.atomic import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), replaceable=print) as fresh:\n"
        "    (fresh / 'content').write_text('half'); print(fresh, flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline().startswith(os.fsencode(folder.parent))
    return writer


def test_what_a_killed_writer_leaves_is_swept_and_what_another_writes_is_not(tmp_path: Path) -> None:
    others = [".other.lit-od-new-abc", "target.lit-od-new-abc", ".target.lit-od-newer"]
    for name in others:
        (tmp_path / name).mkdir()
    with held(tmp_path / "target") as writer:
        (kept,) = {entry.name for entry in tmp_path.iterdir()} - {*others}
        write(tmp_path / "target", "new")
        assert {entry.name for entry in tmp_path.iterdir()} == {"target", kept, *others}
        writer.kill()
        writer.wait()
    assert {entry.name for entry in tmp_path.iterdir()} == {"target", kept, *others}
    write(tmp_path / "target", "newer")
    assert {entry.name for entry in tmp_path.iterdir()} == {"target", *others}
    assert read(tmp_path / "target") == "newer"


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = folders._lock, []

    def late(folder: Path) -> int | None:
        seen.append(folder)
        if len(seen) == 1:
            folder.rmdir()
        if len(seen) == 2:
            raise BlockingIOError  # a sweeper holds it
        handle = lock(folder)
        if len(seen) == 3:
            folder.rmdir()
        return handle

    monkeypatch.setattr(folders, "_lock", late)
    write(tmp_path / "target", "new")
    assert len(set(seen)) == 4
    assert read(tmp_path / "target") == "new"


@pytest.mark.parametrize("without", ["module", "file system"])
def test_without_locks_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(9, "Bad file descriptor")

    left = tmp_path / ".target.lit-od-new-abc"
    left.mkdir()
    monkeypatch.setattr(*((folders, "_FCNTL", None) if without == "module" else (folders._FCNTL, "flock", refuse)))
    write(tmp_path / "target", "new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"target", left.name}


def test_what_was_left_aside_is_removed_once_its_successor_is_there(tmp_path: Path) -> None:
    write(tmp_path / "target", "new")
    write(tmp_path / ".target.lit-od-old", "old")
    write(tmp_path / "target", "newer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


# Files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def spoiled() -> None:
        with atomic_file(file) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        spoiled()
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with atomic_file(file) as partial:
            partial.write_text(text)
            assert not file.exists() or file.read_text() == "old"
        assert file.read_text() == text
    with pytest.raises(KeyError):
        spoiled()
    assert file.read_text() == "new"
    (tmp_path / "link").symlink_to(file)
    with atomic_file(tmp_path / "link") as partial:
        partial.write_text("by a link")
    assert (tmp_path / "link").is_symlink()
    assert file.read_text() == "by a link"
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "link"}


# Places


def test_a_place_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for good in (tmp_path, tmp_path / "free", tmp_path / "deep" / "er"):
        require_writable(good)
    with pytest.raises(ConfigError, match=r"file is a file: name a folder$"):
        require_writable(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"file/a/b lies inside .*/file, which is a file: name a folder$"):
        require_writable(tmp_path / "file" / "a" / "b")
    monkeypatch.chdir(tmp_path)
    require_writable(Path("free"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"^free cannot be written: the folder .* is read-only\. Name another$"):
        require_writable(Path("free"))


# Links and bare names


@pytest.mark.usefixtures("both_ways")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "store" / "real", tmp_path / "link"
    write(real, "old")
    link.symlink_to(real)
    write(link, "new")
    assert link.is_symlink()
    assert read(real) == read(link) == "new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "store"]
    assert [entry.name for entry in real.parent.iterdir()] == ["real"]


def test_recover_follows_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "store" / "real", tmp_path / "link"
    write(tmp_path / "store" / ".real.lit-od-old", "old")
    link.symlink_to(real)
    recover(link)
    assert read(link) == "old"


def test_a_folder_beside_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("target"), "new")
    assert read(tmp_path / "target") == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device or a pipe"), atomic_file(tmp_path / "pipe") as partial:
        partial.write_text("x")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
