"""`lit-od score`: a row an image, names that survive, statuses that tell."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from tests.support.images import ASSETS

COLUMNS = ["path", "score", "p_value", "is_outlier", "error"]
ODD_NAMES = [
    " two  spaces .png",
    'quote"s".png',
    "it's, comma;.png",
    "new\nline.png",
    "carriage\rreturn.png",
    "tab\t.png",
    "日本語.png",
    "русский ё.png",
    "=1+1.png",
    os.fsdecode(b"\xff\xfe not unicode.png"),
]

Command = Callable[..., Any]


def parsed(text: str, form: str) -> list[dict[str, Any]]:
    """The rows as a reader of the format gets them, values as Python's."""
    if form == "jsonl":
        return [json.loads(line) for line in text.split("\n") if line]
    values = {"": None, "true": True, "false": False}
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    for row in rows:
        row.update({name: float(row[name]) if row[name] else None for name in ("score", "p_value")})
        row["is_outlier"], row["error"] = values[row["is_outlier"]], row["error"] or None
    return rows


@pytest.fixture
def odd_files(tmp_path: Path, digits: list[Source]) -> Path:
    folder = tmp_path / "odd names"
    folder.mkdir()
    for name, source in zip(ODD_NAMES, digits, strict=False):
        with (folder / name).open("wb") as out:
            source.decode().save(out, "PNG")
    return folder


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_are_the_scorers_results(made_bundle: Bundle, digit_files: Path, command: Command, form: str) -> None:
    status, out, err = command("score", made_bundle.path, digit_files, "--format", form, "--threads", "2")
    assert (status, err) == (0, "")
    want = Scorer.load(made_bundle.path, threads=2).score([source.name for source in find([digit_files])])
    rows = parsed(out, form)
    assert [list(row) for row in rows] == [COLUMNS] * 40
    assert [row["path"] for row in rows] == want.name
    assert [row["score"] for row in rows] == want.score.tolist()
    assert [row["p_value"] for row in rows] == want.p_value.tolist()
    assert [row["is_outlier"] for row in rows] == want.is_outlier.tolist()
    assert all(row["error"] is None for row in rows)
    if form == "csv":
        assert out.startswith("path,score,p_value,is_outlier,error\n")
        assert "\r" not in out


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("to", ["stdout", "file"])
def test_names_survive(made_bundle: Bundle, odd_files: Path, tmp_path: Path, form: str, to: str) -> None:
    out = tmp_path / "rows"
    words = [sys.executable, "-m", "lit_od.cli", "score", str(made_bundle.path), str(odd_files), "--format", form]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    run = subprocess.run(
        words + (["--out", str(out)] if to == "file" else []), capture_output=True, check=True, env=environment
    )
    raw = out.read_bytes() if to == "file" else run.stdout
    rows = parsed(raw.decode("utf-8", "surrogateescape"), form)
    known = [name.encode(errors="backslashreplace").decode() if form == "jsonl" else name for name in ODD_NAMES]
    assert sorted(row["path"] for row in rows) == sorted(str(odd_files / name) for name in known)
    assert all(row["score"] is not None for row in rows)
    if to == "file":
        assert run.stdout == b""
    for row in rows:
        assert Path(row["path"]).is_file() or "\\udcff" in row["path"]
    if form == "jsonl":  # readers that are strict about Unicode read every line
        assert all(msgspec.json.decode(line) for line in raw.splitlines())


def test_standard_output_is_utf_8_whatever_the_terminals_encoding(made_bundle: Bundle, odd_files: Path) -> None:
    words = [sys.executable, "-m", "lit_od.cli", "score", str(made_bundle.path), str(odd_files)]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run(words, capture_output=True, check=True, env=environment)
    assert run.stderr == b""
    found = [row["path"] for row in parsed(run.stdout.decode("utf-8", "surrogateescape"), "csv")]
    assert sorted(found) == sorted(str(odd_files / name) for name in ODD_NAMES)


