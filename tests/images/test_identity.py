"""Images that serve twice: a file is refused, and a line tells of copies."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import DataError
from lit_od.images.find_local import find
from lit_od.images.identity import require_apart, require_once


def picture(file: Path, value: int) -> Path:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(file)
    return file


def test_a_file_in_both_sets_is_refused_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png", 1)
    (tmp_path / "link.png").symlink_to("a.png")
    for name in ("a.png", tmp_path / "a.png", "link.png"):
        with pytest.raises(DataError, match=r"\.png serves as both inlier and outlier: name each image once"):
            require_apart(find(["a.png"]), find([name]), "inlier and outlier")


def test_a_row_of_an_archive_in_both_sets_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((2, 4, 5), np.uint8))
    found = find([tmp_path / "x.npz"])
    with pytest.raises(DataError, match=r"x\.npz#1 serves as both"):
        require_apart(found, found[1:], "inlier and outlier")
    (tmp_path / "y.npz").symlink_to("x.npz")
    with pytest.raises(DataError, match=r"y\.npz#0 serves as both"):
        require_apart(found, find([tmp_path / "y.npz"]), "inlier and outlier")


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    """Opening one would wait for its writer."""
    pipes = [tmp_path / "a.png", tmp_path / "b.png"]
    for pipe in pipes:
        os.mkfifo(pipe)
    require_apart(find(pipes[:1]), find(pipes[1:]), "inlier and outlier")


def test_one_line_tells_of_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = find([picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2), tmp_path / "gone.png"])
    copies = find([picture(tmp_path / "c" / "d.png", 3), picture(tmp_path / "c" / "e.png", 2), tmp_path / "gone2.png"])
    require_apart(first, copies, "fit and calibration image")
    assert caplog.messages == [
        f"lit-od: copies of 1 images serve as both fit and calibration image: {tmp_path}/b.png and {tmp_path}/c/e.png"
    ]
    caplog.clear()
    require_apart(first, copies[:1], "fit and calibration image")
    assert caplog.messages == []


def test_each_image_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "x.npz", np.stack([np.full((4, 5), value, np.uint8) for value in (1, 2, 1)]))
    files = [picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)]
    (tmp_path / "link.png").symlink_to("a.png")
    require_once(find(files))
    assert caplog.messages == []
    for again in (tmp_path / "a.png", tmp_path / "link.png"):
        with pytest.raises(DataError, match=r"\.png is named twice: name each image once"):
            require_once([*find(files), *find([again])])
    rows = find([tmp_path / "x.npz"])
    with pytest.raises(DataError, match=r"x\.npz#2 is named twice"):
        require_once([*rows, rows[2]])
    require_once([*rows, *find([*files, picture(tmp_path / "c.png", 2)])])
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("lit-od: copies of 2 images fit the detector that scores them: ")
    assert "x.npz#0 and " in caplog.messages[0]
