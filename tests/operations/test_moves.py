"""Files moved out of a watched folder by their verdict."""

import errno
from pathlib import Path

import pytest

from lit_od.errors import ConfigError
from lit_od.images.folder_walk import version_of
from lit_od.operations.moves import Moves, require_apart


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/a.png", "b.png"):
        (tmp_path / "in" / name).write_text(name)
    return tmp_path / "in"


def move(moves: Moves, kind: str, file: Path) -> None:
    """Move a file in the version that it has."""
    moves.move(kind, file, version_of(file.stat()) if file.exists() else (0, 0))


def test_files_of_a_kind_are_moved_with_their_folders_and_none_is_replaced(source: Path, tmp_path: Path) -> None:
    moves = Moves(source)
    moves.add(f"outliers={tmp_path}/out")
    for name in ("a.png", "deep/a.png"):
        move(moves, "outliers", source / name)
    move(moves, "inliers", source / "b.png")
    (source / "a.png").write_text("again")
    move(moves, "outliers", source / "a.png")
    move(moves, "outliers", source / "gone.png")
    found = {str(file.relative_to(tmp_path)): file.read_text() for file in tmp_path.rglob("*.png")}
    assert found == {
        "out/a.png": "a.png",
        "out/a-1.png": "again",
        "out/deep/a.png": "deep/a.png",
        "in/b.png": "b.png",
    }
    assert moves.failed == 0


def test_a_file_moves_to_another_file_system_whole(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def across(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", across)
    moves = Moves(source, {"errors": tmp_path / "out"})
    move(moves, "errors", source / "a.png")
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [("a.png", "a.png")]
    assert not (source / "a.png").exists()


def test_a_file_that_was_replaced_since_it_was_scored_stays(source: Path, tmp_path: Path) -> None:
    moves = Moves(source, {"outliers": tmp_path / "out"})
    scored = version_of((source / "a.png").stat())
    (source / "a.png").write_text("another image")
    moves.move("outliers", source / "a.png", scored)
    assert (source / "a.png").read_text() == "another image"
    assert (moves.failed, (tmp_path / "out").exists()) == (0, False)


def test_a_link_that_is_moved_leads_where_it_led(source: Path, tmp_path: Path) -> None:
    (source / "link.png").symlink_to(Path("deep", "a.png"))
    move(Moves(source, {"outliers": tmp_path / "out"}), "outliers", source / "link.png")
    assert (tmp_path / "out" / "link.png").read_text() == "deep/a.png"
    assert (source / "deep" / "a.png").exists()
    assert not (source / "link.png").is_symlink()


def test_a_file_that_cannot_be_moved_stays_and_is_counted(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").write_text("a file where the folder would be")
    moves = Moves(source, {"outliers": tmp_path / "out"})
    move(moves, "outliers", source / "a.png")
    assert (source / "a.png").exists()
    assert moves.failed == 1
    assert "a.png stays:" in caplog.text


@pytest.mark.parametrize("word", ["", "outliers", "outliers=", "others=x", "=x"])
def test_any_other_word_is_refused(source: Path, word: str) -> None:
    with pytest.raises(ConfigError, match="--move takes outliers=DIR, inliers=DIR, errors=DIR, got"):
        Moves(source).add(word)


def test_a_kind_has_one_folder(source: Path, tmp_path: Path) -> None:
    moves = Moves(source)
    moves.add(f"outliers={tmp_path}/one")
    with pytest.raises(ConfigError, match="names a folder for outliers twice"):
        moves.add(f"outliers={tmp_path}/two")


def test_a_folder_within_the_watched_one_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would be scored again"):
        Moves(source).add(f"outliers={source}/out")
    (tmp_path / "link").symlink_to(source / "deep")
    with pytest.raises(ConfigError, match="--maps"):
        require_apart("--maps", tmp_path / "link" / "maps", source)
    require_apart("--maps", tmp_path / "in beside", source)
