import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good images, one of them with a newline in its name, and three that cannot be read."""
    images = tmp_path / "images"
    (images / "a class").mkdir(parents=True)
    for row, name in enumerate(("plain.png", "a class/line\nbreak.png", "naïve «ü».jpg")):
        Image.fromarray(np.full((8, 9), 40 * row, np.uint8)).save(images / name)
    (images / "empty.png").touch()
    (images / "text.jpg").write_text("no image")
    whole = (images / "plain.png").read_bytes()
    (images / "cut.png").write_bytes(whole[:45])
    return images


def test_check_lists_the_clean_and_the_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "lists"
    assert main(["check", str(folder), "--out", str(out)]) == 1
    assert "3 images can be read, 3 cannot" in capsys.readouterr().out
    with (out / "refused.csv").open(newline="", encoding="utf-8") as table:
        refused = {Path(row["path"]).name: row["error"] for row in csv.DictReader(table)}
    assert refused.keys() == {"empty.png", "text.jpg", "cut.png"}
    assert refused["empty.png"] == "empty file"
    with (out / "clean.csv").open(newline="", encoding="utf-8") as table:
        clean = {Path(row["path"]).name: row["label"] for row in csv.DictReader(table)}
    assert clean == {"plain.png": "", "line\nbreak.png": "a class", "naïve «ü».jpg": ""}


def test_the_clean_list_is_a_path(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "lists"
    main(["check", str(folder), "--out", str(out)])
    assert main(["check", str(out / "clean.csv")]) == 0
    assert "3 images can be read, 0 cannot" in capsys.readouterr().out


def test_images_without_a_file_are_counted_and_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.savez(tmp_path / "five.npz", images=np.zeros((5, 8, 9), np.uint8))
    assert main(["check", str(tmp_path / "five.npz"), "--out", str(tmp_path / "lists")]) == 0
    assert "5 images can be read, 0 cannot" in (told := capsys.readouterr().out)
    assert "clean.csv leaves out 5 images that have no file of their own" in told
    assert (tmp_path / "lists" / "clean.csv").read_text() == "path,label\n"


def test_names_are_no_commands_of_the_terminal_and_no_formulas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a\x1b[2J\x9b.png").touch()
    Path("=cmd.png").touch()
    assert main(["check", "=cmd.png", "a\x1b[2J\x9b.png", "--out", "lists"]) == 1
    told = capsys.readouterr().out
    assert "a\\x1b[2J\\x9b.png: empty file\n" in told
    assert "\x1b" not in told
    with Path("lists/refused.csv").open(newline="", encoding="utf-8") as table:
        assert [row["path"] for row in csv.DictReader(table)] == ["./=cmd.png", "a\x1b[2J\x9b.png"]


def test_duplicates_are_told_listed_and_counted_by_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("train/a", 0), ("train/b", 1), ("test/c", 2), ("test/d", 3)):
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).resize((64, 64))
        Path(name).parent.mkdir(exist_ok=True)
        image.save(f"{name}.png")
    shutil.copy("train/b.png", "test/=b.png")
    Image.open("train/a.png").transpose(Image.Transpose.ROTATE_90).save("test/a.bmp")
    assert main(["check", "train", "test", "--duplicates", "--out", "lists"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "a.bmp" not in line] == [
        "6 images can be read, 0 cannot",
        "6 compared: 1 have the pixels of an earlier one, 1 look like one",
        "  2 of test are in train",
        "train/a.png",
        "train/b.png",
        "  exact  test/=b.png  (0.00)",
        "lists: clean.csv, refused.csv, duplicates.csv",
    ]
    assert told[4].startswith("  near  test/a.bmp  (0.")
    with Path("lists/duplicates.csv").open(newline="") as table:
        rows = [(row["group"], row["path"], row["set"], row["kind"]) for row in csv.DictReader(table)]
    assert rows == [
        ("1", "train/a.png", "train", "first"),
        ("1", "test/a.bmp", "test", "near"),
        ("2", "train/b.png", "train", "first"),
        ("2", "test/=b.png", "test", "exact"),
    ]
    assert main(["check", "train", "test", "--duplicates", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["readable"], tree["refused"]) == (6, [])
    assert tree["between"] == [{"sets": ["train", "test"], "images": 2}]
    assert [row["path"] for row in tree["duplicates"]] == [path for _, path, _, _ in rows]


def test_the_distance_goes_with_duplicates(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(folder), "--distance", "2"]) == 2
    assert "--distance goes with --duplicates" in capsys.readouterr().err
    for distance in ("-1", "inf", "1e308"):
        assert main(["check", str(folder), "--duplicates", "--distance", distance]) == 2
        assert "--distance must be a number in [0, 255]" in capsys.readouterr().err
