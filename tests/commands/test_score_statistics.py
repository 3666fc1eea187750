"""Statistics of images beside their scores; rows without them stay as they are."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od import Result, Scorer
from lit_od.bundle.folder import Bundle
from lit_od.bundle.manifest import detector_hash
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.statistics import STATISTICS, image_statistics
from tests.support.tables import arrow

Command = Callable[..., Any]

PLAIN = ["path", "score", "p_value", "is_outlier", "error"]


@pytest.fixture
def images(digit_files: Path, tmp_path: Path) -> list[Path]:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    return [digit_files / "0", broken, digit_files / "1"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_statistics_are_those_of_prepared_images(
    form: str, made_bundle: Bundle, images: list[Path], tmp_path: Path, command: Command
) -> None:
    if form == "parquet":
        arrow("pyarrow.parquet")
    rows: list[dict[str, Any]]
    out = tmp_path / f"rows.{form}"
    status, _, _ = command("score", made_bundle.path, *images, "--statistics", "--batch-size", 3, "--out", out)
    assert status == 1
    if form == "csv":
        with out.open(encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = [
                {key: cell or None for key, cell in row.items()} for row in csv.DictReader(file)
            ]
    elif form == "jsonl":
        rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    else:
        rows = arrow("pyarrow.parquet").read_table(out).to_pylist()
    assert list(rows[0]) == [*PLAIN, *STATISTICS, "detector"]
    digest = hashlib.sha256((made_bundle.path / "detector.safetensors").read_bytes()).hexdigest()
    assert {row["detector"] for row in rows} == {digest[:12]}
    sound = [row for row in rows if row["error"] is None]
    want = image_statistics(load(find([row["path"] for row in sound]), made_bundle.manifest.preparation))
    np.testing.assert_allclose([[float(row[name]) for name in STATISTICS] for row in sound], want)
    (bad,) = [row for row in rows if row["error"] is not None]
    assert [bad[name] for name in STATISTICS] == [None] * 3


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_without_statistics_are_the_first_columns_of_those_with(
    form: str, made_bundle: Bundle, images: list[Path], command: Command
) -> None:
    plain = command("score", made_bundle.path, *images, "--format", form).out.splitlines()
    more = command("score", made_bundle.path, *images, "--format", form, "--statistics").out.splitlines()
    assert len(plain) == len(more)
    for short, long in zip(plain, more, strict=True):
        assert long.startswith(short.removesuffix("}"))
        assert len(long) > len(short)


def test_a_new_threshold_leaves_the_detector_its_name(own_bundle: Path, command: Command) -> None:
    before = detector_hash(Bundle.read(own_bundle).manifest)
    assert command("threshold", own_bundle, "--value", "3").status == 0
    assert detector_hash(Bundle.read(own_bundle).manifest) == before


def test_results_are_joined_with_their_statistics(made_bundle: Bundle, digit_files: Path) -> None:
    one = Scorer.of(made_bundle).score([str(digit_files / "0" / name.name) for name in (digit_files / "0").iterdir()])
    assert one.statistics is None
    assert Result.joined([one, one]).statistics is None
    some = Result(["a"], np.ones(1), np.ones(1), np.ones(1, bool), [None], statistics=np.ones((1, 3)))
    both = Result.joined([some, some]).statistics
    assert both is not None
    assert both.shape == (2, 3)