def test_a_path_is_no_formula_and_still_a_path(
    made_bundle: Bundle, tmp_path: Path, command: Command, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    formulas = ["=1+1.png", "+a.png", "@b.png"]
    for name in formulas:
        digits[0].decode().save(name)
    assert command("score", made_bundle.path, *formulas, "--out", "rows.csv").status == 0
    rows = parsed(Path("rows.csv").read_text(), "csv")
    assert [row["path"] for row in rows] == [f"./{name}" for name in formulas]
    again = parsed(command("score", made_bundle.path, "rows.csv").out, "csv")
    assert [(row["path"], row["score"]) for row in again] == [(row["path"], row["score"]) for row in rows]


def test_an_image_that_cannot_be_read_is_a_row_and_status_1(
    made_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command
) -> None:
    good = sorted(digit_files.rglob("*.png"))[:3]
    (tmp_path / "empty.png").touch()
    (tmp_path / "list.txt").write_text(
        "\n".join([str(good[0]), "gone, here.png", str(good[1]), "empty.png", str(good[2])])
    )
    status, out, err = command("score", made_bundle.path, tmp_path / "list.txt", "--batch-size", "2")
    assert status == 1
    assert err == "lit-od: 2 of 5 images could not be read; their rows say why\n"
    rows = parsed(out, "csv")
    assert [row["error"] for row in rows] == [None, "no such file", None, "empty file", None]
    assert rows[1] == {
        "path": str(tmp_path / "gone, here.png"),
        "score": None,
        "p_value": None,
        "is_outlier": None,
        "error": "no such file",
    }
    assert [row["score"] is None for row in rows] == [False, True, False, True, False]
    (tmp_path / "all.txt").write_text("a.png\nb.png\n")
    status, out, err = command("score", made_bundle.path, tmp_path / "all.txt", "--format", "jsonl")
    assert (status, err) == (1, "lit-od: 2 of 2 images could not be read; their rows say why\n")
    assert [row["error"] for row in parsed(out, "jsonl")] == ["no such file"] * 2


def test_every_path_form_on_one_line(
    made_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(digit_files.rglob("*.png"))
    (tmp_path / "a.txt").write_text(f"{files[0]}\n")
    (tmp_path / "b.csv").write_text(f'path\n"{files[1]}"\n')
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{files[2]}\n"))
    array = f"{ASSETS}/digits.npz:test_images:9"
    words = [tmp_path / "a.txt", tmp_path / "b.csv", "-", files[3], digit_files / "0", array]
    status, out, _ = command("score", made_bundle.path, *words)
    assert status == 0
    names = [row["path"] for row in parsed(out, "csv")]
    in_folder = sorted(str(file) for file in (digit_files / "0").iterdir())
    assert names[: 4 + len(in_folder)] == [*map(str, files[:4]), *in_folder]
    assert all(name.startswith(f"{ASSETS}/digits.npz#") for name in names[4 + len(in_folder) :])


def test_two_dashes_end_the_options(
    made_bundle: Bundle, tmp_path: Path, command: Command, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digits[0].decode().save("--odd.name.png")
    status, out, _ = command("score", made_bundle.path, "--", "--odd.name.png")
    assert status == 0
    assert [row["path"] for row in parsed(out, "csv")] == ["./--odd.name.png"]


def test_garments_are_called_outliers_more_often(made_bundle: Bundle, command: Command) -> None:
    shares = []
    for path in (f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7", f"{ASSETS}/garments.npz:images"):
        rows = parsed(command("score", made_bundle.path, path).out, "csv")
        shares.append(np.mean([row["is_outlier"] for row in rows]))
    assert shares[0] < 0.05 < 0.15 < shares[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere/a"], r"lit-od: /nowhere/a does not exist: wanted an image, a folder, a list, an .npz or -"),
        (["mnist:test"], "lit-od: mnist:test does not exist"),
        ([f"{ASSETS}/garments.npz:magic"], "holds no array 'magic', it holds "),
        (
            [f"{ASSETS}/garments.npz", "--provider", "cuda"],
            "provider CUDAExecutionProvider is not in this ONNX Runtime",
        ),
        ([f"{ASSETS}/garments.npz", "--out", "."], "lit-od: --out . is a folder, wanted a file"),
        (
            [f"{ASSETS}/garments.npz", "--out", "/nowhere/rows.csv"],
            "lit-od: cannot write --out /nowhere/rows.csv: No such file or directory",
        ),
    ],
)
def test_refusals(made_bundle: Bundle, command: Command, words: list[str], message: str) -> None:
    status, out, err = command("score", made_bundle.path, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_what_is_refused_writes_no_file(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "rows.csv"
    out.write_text("precious")
    assert command("score", made_bundle.path, "/nowhere", "--out", out).status == 2
    assert out.read_text() == "precious"
    (own := tmp_path / "list.csv").write_text(f"path\n{next((ASSETS).iterdir())}\n")
    assert command("score", made_bundle.path, own, "--out", own).status == 1
    assert len(parsed(own.read_text(), "csv")) == 1
