"""Regions written by `score`: where each image stands out, in its own pixels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od import Bundle, Scorer
from lit_od.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make photographs of textures, and one with a defect at a known place."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    (folder / "normal").mkdir()
    shade = np.linspace(60, 180, 160)[None, :, None] + np.zeros((120, 1, 3))
    for row in range(30):
        pixels = shade + rng.normal(0, 4, (120, 160, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "normal" / f"{row:02}.png")
    pixels[30:60, 90:130] = rng.integers(0, 256, (30, 40, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "defect.png")
    return folder


@pytest.fixture(scope="module")
def bundle(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit the shipped recipe at a small size."""
    out = tmp_path_factory.mktemp("bundles") / "parts"
    small = ["--data.prepare.size", "[96, 96]", "--detector.kind", "padim", "--detector.components", "20"]
    assert main(["fit", "defects", "--data.root", str(parts / "normal"), "--out", str(out), *small]) == 0
    return out


def test_regions_lie_where_the_defect_is(bundle: Path, parts: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [parts / "defect.png", parts / "normal" / "00.png", tmp_path / "broken.png"]
    found, rows = tmp_path / "regions.jsonl", tmp_path / "rows.jsonl"
    status, _, _ = command("score", bundle, *images, "--regions", found, "--out", rows)
    assert status == 1
    defect, normal, broken = (json.loads(line) for line in found.read_text(encoding="utf-8").splitlines())
    assert [each["path"] for each in (defect, normal, broken)] == [str(image) for image in images]
    assert broken["regions"] is None
    verdicts = [json.loads(line)["is_outlier"] for line in rows.read_text(encoding="utf-8").splitlines()]
    assert verdicts[:2] == [bool(defect["regions"]), bool(normal["regions"])] == [True, False]
    largest = max(defect["regions"], key=lambda region: region["peak"])
    left, top, right, bottom = largest["box"]
    assert left < 110 < right
    assert top < 45 < bottom
    assert 80 <= largest["at"][0] < 140
    assert 20 <= largest["at"][1] < 70
    command("score", bundle, images[0], "--regions", found, "--min-area", 10**6)
    assert json.loads(found.read_text(encoding="utf-8"))["regions"] == []


def test_maps_come_with_the_verdict(bundle: Path, parts: Path) -> None:
    scorer = Scorer.load(bundle)
    result = scorer.score([str(parts / "defect.png")], maps=True)
    assert result.maps is not None
    assert result.maps.shape == (1, 96, 96)
    assert result.maps.max() == result.score[0]
    assert Bundle.read(bundle).manifest.calibration.pixel_threshold == scorer.calibration.threshold


def test_a_threshold_moves_both(bundle: Path, command: Command) -> None:
    before = Bundle.read(bundle).manifest.calibration
    assert command("threshold", bundle, "--value", 99.5)[0] == 0
    after = Bundle.read(bundle).manifest.calibration
    assert (after.threshold, after.pixel_threshold) == (99.5, 99.5)
    assert command("threshold", bundle, "--rule", "percentile", "--q", 99)[0] == 0
    assert Bundle.read(bundle).manifest.calibration == before


def test_a_bundle_without_maps_has_no_regions(made_bundle: Bundle, parts: Path, command: Command) -> None:
    status, out, err = command("score", made_bundle.path, parts / "defect.png", "--regions", "r.jsonl")
    assert (status, out) == (2, "")
    assert "--regions needs maps, and mahalanobis over features has none: fit defects, or an autoencoder" in err


@pytest.mark.parametrize("area", ["-1", "nan", "inf"])
def test_an_area_that_is_none_is_refused(area: str, command: Command) -> None:
    status, _, told = command("score", "no-bundle", "no-image", "--regions", "r.jsonl", f"--min-area={area}")
    assert status == 2
    assert "--min-area" in told
