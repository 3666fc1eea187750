"""Known layouts of defect data sets: recognised by their folders, normal images apart from all others."""

import shutil

import pytest

from lit_od.errors import DataError
from lit_od.images.layouts import categories_below, layout_of, normal_images, read_category
from tests.support import categories


def stems(images):
    return [f"{image.path.parent.name}/{image.path.stem}" for image in images]


def test_mvtec_ad(tmp_path):
    found = read_category(categories.mvtec(tmp_path / "nut"))
    assert (found.name, found.layout, found.source) == ("nut", "MVTec AD", "train/good")
    assert [len(found.train), len(found.good)] == [12, 5]
    assert {kind: stems(images) for kind, images in found.defects.items()} == {
        kind: [f"{kind}/{number:03}" for number in range(4)] for kind in categories.KINDS
    }
    for images in found.defects.values():
        for image in images:
            (mask,) = found.truth.files[image.name]
            assert (mask.parent.name, mask.stem) == (image.path.parent.name, f"{image.path.stem}_mask")
    assert found.truth.saturations is None
    assert not found.unlabelled


def test_loco(tmp_path):
    found = read_category(categories.loco(tmp_path / "box"))
    assert (found.layout, len(found.train), len(found.good)) == ("MVTec LOCO AD", 6, 4)
    assert list(found.defects) == ["logical_anomalies", "structural_anomalies"]
    for kind, images in found.defects.items():
        for image in images:
            masks = found.truth.files[image.name]
            assert [mask.relative_to(tmp_path / "box" / "ground_truth").parts for mask in masks] == [
                (kind, image.path.stem, "000.png"),
                (kind, image.path.stem, "001.png"),
            ]
    assert [each.saturation_threshold for each in found.truth.saturations.values()] == [9, 0.5]
    (tmp_path / "box" / "defects_config.json").unlink()
    with pytest.raises(DataError, match=r"as LOCO does, and no defects_config\.json: add that file"):
        read_category(tmp_path / "box")


def test_mvtec_ad_2(tmp_path):
    found = read_category(categories.mvtec_2(tmp_path / "can"))
    assert (found.layout, len(found.train), len(found.good)) == ("MVTec AD 2", 6, 3)
    assert stems(found.defects["bad"]) == [f"bad/{number:03}_regular" for number in range(3)]
    assert len(found.truth.files) == 3
    assert {name: len(images) for name, images in found.unlabelled.items()} == {"test_private": 2}


def test_visa(tmp_path, monkeypatch):
    categories.visa(tmp_path / "visa")
    found = read_category(tmp_path / "visa" / "candle")
    assert (found.layout, len(found.train), len(found.good)) == ("VisA", 6, 3)
    assert {kind: len(images) for kind, images in found.defects.items()} == {"anomaly": 3}
    assert len(found.truth.files) == 3
    monkeypatch.chdir(tmp_path / "visa" / "candle")
    assert len(read_category(tmp_path.__class__()).train) == 6
    (tmp_path / "visa" / "split_csv" / "1cls.csv").write_text("image,label\n")
    with pytest.raises(DataError, match="needs the columns object, split, label, image, mask"):
        read_category(tmp_path / "visa" / "candle")
    shutil.rmtree(tmp_path / "visa" / "split_csv")
    with pytest.raises(DataError, match=r"says in split_csv/1cls\.csv what is for training"):
        normal_images(tmp_path / "visa" / "candle")


def test_other_folders_are_no_categories(tmp_path):
    categories.save(categories.texture(categories.np.random.default_rng(0)), tmp_path / "train" / "good" / "0.png")
    assert layout_of(tmp_path) is None
    assert normal_images(tmp_path) is None
    assert normal_images(tmp_path / "nothing") is None


def test_the_normal_images_of_a_category_are_those_of_its_training_folder(tmp_path, caplog):
    folder = categories.mvtec(tmp_path / "nut")
    found = normal_images(folder)
    assert {image.path.parent for image in found} == {folder / "train" / "good"}
    assert {image.label for image in found} == {None}
    assert caplog.messages == [
        f"lit-od: {folder} is in the layout of MVTec AD: 12 images of train/good are taken, and no other"
    ]
    shutil.rmtree(folder / "train" / "good")
    (folder / "train" / "good").mkdir()
    with pytest.raises(DataError, match="train/good holds no image"):
        normal_images(folder)


def test_a_folder_of_categories_is_refused_naming_them(tmp_path):
    for name in ("nut", "bolt"):
        categories.mvtec(tmp_path / "set" / name, train=1, good=1, defects=1)
    for root in (tmp_path / "set", tmp_path):
        with pytest.raises(
            DataError, match=r"is a folder of categories.*: name one of .*bolt, .*nut \(lit-od benchmark"
        ):
            normal_images(root)
    assert categories_below(tmp_path) == [tmp_path / "set" / "bolt", tmp_path / "set" / "nut"]
    assert categories_below(tmp_path / "set" / "nut") == [tmp_path / "set" / "nut"]


def test_a_mask_for_one_image_and_not_another_is_refused(tmp_path):
    folder = categories.mvtec(tmp_path / "nut")
    (folder / "ground_truth" / "hole" / "002_mask.png").unlink()
    with pytest.raises(
        DataError, match=r"test/hole/002.png has no mask in .*ground_truth, though it counts as defective"
    ):
        read_category(folder)
    assert len(normal_images(folder)) == 12  # which needs no masks
    (folder / "ground_truth" / "scratch" / "000_mask.png").unlink()
    with pytest.raises(DataError, match="ground_truth, nor have 1 others though"):
        read_category(folder)
    shutil.rmtree(folder / "ground_truth")
    assert read_category(folder).truth is None
