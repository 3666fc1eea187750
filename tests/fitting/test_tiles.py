"""Bundles over tiles: from the recipe to scores, maps, regions and the model file."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from lit_od import Bundle, Scorer
from lit_od.backbone.extractor import only_counted
from lit_od.bundle.validate import check_detector
from lit_od.cli import main
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.evaluation.defects import evaluate_defects
from lit_od.evaluation.image_sets import sets_of_category
from lit_od.fitting.cross import cross_fit
from lit_od.fitting.engine import LocalEngine, fit_detector
from lit_od.images.batching import Batch
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Frame, ImageArray, Tile
from lit_od.recipes.load import read
from lit_od.serving.limits import Refused
from lit_od.serving.models import joined

Command = Callable[..., tuple[int, str, str]]

HIGH, WIDE = 150, 200
TILES = ["--data.tile", "128", "--data.overlap", "0.5", "--detector.kind", "patchcore", "--detector.coreset", "60"]
RUNNER = Path(__file__).parents[2] / "runners" / "python" / "score.py"


def texture(rng: np.random.Generator, size: tuple[int, int] = (HIGH, WIDE)) -> np.ndarray:
    stripes = 120 + 50 * np.sin(np.arange(size[1]) / 3)[None, :, None]
    return np.clip(stripes + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make large textures in the layout of MVTec AD, one of them with a defect, and a mask that hides its place."""
    folder, rng = tmp_path_factory.mktemp("textures"), np.random.default_rng(0)
    for part in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        Image.fromarray(texture(rng)).save(folder / f"train/good/{number}.png")
    Image.fromarray(texture(rng)).save(folder / "test/good/0.png")
    clear, defect = texture(rng), np.zeros((HIGH, WIDE), bool)
    defect[60:84, 150:174] = True
    Image.fromarray(clear).save(folder / "clear.png")
    Image.fromarray(np.where(defect[..., None], np.uint8(255), clear)).save(folder / "test/spot/0.png")
    Image.fromarray(defect).save(folder / "ground_truth/spot/0_mask.png")
    Image.fromarray(clear[:100]).save(folder / "small.png")
    region = np.ones((HIGH, WIDE), bool)
    region[:, 120:] = False
    Image.fromarray(region).save(folder / "region.png")
    return folder


def fitted(category: Path, out: Path, *options: str) -> Path:
    assert main(["fit", "defects", "--data.root", str(category), "--out", str(out), *TILES, *options]) == 0
    return out


