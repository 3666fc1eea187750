"""Files moved out of a watched folder by their verdict."""

import errno
from pathlib import Path

import pytest

from lit_od.errors import ConfigError
from lit_od.operations.moves import Moves, require_apart


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/a.png", "b.png"):
        (tmp_path / "in" / name).write_text(name)
    return tmp_path / "in"


def test_files_of_a_kind_are_moved_with_their_folders_and_none_is_replaced(source: Path, tmp_path: Path) -> None:
    moves = Moves(source)
    moves.add(f"outliers={tmp_path}/out")
    for name in ("a.png", "deep/a.png"):
        moves.move("outliers", source / name)
    moves.move("inliers", source / "b.png")
    (source / "a.png").write_text("again")
    moves.move("outliers", source / "a.png")
    moves.move("outliers", source / "gone.png")
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
    moves.move("errors", source / "a.png")
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [("a.png", "a.png")]
    assert not (source / "a.png").exists()


def test_a_file_that_cannot_be_moved_stays_and_is_counted(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").write_text("a file where the folder would be")
    moves = Moves(source, {"outliers": tmp_path / "out"})
    moves.move("outliers", source / "a.png")
    assert (source / "a.png").exists()
    assert moves.failed == 1
    assert "a.png stays:" in caplog.text


@pytest.mark.parametrize("word", ["", "outliers", "outliers=", "others=x", "=x"])
def test_any_other_word_is_refused(source: Path, word: str) -> None:
    with pytest.raises(ConfigError, match="--move takes outliers=DIR, inliers=DIR, errors=DIR, got"):
        Moves(source).add(word)


def test_a_folder_within_the_watched_one_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would be scored again"):
        Moves(source).add(f"outliers={source}/out")
    (tmp_path / "link").symlink_to(source / "deep")
    with pytest.raises(ConfigError, match="--maps"):
        require_apart("--maps", tmp_path / "link" / "maps", source)
    require_apart("--maps", tmp_path / "in beside", source)
