"""Evaluation on defects: figures of images and pixels by kind, in every layout and by folders of masks."""

import shutil

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from lit_od.bundle.folder import Bundle
from lit_od.errors import DataError
from lit_od.evaluation import defects as module
from lit_od.evaluation.defects import evaluate_defects
from lit_od.evaluation.image_sets import sets_of_category, sets_of_masks, sets_of_paths, with_masks
from lit_od.evaluation.metrics import aupro, pixel_auroc
from lit_od.fitting.fit import Origin
from lit_od.images.find_local import find
from lit_od.images.preparation import prepare
from lit_od.scoring.scorer import Scorer
from tests.support import categories
from tests.support.bundles import make_bundle
from tests.support.graphs import graph_of
from tests.support.images import GREY


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    """A category in MVTec AD's layout; tests only read it."""
    return categories.mvtec(tmp_path_factory.mktemp("categories") / "nut")


@pytest.fixture(scope="module")
def mapped(category, tmp_path_factory) -> Bundle:
    """A bundle with maps: the squared distance to mid grey."""
    images = find([category / "train" / "good"])
    return make_bundle(
        tmp_path_factory.mktemp("bundles") / "nut",
        model=graph_of(["errors"], (28, 28, 1)),
        fit=images[:6],
        calibration=images[6:],
        detector={"kind": "reconstruction"},
        rule={"rule": "percentile", "q": 90},
        origin=Origin(name="nut"),
        threads=1,
    )


@pytest.fixture(scope="module")
def scorer(mapped):
    return Scorer.of(mapped, threads=1)


def maps_and_masks(scorer, folder):
    """Maps and masks of all test images, read apart from the package's own way."""
    maps, masks, kinds = [], [], []
    for image in find([folder / "test"]):
        pixels = prepare(image.decode(), GREY)
        maps.append(scorer.detector.score_map(scorer.backbone(pixels[None]))[1][0])
        file = folder / "ground_truth" / image.label / f"{image.path.stem}_mask.png"
        masks.append(prepare(find([file])[0].decode(), GREY)[..., 0] > 0 if file.exists() else np.zeros((28, 28), bool))
        kinds.append(image.label)
    return np.array(maps), np.array(masks), np.array(kinds)


def test_figures_are_those_of_scikit_learn_and_of_the_metrics(scorer, category):
    found = evaluate_defects(scorer, sets_of_category(category, GREY), resamples=20)
    maps, masks, kinds = maps_and_masks(scorer, category)
    scores = scorer.score([str(image.path) for image in find([category / "test"])]).score
    for name, each in [*found.kinds.items(), ("together", found.together)]:
        rows = (kinds == "good") | (kinds == name) if name != "together" else kinds != ""
        truth = kinds[rows] != "good"
        precision, recall, _ = precision_recall_curve(truth, scores[rows])
        expected = {
            "auroc": roc_auc_score(truth, scores[rows]),
            "aupr": average_precision_score(truth, scores[rows]),
            "f1_max": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)),
        }
        assert {key: interval.value for key, interval in each.image.items()} == pytest.approx(expected)
        pixels = {
            "pixel_auroc": pixel_auroc(maps[rows], masks[rows]),
            "aupro_0.3": aupro(maps[rows], masks[rows]),
            "aupro_0.05": aupro(maps[rows], masks[rows], 0.05),
        }
        assert {key: interval.value for key, interval in each.pixels.figures.items()} == pytest.approx(pixels)
        assert each.images == truth.sum()
        assert all(interval.low <= interval.value <= interval.high for interval in each.image.values())
    assert list(found.kinds) == ["hole", "scratch"]
    assert found.together.pixels.regions == 8


