"""A bundle with a region of interest, from the recipe to the model file."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from lit_od import Bundle, Scorer
from lit_od.bundle.manifest import with_mask
from lit_od.cli import main
from lit_od.deploy.one_file import model_file
from lit_od.errors import BundleError, ConfigError
from lit_od.evaluation.defects import evaluate_defects
from lit_od.evaluation.image_sets import sets_of_category
from lit_od.evaluation.metrics import auroc
from lit_od.fitting.region import prepared_region
from lit_od.fitting.shards import shard
from lit_od.images.find_local import find
from lit_od.images.preparation import counted_pixels, prepare_mask
from lit_od.images.roi_colour import colour_sums
from lit_od.recipes.load import override, portable_tree, read
from lit_od.recipes.schema import DataConfig
from tests.support.images import GREY

Command = Callable[..., tuple[int, str, str]]

SMALL = ["--data.prepare.size", "[64, 64]", "--data.prepare.resize", "graph"]
SMALL += ["--detector.kind", "patchcore", "--detector.coreset", "200"]
CENTRE = np.hypot(*(np.mgrid[:60, :80] - np.array([29.5, 39.5]).reshape(2, 1, 1))) < 26


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make photographs of textures, their mask, and a defect within and without the region."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    (folder / "normal").mkdir()
    shade = np.linspace(60, 180, 160)[None, :, None] + np.zeros((120, 1, 3))
    for number in range(26):
        pixels = np.clip(shade + rng.normal(0, 4, (120, 160, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / ("clear.png" if number == 25 else f"normal/{number:02}.png"))
    for name, (row, column) in {"outer": (0, 0), "inner": (50, 70)}.items():
        defect = pixels.copy()
        defect[row : row + 20, column : column + 20] = 255
        Image.fromarray(defect).save(folder / f"{name}.png")
    Image.fromarray(CENTRE).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def bundle(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "parts"
    options = ["--data.root", str(parts / "normal"), "--data.mask", str(parts / "mask.png"), "--out", str(out)]
    assert main(["fit", "defects", *options, *SMALL]) == 0
    return out


def test_a_defect_outside_the_region_changes_no_score(bundle: Path, parts: Path) -> None:
    scorer = Scorer.load(bundle, threads=1)
    found = scorer.score([parts / f"{name}.png" for name in ("clear", "outer", "inner")], maps=True)
    assert found.score[1] == found.score[0]
    assert found.score[2] > 2 * found.score[0]
    assert found.maps is not None
    assert found.regions is not None
    counted = counted_pixels(scorer.preparation)
    assert counted is not None
    assert (found.maps[:, ~counted] == 0).all()
    assert found.regions[0] == found.regions[1]
    left, top, right, bottom = found.regions[2][0].box
    assert left < 80 < right
    assert top < 60 < bottom
    pixels = np.asarray(Image.open(parts / "outer.png"))
    assert scorer.score(pixels).score[0] == found.score[0]


def test_manifest_and_folder_hold_colour_and_mask(bundle: Path, parts: Path) -> None:
    tree = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert "mask" not in tree["preparation"]
    assert tree["provenance"]["recipe"]["data"]["mask"] == "mask.png"
    used = Bundle.read(bundle).manifest.provenance.data["fit"]["images"]
    colour = np.array(tree["preparation"]["mask_colour"])
    images = [np.asarray(each.decode()) for each in find([parts / "normal"])]
    inside = np.repeat(np.repeat(CENTRE, 2, 0), 2, 1)
    mean = np.mean([image[inside].mean(axis=0) for image in images], axis=0)
    assert used == len(images) == 25
    assert np.abs(colour - mean).max() <= 1
    np.testing.assert_array_equal(np.asarray(Image.open(bundle / "mask.png")), CENTRE)
    assert "are in the region of interest" in (bundle / "README.md").read_text(encoding="utf-8")


def test_bundles_that_follow_keep_the_region(bundle: Path, parts: Path, tmp_path: Path, command: Command) -> None:
    kept = (bundle / "mask.png").read_bytes()
    again, model = tmp_path / "again", tmp_path / "model.onnx"
    for line in (
        ("verify", bundle),
        ("refit", bundle, parts / "normal", "--out", again),
        ("verify", again),
        ("accept", again, parts / "inner.png"),
        ("threshold", again, "--value", 3.5),
        ("verify", again),
        ("compile", again, "--out", model),
        ("threshold", model, "--value", 3.25),
        ("verify", model),
        ("rollback", again),
        ("verify", again),
    ):
        status, _, error = command(*line)
        assert status == 0, error
    assert (again / "mask.png").read_bytes() == kept
    assert Bundle.read(again).manifest.preparation == Bundle.read(bundle).manifest.preparation
    files = [parts / f"{name}.png" for name in ("clear", "outer", "inner")]
    scorer = Scorer.load(model, threads=1)
    wanted, found = Scorer.load(again, threads=1).score(files), scorer.score(files, maps=True)
    np.testing.assert_allclose(found.score, wanted.score, rtol=1e-5)
    assert found.score[0] == found.score[1]
    frames = np.stack([np.asarray(Image.open(file)) for file in files])
    onnxruntime = pytest.importorskip("onnxruntime")
    bare = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["score"], {"image": frames})
    np.testing.assert_allclose(bare[0], found.score, rtol=1e-5)


def test_a_model_file_that_lays_no_mask_is_refused(bundle: Path) -> None:
    found = Bundle.read(bundle)
    preparation = msgspec.structs.replace(found.manifest.preparation, resize="bilinear")
    manifest = msgspec.structs.replace(found.manifest, preparation=preparation)
    with pytest.raises(ConfigError, match="laid on frames before they are resized: give --resize graph"):
        model_file(replace(found, manifest=manifest))


def test_evaluation_counts_the_pixels_of_the_region_alone(bundle: Path, parts: Path, tmp_path: Path) -> None:
    category = tmp_path / "category"
    for part in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (category / part).mkdir(parents=True)
    for part in ("train/good", "test/good"):
        shutil.copy(parts / "clear.png", category / part / "0.png")
    truth = np.zeros((120, 160), bool)
    truth[50:70, 70:90] = truth[:20, :20] = True  # the second lies outside
    shutil.copy(parts / "inner.png", category / "test" / "spot" / "0.png")
    Image.fromarray(truth).save(category / "ground_truth" / "spot" / "0_mask.png")
    scorer = Scorer.load(bundle, threads=1)
    sets = sets_of_category(category, scorer.preparation)
    assert sets is not None
    found = evaluate_defects(scorer, sets, resamples=5).kinds["spot"].pixels
    assert found is not None
    assert found.regions == 1
    maps = scorer.score([parts / "clear.png", parts / "inner.png"], maps=True).maps
    counted = counted_pixels(scorer.preparation)
    assert maps is not None
    assert counted is not None
    mask = prepare_mask(truth, scorer.preparation)
    wanted = auroc(np.append(maps[0][counted], maps[1][counted & ~mask]), maps[1][counted & mask])
    assert found.figures["pixel_auroc"].value == pytest.approx(wanted)


def test_damaged_bundles_are_refused(bundle: Path, tmp_path: Path) -> None:
    read_ = Bundle.read(bundle)
    files = {name: data for name, data in read_.files.items() if name != "mask.png"}
    manifest = with_mask(read_.manifest, None)
    with pytest.raises(BundleError, match=r"mask\.png"):
        Bundle.of_files(bundle, manifest, files)
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "mask.png").unlink()
    with pytest.raises(BundleError, match=r"mask\.png is missing"):
        Bundle.read(tmp_path / "copy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.mask", "none.png"], "data.mask none.png: no such file"),
        (["--data.prepare.crop", "[20, 20]"], "a mask and a crop in pixels exclude each other"),
        (["--detector.kind", "reconstruction"], ""),
        (["--data.prepare.mask_colour", "[1, 2, 3]"], "data.prepare takes no mask_colour"),
    ],
)
def test_what_goes_with_no_mask_is_refused(
    parts: Path, tmp_path: Path, command: Command, options: list[str], message: str
) -> None:
    line = ["fit", "defects", "--data.root", parts / "normal", "--out", tmp_path / "out", *SMALL]
    status, _, error = command(*line, "--data.mask", parts / "mask.png", *options)
    assert status == 2
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_aspect_is_refused(parts: Path, tmp_path: Path, command: Command) -> None:
    Image.fromarray(np.ones((50, 50), bool)).save(tmp_path / "square.png")
    line = ["fit", "defects", "--data.root", parts / "normal", "--out", tmp_path / "out", *SMALL]
    status, _, error = command(*line, "--data.mask", tmp_path / "square.png")
    assert status == 2
    assert "160x120 pixels, but the mask is 50x50, of other proportions" in error


def test_recipes_keep_the_files_name_alone() -> None:
    recipe = override(read("defects"), ["--data.mask", "/far/away/mask.png"])
    assert portable_tree(recipe)["data"]["mask"] == "mask.png"


@dataclass
class First:
    """The first of three processes, which gets the parts of the others."""

    others: list[bytes]
    rank: int = 0
    size: int = 3
    device: int | None = None
    local_size: int = 1

    def gather(self, part: bytes) -> Iterator[bytes]:
        yield from [part, *self.others]

    def broadcast(self, data: bytes) -> bytes:
        return data


def test_a_group_gives_the_colour_of_one_process(parts: Path) -> None:
    data = DataConfig(train=".", prepare=GREY, mask=str(parts / "mask.png"))
    images = find([parts / "normal"]) * 6
    alone = prepared_region(data, images, threads=1)
    assert alone.region is not None
    shares = [shard(len(images), part, 3) for part in (1, 2)]
    own = [colour_sums(images[rows.start : rows.stop], alone.region[0], GREY, threads=1) for rows in shares]
    assert sum(int(each[0] > 0) for each in own) > 0
    assert prepared_region(data, images, threads=1, group=First([each.tobytes() for each in own])) == alone
    with pytest.raises(ConfigError, match="exclude each other"):
        prepared_region(DataConfig(train=".", prepare=_cropped(), mask=data.mask), images)


def _cropped() -> Any:
    return type(GREY)(size=GREY.size, crop=(20, 20))