@pytest.fixture(scope="module")
def bundle(category: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(category, tmp_path_factory.mktemp("bundles") / "tiles", "--calibration.method", "split")


def test_a_score_is_that_of_the_map_which_is_joined_of_the_tiles(bundle: Path, category: Path) -> None:
    scorer = Scorer.load(bundle, threads=1)
    found = scorer.score([category / "test/spot/0.png", category / "small.png", category / "clear.png"], maps=True)
    assert isinstance(found.maps, tuple)
    assert [each.shape for each in found.maps] == [(HIGH, WIDE), (0, 0), (HIGH, WIDE)]
    assert found.error[1] == "tiles of 128x128 (h x w) need a larger image than 100x200"
    assert np.isnan(found.score[1])
    pixels = np.asarray(Image.open(category / "test/spot/0.png"))
    frame = Frame(ImageArray(pixels, ""), scorer.preparation)
    wanted = np.zeros((HIGH, WIDE))
    for place in frame.places:
        _, tile = scorer.detector.score_map(scorer.backbone(pixels[place.rows, place.columns][None]))
        wanted[place.rows, place.columns] += tile[0] * place.down[:, None] * place.across
    np.testing.assert_allclose(found.maps[0], wanted, rtol=1e-4, atol=1e-4 * wanted.max())
    assert found.score[0] == found.maps[0].max() > 2 * found.score[2]
    assert found.regions is not None
    left, top, right, bottom = found.regions[0][0].box
    assert left < 162 < right
    assert top < 72 < bottom
    assert right <= WIDE
    again = scorer.score(pixels)
    assert again.score[0] == pytest.approx(found.score[0], rel=1e-6)
    tile = scorer.score([pixels[:128, :128]])
    alone = scorer.detector.score(scorer.backbone(pixels[None, :128, :128]))
    np.testing.assert_allclose(tile.score, alone, rtol=1e-6)


def test_the_bundle_says_its_tiles_and_follows_through_the_commands(
    bundle: Path, category: Path, tmp_path: Path, command: Command
) -> None:
    tree = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert tree["preparation"]["size"] == [128, 128]
    assert tree["preparation"]["overlap"] == 64
    assert "whole, in tiles of 128x128 rgb that share 64 pixels" in (bundle / "README.md").read_text(encoding="utf-8")
    again, model = tmp_path / "again", tmp_path / "model.onnx"
    spot = category / "test/spot/0.png"
    for line in (
        ("verify", bundle),
        ("refit", bundle, category / "train/good", "--out", again),
        ("accept", again, category / "clear.png"),
        ("verify", again),
        ("compile", again, "--out", model),
        ("threshold", model, "--value", 3.25),
        ("verify", model),
        ("compare", bundle, again, category / "test"),
        ("score", bundle, spot, "--maps", tmp_path / "maps", "--out", tmp_path / "rows.csv"),
        ("report", bundle, "--data.root", category, "--out", tmp_path / "report.html"),
    ):
        status, _, error = command(*line)
        assert status == 0, error
    assert np.load(tmp_path / "maps/0-0_png.npy").shape == (HIGH, WIDE)
    with Image.open(tmp_path / "maps/0-0_png.mask.png") as mask:
        assert mask.size == (WIDE, HIGH)
    wanted, found = (Scorer.load(each, threads=1).score([spot], maps=True) for each in (again, model))
    np.testing.assert_allclose(found.score, wanted.score, rtol=1e-5)
    assert wanted.maps is not None
    assert found.maps is not None
    np.testing.assert_allclose(found.maps[0], wanted.maps[0], atol=1e-4 * wanted.score[0])
    done = subprocess.run([sys.executable, RUNNER, model, spot], capture_output=True, text=True, check=True)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert float(row["score"]) == pytest.approx(found.score[0], rel=1e-6)
    assert float(row["p_value"]) == found.p_value[0]
    assert row["is_outlier"] == str(found.is_outlier[0]).lower()
    status, _, error = command("compile", again, "--out", model, "--resize", "graph")
    assert (status, error.count("\n")) == (2, 1)


def test_pixels_are_evaluated_at_the_images_own_size(bundle: Path, category: Path) -> None:
    scorer = Scorer.load(bundle, threads=1)
    found = evaluate_defects(scorer, sets_of_category(category, scorer.preparation), resamples=10)
    assert found.together.pixels is not None
    assert found.together.pixels.figures["pixel_auroc"].value > 0.97
    assert "Pixel figures at the images' own size" in found.table()


def test_a_defect_outside_the_region_changes_no_score(category: Path, tmp_path: Path, command: Command) -> None:
    options = ("--data.mask", str(category / "region.png"), "--calibration.method", "split")
    bundle = fitted(category, tmp_path / "region", *options)
    scorer = Scorer.load(bundle, threads=1)
    found = scorer.score([category / "clear.png", category / "test/spot/0.png"], maps=True)
    assert found.score[0] == found.score[1]
    assert found.maps is not None
    assert (found.maps[1][:, 120:] == 0).all()
    assert (found.maps[1][:, :110] > 0).all()
    assert command("verify", bundle)[0] == 0
    status, _, error = command("compile", bundle, "--out", tmp_path / "model.onnx")
    assert status == 2
    assert "a region of interest differs from tile to tile" in error


def test_cells_that_do_not_count_fit_as_those_that_do() -> None:
    region = Preparation(size=(64, 64), overlap=32)
    mask = np.zeros((64, 64), bool)
    mask[:, :24] = True
    sliver = np.zeros((64, 64), bool)
    sliver[0, 0] = True

    class Masked(Tile):
        counted = None

    tiles = []
    for counted in (mask, None, sliver):
        frame = Frame(ImageArray(np.zeros((64, 64, 3), np.uint8), ""), region)
        tiles.append(type("Own", (Masked,), {"counted": counted})(frame, frame.places[0]))
    patches = np.random.default_rng(0).random((3, 8, 8, 2)).astype(np.float32)
    found = only_counted(Batch(tiles, np.empty((3, 64, 64, 3), np.uint8), np.arange(3), {}, []), patches)
    np.testing.assert_array_equal(found[1], patches[1])
    np.testing.assert_array_equal(found[0, :, :3], patches[0, :, :3])
    known = {tuple(each) for each in patches[0, :, :3].reshape(-1, 2)}
    copied, counts = np.unique(found[0, :, 3:].reshape(-1, 2), axis=0, return_counts=True)
    assert {tuple(each) for each in copied} <= known
    assert counts.max() - counts.min() <= 1
    assert (found[2] == patches[2, 0, 0]).all()


def test_cross_calibration_scores_each_image_without_its_tiles(bundle: Path, category: Path) -> None:
    scorer = Scorer.load(bundle, threads=1)
    engine, images = LocalEngine(scorer.extractor, quiet=True), find([category / "train/good"])[:3]
    spec = DetectorSpec("patchcore", {"coreset": 30, "size": [128, 128]})
    found = cross_fit(engine, spec, images, seed=0)
    assert found.folds is not None
    assert found.folds.count == 3
    wanted = []
    for row in range(3):
        detector, _ = fit_detector(engine, spec, [*images[:row], *images[row + 1 :]])
        wanted.append(engine.score(detector, images[row : row + 1], task="")[0])
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-6)
    with pytest.raises(DataError, match="1 normal image leaves none to calibrate, and tiles fit in no views"):
        cross_fit(engine, spec, images[:1], seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.overlap", "0.2"], "data.overlap is that of tiles: give data.tile too"),
        (["--data.tile", "448", "--data.overlap", "0.1"], "wanted at least 64: give data.overlap 0.143"),
        (["--data.tile", "9000"], "data.tile must be pixels in 1..4096"),
        (["--data.tile", "448", "--data.prepare.crop_fraction", "0.5"], "tiles are of whole images"),
        (["--data.prepare.overlap", "64"], "data.prepare takes no overlap, which comes from data.overlap"),
    ],
)
def test_tiles_that_make_no_sense_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("defects", options)


