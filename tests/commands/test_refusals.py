"""The table of refusals, case by case, and what they leave. `scripts/refusals.py` prints the same table."""

import contextlib
import csv
import shlex
from pathlib import Path

import pytest

from lit_od.cli import main
from tests.support.images import ASSETS
from tests.support.once import made_once
from tests.support.refusals.case import Case, Run, carry_out, contents, make_shelf
from tests.support.refusals.makers import full, nothing
from tests.support.refusals.table import CASES


@pytest.fixture(scope="session")
def shelf(of_all: Path) -> Path:
    """A run and a bundle, and the images and the recipe that they were made from; tests copy them."""

    def run(words: list[str], folder: Path) -> tuple[int, str, str]:
        with contextlib.chdir(folder):
            return main(words), "", ""

    return made_once(of_all / "shelf", lambda folder: make_shelf(folder, run))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `lit-od` in this process."""

    def run_in(words: list[str], folder: Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with contextlib.chdir(folder):
            status = main(words)
        return (status, *capsys.readouterr())

    return run_in


def parameter(case: Case) -> object:
    """Cases that export a network before they can be refused take seconds each: left to the long run."""
    works = case.words[0] in ("fit", "export") and case.bad in ("--out is inside a file", "a full disk")
    marks = [pytest.mark.slow] if works or "constant feature" in case.bad else []
    return pytest.param(case, id=f"{case.bad}: {shlex.join(case.words)}", marks=marks)


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_a_case_of_the_table(case: Case, shelf: Path, tmp_path: Path, run: Run) -> None:
    assert carry_out(case, shelf, tmp_path, run).problems == []


def test_the_table_can_fail(shelf: Path, tmp_path: Path) -> None:
    """A command that chatters, writes, changes files and ends otherwise is found out."""

    def ill(words: list[str], folder: Path) -> tuple[int, str, str]:
        (folder / "half").touch()
        (folder / "r.yaml").write_text("changed")
        return 1, "", "Traceback (most recent call last):\n  ...\nKeyError: 1\n"

    case = Case("recipe", "nothing", ["train", "r.yaml"], "a line", nothing)
    problems = "; ".join(carry_out(case, shelf, tmp_path, ill).problems)
    for problem in ("a traceback", "3 lines", "status 1 instead of 2", "no 'a line'", "r.yaml changed", "half left"):
        assert problem in problems


def test_what_was_scored_before_the_disk_was_full_stays(shelf: Path, tmp_path: Path, run: Run) -> None:
    images = f"{ASSETS}/digits.npz:test_images"
    assert run(["score", str(shelf / "bundle"), images, "--out", "all.csv"], tmp_path)[0] == 0
    with full(tmp_path, 16_384):
        status, _, err = run(["score", str(shelf / "bundle"), images, "--out", "full/rows.csv"], tmp_path)
        kept = (tmp_path / "full" / "rows.csv").read_text()
    assert (status, err.count("\n")) == (2, 1)
    assert len(kept) > 8000
    assert (tmp_path / "all.csv").read_text().startswith(kept)
    *whole, _ = csv.DictReader(kept.splitlines())
    assert all(row["score"] for row in whole)


def test_an_old_list_outlives_a_full_disk(shelf: Path, tmp_path: Path, run: Run) -> None:
    words = ["check", str(shelf / "images"), "--out", "full"]
    with full(tmp_path, 4096):
        (tmp_path / "full" / "clean.csv").write_text("path,label\nold.png,\n")
        before = contents(tmp_path)
        assert run(words, tmp_path)[0] == 2
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("score", "{bundle}", "{images}", "--out", "{bundle}/rows.csv"),
        ("score", "{bundle}", "{images}", "--maps", "{bundle}/maps"),
        ("report", "{bundle}", "--inliers", "{images}", "--outliers", "x={images}", "--out", "{bundle}/page.html"),
        ("compile", "{bundle}", "--out", "{bundle}/backbone.onnx"),
        ("refit", "{bundle}", "{images}", "--out", "{bundle}/nested"),
    ],
)
def test_nothing_is_written_into_the_folder_of_a_bundle(words, own_bundle, digit_files, command) -> None:
    before = {file.name: file.read_bytes() for file in own_bundle.iterdir()}
    status, _, err = command(*(word.format(bundle=own_bundle, images=digit_files) for word in words))
    assert status == 2
    assert "lies in the folder of a bundle, which holds nothing else" in err
    assert {file.name: file.read_bytes() for file in own_bundle.iterdir()} == before