def test_the_table_and_the_figures_in_json(scorer, category):
    found = evaluate_defects(scorer, sets_of_category(category, GREY), resamples=20)
    table = found.table()
    assert table.startswith("MVTec AD, nut: image figures in percent, with 95 % intervals (20 bootstrap resamples")
    assert "Pixel figures at the prepared size, 28x28, masks resized to nearest pixels" in table
    for heading in ("F1-max", "pixel AUROC", "AUPRO 0.3", "AUPRO 0.05", "together", "normal"):
        assert heading in table
    assert max(map(len, table.splitlines())) <= 120
    tree = found.to_json()
    assert tree["category"] == "MVTec AD, nut"
    assert tree["defects"]["together"]["pixels"]["figures"]["aupro_0.3"]["value"] == (
        found.together.pixels.figures["aupro_0.3"].value
    )
    assert tree["inliers"]["n"] == 5


def test_bins_give_the_figures_within_their_bound_and_say_so(scorer, category, monkeypatch):
    exact = evaluate_defects(scorer, sets_of_category(category, GREY), resamples=2)
    monkeypatch.setattr(module, "EXACT_PIXELS", 100)
    found = evaluate_defects(scorer, sets_of_category(category, GREY), resamples=2)
    for name, interval in found.together.pixels.figures.items():
        assert abs(interval.value - exact.together.pixels.figures[name].value) <= found.together.pixels.bounds[name]
    assert "Pixels are counted in 2^20 bins of scores, which moves, in percent, pixel AUROC by at most" in found.table()


def test_loco_has_saturated_overlap(scorer, tmp_path):
    found = evaluate_defects(scorer, sets_of_category(categories.loco(tmp_path / "box"), GREY), resamples=5)
    assert list(found.together.pixels.figures) == ["pixel_auroc", "spro_0.3", "spro_0.05"]
    assert [each.pixels.regions for each in found.kinds.values()] == [6, 6]
    assert "sPRO 0.05" in found.table()


def test_private_sets_are_scored_alone(scorer, tmp_path):
    found = evaluate_defects(scorer, sets_of_category(categories.mvtec_2(tmp_path / "can"), GREY), resamples=5)
    assert found.unlabelled["test_private"].n == 2
    assert found.to_json()["unlabelled"]["test_private"]["n"] == 2
    assert "\ntest_private" in found.table()


def test_visa(scorer, tmp_path):
    found = evaluate_defects(scorer, sets_of_category(categories.visa(tmp_path), GREY), resamples=5)
    assert list(found.kinds) == ["anomaly"]
    assert found.together.pixels.regions == 3


def test_a_bundle_without_maps_has_image_figures_alone(made_bundle, category):
    found = evaluate_defects(Scorer.of(made_bundle, threads=1), sets_of_category(category, GREY), resamples=5)
    assert found.together.pixels is None
    assert found.table().endswith("The bundle's detector has no maps in one pass, so pixels are not evaluated.")


def test_without_masks_there_are_image_figures_alone(scorer, category, tmp_path):
    shutil.copytree(category, tmp_path / "nut", ignore=shutil.ignore_patterns("ground_truth"))
    found = evaluate_defects(scorer, sets_of_category(tmp_path / "nut", GREY), resamples=5)
    assert (found.together.pixels, found.notes) == (None, ["There are no masks, so pixels are not evaluated."])


def test_the_pixels_of_an_image_with_an_empty_mask_are_left_out(scorer, category, tmp_path, caplog):
    folder = shutil.copytree(category, tmp_path / "nut")
    categories.save(np.zeros((28, 28), bool), folder / "ground_truth" / "hole" / "001_mask.png")
    found = evaluate_defects(scorer, sets_of_category(folder, GREY), resamples=5)
    assert (found.together.images, found.together.pixels.regions) == (8, 7)
    assert "1 masks of defective images are empty, the first is that of" in caplog.messages[0]
    maps, masks, kinds = maps_and_masks(scorer, folder)
    kept = masks.any(axis=(1, 2)) | (kinds == "good")
    assert found.together.pixels.figures["aupro_0.3"].value == pytest.approx(aupro(maps[kept], masks[kept]))


