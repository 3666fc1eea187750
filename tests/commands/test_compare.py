"""`lit-od compare`: two bundles of different preparation on the same images."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od import Bundle, Preparation, Scorer
from lit_od.evaluation.metrics import auroc
from lit_od.fitting.fit import Origin
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle
from tests.support.images import GREY

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def other_bundle(small_graph: bytes, digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that cuts off the images' borders, with another detector."""
    return make_bundle(
        tmp_path_factory.mktemp("bundles") / "other",
        model=small_graph,
        preparation=msgspec.structs.replace(GREY, crop_fraction=0.8),
        fit=digits[:400],
        calibration=digits[800:1200],
        detector={"kind": "knn", "k": 3},
        rule={"rule": "percentile", "q": 95},
        origin=Origin(name="other", seed=0),
        opset=20,
        threads=2,
    )


@pytest.fixture(scope="module")
def garment_files(garments: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("garments")
    for row, source in enumerate(garments[:15]):
        source.decode().save(folder / f"{row:02}.png")
    return folder


def test_bundles_are_compared_by_labelled_images(
    made_bundle: Bundle, other_bundle: Bundle, digit_files: Path, garment_files: Path, tmp_path: Path, command: Command
) -> None:
    assert isinstance(other_bundle.manifest.preparation, Preparation)
    words = [made_bundle.path, other_bundle.path, "--inliers", digit_files, "--outliers", f"clothes={garment_files}"]
    status, out, _ = command("compare", *words, "--json", "--out", tmp_path / "found")
    assert status == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "found" / "comparison.json").read_text("utf-8"))
    assert (found["images"], found["left_out"]) == (55, 0)
    for key, bundle in (("first", made_bundle), ("second", other_bundle)):
        scorer = Scorer.of(bundle)
        sets = [
            np.concatenate([each.score for each in scorer.stream(folder)]) for folder in (digit_files, garment_files)
        ]
        assert found["areas"]["clothes"][key] == pytest.approx(auroc(*sets))
    with (tmp_path / "found" / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["inliers"] * 40 + ["clothes"] * 15
    assert [float(row["score.B"]) for row in rows[40:]] == pytest.approx(sets[1].tolist())
    counts = {verdict: sum(row["outlier_by"] == verdict for row in rows) for verdict in found["verdicts"]}
    assert counts == found["verdicts"]
    assert "AUROC in percent" in (tmp_path / "found" / "table.txt").read_text("utf-8")
    page = (tmp_path / "found" / "comparison.html").read_text("utf-8")
    assert page.count('<li class="card') == min(20, len(found["moved"])) + min(20, len(found["turned"]))
    assert "AUROC in percent, with DeLong" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_unlabelled_images_suffice_and_broken_ones_are_left_out(
    made_bundle: Bundle, other_bundle: Bundle, digit_files: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    page = tmp_path / "page.html"
    status, out, err = command("compare", made_bundle.path, other_bundle.path, tmp_path, digit_files, "--out", page)
    assert status == 1
    assert "lit-od: 1 of 41 images could not be scored by both" in err
    assert "40 images, 1 left out that one could not score" in out
    assert "rank correlation (Spearman): 0." in out
    assert "AUROC" not in out
    assert "AUROC" not in page.read_text("utf-8")


def test_a_bundle_differs_from_itself_in_nothing(made_bundle: Bundle, digit_files: Path, command: Command) -> None:
    status, out, _ = command("compare", made_bundle.path, made_bundle.path, digit_files)
    assert status == 0
    assert "rank correlation (Spearman): 1.0000" in out
    assert "Largest changes of rank" not in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "nothing to compare on: give PATHs of images, or --inliers and --outliers NAME=PATH"),
        (["--inliers", "images"], "--inliers and --outliers go together"),
        (["images", "--label", "3"], "--label goes with --inliers"),
        (["images", "--out", "folder.html"], "folder.html is a folder, wanted a page"),
        (["images", "--data.root", "x"], "unknown option --data.root"),
        (["gone"], "gone"),
        (["--inliers", "images", "--outliers", "images"], "--outliers takes NAME=PATH, got 'images'"),
    ],
)
def test_odd_arguments_are_refused(
    words: list[str],
    line: str,
    made_bundle: Bundle,
    digit_files: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "images").symlink_to(digit_files)
    status, out, err = command("compare", made_bundle.path, made_bundle.path, *words)
    assert (status, out) == (2, "")
    assert line in err
