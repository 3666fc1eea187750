"""Images as they turn up, through every command that reads them: the same are read, and the same refused."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from tests.support.refusals.odd_images import BROKEN, READABLE, write_all

READ = sorted(name for name, _ in READABLE.values())
REFUSED = {name: says for name, _, says in BROKEN.values()}

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them."""
    folder = tmp_path_factory.mktemp("odd images")
    write_all(folder)
    return folder


def lit_od(*words: object) -> subprocess.CompletedProcess[str]:
    """A process of its own: names of any bytes go through its real standard output."""
    run = [sys.executable, "-m", "lit_od.cli", *map(str, words)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        run, capture_output=True, text=True, encoding="utf-8", errors="surrogateescape", env=environment, check=False
    )


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def named(path: str) -> str:
    """Return a file's name as it is; JSON has escapes for the bytes of one."""
    return Path(path).name.replace("\\udcff\\udcfe", "\udcff\udcfe")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_score(made_bundle: Bundle, odd: Path, form: str) -> None:
    done = lit_od("score", made_bundle.path, odd, "--format", form)
    assert done.returncode == 1
    total = len(READ) + len(REFUSED)
    assert done.stderr == f"lit-od: {len(REFUSED)} of {total} images could not be read; their rows say why\n"
    rows = table(done.stdout) if form == "csv" else [json.loads(line) for line in done.stdout.splitlines()]
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    scores = {named(row["path"]): float(row["score"]) for row in rows if not row["error"]}
    assert errors.keys() == REFUSED.keys()
    assert all(REFUSED[name] in error for name, error in errors.items())
    assert sorted(scores) == READ
    result = Scorer.load(made_bundle.path).score([odd / name for name in READ])
    np.testing.assert_allclose([scores[name] for name in READ], result.score, rtol=1e-5)
    same = [READABLE[what][0] for what in ("16 bits", "floats in [0, 1]", "an animation", "a name with a newline")]
    assert len({round(scores[name], 4) for name in same}) == 1  # one digit in several forms


def test_check_and_the_list_that_it_writes(made_bundle: Bundle, odd: Path, tmp_path: Path) -> None:
    done = lit_od("check", odd, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{len(READ)} images can be read, {len(REFUSED)} cannot" in done.stdout
    clean, refused = (
        table((tmp_path / name).read_bytes().decode("utf-8", "surrogateescape"))
        for name in ("clean.csv", "refused.csv")
    )
    assert sorted(Path(row["path"]).name for row in clean) == READ
    assert {Path(row["path"]).name for row in refused} == REFUSED.keys()
    assert lit_od("check", tmp_path / "clean.csv").returncode == 0
    done = lit_od("score", made_bundle.path, tmp_path / "clean.csv", "--format", "jsonl")
    assert done.returncode == 0
    assert sorted(named(json.loads(line)["path"]) for line in done.stdout.splitlines()) == READ


@pytest.mark.parametrize("name", REFUSED)
def test_a_refit_names_the_one_that_is_broken(
    made_bundle: Bundle, odd: Path, tmp_path: Path, command: Command, name: str
) -> None:
    (tmp_path / "images").mkdir()
    for each in (*(READABLE[what] for what in ("alpha", "CMYK", "16 bits")), *BROKEN.values()):
        if each[0] == name or each in READABLE.values():
            each[1](tmp_path / "images" / each[0])
    status, out, err = command("refit", made_bundle.path, tmp_path / "images", "--out", tmp_path / "new")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{name}: " in err
    assert REFUSED[name] in err
    assert "lit-od check" in err
    assert not (tmp_path / "new").exists()


def test_a_refit_on_all_that_can_be_read(made_bundle: Bundle, odd: Path, tmp_path: Path) -> None:
    for name, write in READABLE.values():
        write(tmp_path / name)
    done = lit_od("refit", made_bundle.path, tmp_path, "--out", tmp_path / "new", "--detector.shrinkage", "0.5")
    assert done.returncode == 0, done.stderr
    assert lit_od("verify", tmp_path / "new").returncode == 0