def test_masks_that_vanish_at_the_prepared_size_are_told(scorer, tmp_path):
    folder = categories.mvtec(tmp_path / "nut", side=112)
    shutil.rmtree(folder / "test" / "scratch")
    mask = np.zeros((112, 112), bool)
    mask[8, 8] = True
    categories.save(mask, folder / "ground_truth" / "hole" / "001_mask.png")
    found = evaluate_defects(scorer, sets_of_category(folder, GREY), resamples=5)
    assert found.notes == [
        "The masks of 1 defective images vanish at the prepared size, or outside the region of interest: their pixels "
        "count as free of defects."
    ]


@pytest.mark.parametrize(("part", "what"), [("good", "normal"), ("hole", "defective")])
def test_a_category_without_defects_or_normal_test_images_is_refused(tmp_path, part, what):
    folder = categories.mvtec(tmp_path / "nut", train=1, good=1, defects=1)
    shutil.rmtree(folder / "test" / part)
    shutil.rmtree(folder / "test" / "scratch")
    with pytest.raises(DataError, match=f"is in the layout of MVTec AD and holds no {what} test image: add some"):
        sets_of_category(folder, GREY)


def test_other_folders_are_no_category(tmp_path, category):
    assert sets_of_category(tmp_path, GREY) is None
    with pytest.raises(DataError, match="is a folder of categories"):
        sets_of_category(category.parent, GREY)


def test_masks_tell_defects_from_normal_images(scorer, category, tmp_path):
    """An empty mask, or a folder called good, is that of a normal image; kinds are folders."""
    masks = shutil.copytree(category / "ground_truth", tmp_path / "masks")
    same = sets_of_masks(category / "test", masks, GREY)
    assert {each.name: len(each.sources) for each in [same.inliers, *same.outliers]} == {
        "normal": 5,
        "hole": 4,
        "scratch": 4,
    }
    expected = evaluate_defects(scorer, sets_of_category(category, GREY), resamples=5)
    found = evaluate_defects(scorer, same, resamples=5)
    assert (found.kinds, found.together) == (expected.kinds, expected.together)
    for number in range(5):
        categories.save(np.zeros((28, 28), bool), masks / "fine" / f"{number:03}.png")
    shutil.copytree(category / "test", tmp_path / "test")
    (tmp_path / "test" / "good").rename(tmp_path / "test" / "fine")
    found = evaluate_defects(scorer, sets_of_masks(tmp_path / "test", masks, GREY), resamples=5)
    assert (found.kinds, found.together) == (expected.kinds, expected.together)
    (masks / "fine" / "003.png").unlink()
    with pytest.raises(DataError, match=r"test/fine/003.png has no mask in .*masks, though it counts as defective"):
        sets_of_masks(tmp_path / "test", masks, GREY)


def test_a_flat_folder_of_images_and_masks(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        image, mask = categories.with_defect(rng, "hole")
        categories.save(image, tmp_path / "images" / f"{number}.png")
        categories.save(mask & (number > 1), tmp_path / "masks" / f"{number}.png")
    found = sets_of_masks(tmp_path / "images", tmp_path / "masks", GREY)
    assert {each.name: len(each.sources) for each in [found.inliers, *found.outliers]} == {"normal": 2, "defective": 2}
    for number in (0, 1):
        (tmp_path / "masks" / f"{number}.png").unlink()
        (tmp_path / "images" / f"{number}.png").unlink()
    with pytest.raises(
        DataError, match="holds no normal image, with an empty mask or in a folder called good: add some"
    ):
        sets_of_masks(tmp_path / "images", tmp_path / "masks", GREY)


def test_named_sets_with_masks(scorer, category):
    paths = {"holes": [str(category / "test" / "hole")]}
    sets = sets_of_paths([str(category / "test" / "good")], paths, GREY, opener=lambda path: None)
    found = evaluate_defects(scorer, with_masks(sets, category / "ground_truth"), resamples=5)
    expected = evaluate_defects(scorer, sets_of_category(category, GREY), resamples=5)
    assert found.kinds["holes"] == expected.kinds["hole"]
    with pytest.raises(DataError, match="has no mask in"):
        with_masks(sets, category / "train")