def test_detectors_that_know_the_place_or_no_map_are_refused(category: Path, tmp_path: Path, command: Command) -> None:
    for kind, message in (("padim", "give it positions: tile"), ("gmm", "data.tile joins maps of patches")):
        line = ["fit", "defects", "--data.root", category, "--out", tmp_path / "out", *TILES[:4]]
        status, _, error = command(*line, "--detector.kind", kind)
        assert status == 2
        assert message in error
    DetectorSpec("padim", {"positions": "tile"}).require_tiles()
    weighed = {"kind": "patchcore", "reweight": True}
    for tree in (weighed, {"kind": "ensemble", "members": [{"kind": "patchcore"}, weighed]}):
        with pytest.raises(ConfigError, match="reweight multiplies a whole image by one weight"):
            DetectorSpec.parse(tree).require_tiles()
    for name, tiles in (("defects", True), ("folder", False)):
        spec = DetectorSpec.parse(read(name).detector)
        if tiles:
            spec.require_tiles()
        else:
            with pytest.raises(ConfigError, match=r"data\.tile joins maps of patches"):
                spec.require_tiles()


def test_a_manifest_with_tiles_needs_patches(made_bundle: Bundle) -> None:
    preparation = msgspec.structs.replace(made_bundle.manifest.preparation, overlap=8)
    with pytest.raises(DataError, match="the preparation has tiles"):
        check_detector(made_bundle.detector, msgspec.structs.replace(made_bundle.manifest, preparation=preparation))
    scorer = Scorer.of(made_bundle)
    tiled = replace(scorer, extractor=replace(scorer.extractor, preparation=preparation))
    with pytest.raises(ConfigError, match="tiles need a detector of patches"):
        tiled.score([np.zeros((40, 40), np.uint8)])


def test_maps_of_different_sizes_are_no_tensor() -> None:
    parts = [{"raw": np.zeros((1, 3, size), np.float32)} for size in (4, 5)]
    with pytest.raises(Refused, match="send each by itself"):
        joined(parts)
    assert joined(parts[:1] * 2)["raw"].shape == (2, 3, 4)
