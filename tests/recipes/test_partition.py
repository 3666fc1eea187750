from collections import Counter

import numpy as np
import pytest

from lit_od.errors import ConfigError, DataError
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray
from lit_od.recipes.onnx_images import inliers_to_fit
from lit_od.recipes.partition import divide, find_parts
from lit_od.recipes.schema import DataConfig, Split
from tests.support import categories

PIXELS = np.zeros((2, 2), dtype=np.uint8)


def sources(**counts):
    """So many images a class, the classes mixed."""
    labels = [name for name, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(7).permutation(len(labels))
    return [ImageArray(PIXELS, f"#{row}", labels[place].lstrip("_")) for row, place in enumerate(order)]


def unlabelled(count):
    return [ImageArray(PIXELS, f"#{row}") for row in range(count)]


def config(**changes):
    return DataConfig(train="images", prepare=Preparation(size=(2, 2), mode="grey"), **changes)


def names(parts):
    return {part: [source.name for source in getattr(parts, part)] for part in ("train", "validation", "calibration")}


def test_parts_are_disjoint_stratified_and_in_order():
    everything = sources(a=100, b=50, c=30)
    parts = divide(everything, None, config(split=Split(validation=0.2, calibration=0.1, test=0.1)), seed=0)
    chosen = [source.name for part in (parts.train, parts.validation, parts.calibration, parts.test) for source in part]
    assert sorted(chosen) == sorted(source.name for source in everything)
    assert Counter(source.label for source in parts.validation) == {"a": 20, "b": 10, "c": 6}
    assert Counter(source.label for source in parts.calibration) == {"a": 10, "b": 5, "c": 3}
    for part in (parts.train, parts.validation):
        rows = [int(source.name[1:]) for source in part]
        assert rows == sorted(rows)


def test_the_division_is_a_function_of_seed_and_order():
    everything = sources(a=40, b=40)
    first = names(divide(everything, None, config(), seed=3))
    assert names(divide(sources(a=40, b=40), None, config(), seed=3)) == first
    assert names(divide(everything, None, config(), seed=4)) != first


def test_held_out_classes_are_in_no_part_of_the_inliers():
    parts = divide(sources(a=20, b=20, c=9), sources(a=5, b=5, c=4), config(outlier_classes=["c"], test="more"), seed=0)
    for part in (parts.train, parts.validation, parts.calibration, parts.test):
        assert {source.label for source in part} == {"a", "b"}
    assert len(parts.outliers) == 13
    assert parts.watched == 9
    assert parts.class_names == ["a", "b"]


def test_classes_that_are_not_chosen_are_left_out():
    parts = divide(sources(a=20, b=20, c=20), sources(a=2, c=2), config(classes=["a", "b"], test="more"), seed=0)
    assert parts.class_names == ["a", "b"]
    assert [source.label for source in parts.test] == ["a", "a"]
    assert parts.outliers == []


def test_numbered_classes_come_in_the_order_of_their_numbers():
    parts = divide(sources(_10=5, _9=5, _1=5, x=5), None, config(), seed=0)
    assert parts.class_names == ["1", "9", "10", "x"]


def test_images_without_labels_are_one_class():
    parts = divide(unlabelled(20), unlabelled(3), config(test="more"), seed=0)
    assert parts.class_names == ["inlier"]
    assert (len(parts.train), len(parts.validation), len(parts.calibration), len(parts.test)) == (16, 2, 2, 3)


def test_a_limit_takes_classes_in_proportion():
    parts = divide(sources(a=100, b=50), None, config(limit=30, split=Split(validation=0, calibration=0)), seed=0)
    assert Counter(source.label for source in parts.train) == {"a": 20, "b": 10}


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (sources(a=20, b=1), {}, "class 'b' has 1 images, training needs at least 3: one for each part"),
        (
            sources(a=20),
            {"outlier_classes": ["z"]},
            r"data\.outlier_classes: no image of class 'z'; the classes here are a",
        ),
        (sources(a=20), {"classes": ["a", "q"]}, r"data\.classes: no image of class 'q'"),
        (sources(a=20), {"outlier_classes": ["a"]}, "images: every class is in data.outlier_classes"),
        (sources(a=20) + unlabelled(2), {}, r"2 of 22 images have no class, the first is #0: put each into"),
    ],
)
def test_images_that_do_not_suffice_are_refused(images, changes, message):
    with pytest.raises(DataError, match=message):
        divide(images, None, config(**changes), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": Split(validation=1.0)}, r"split\.validation must be a share in \[0, 1\), got 1"),
        ({"split": Split(validation=0.6, calibration=0.5)}, "add up to 1.1, which leaves no training images"),
        ({"limit": 1}, "data.limit must leave an image a class, wanted at least 2, got 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        divide(sources(a=20, b=20), None, config(**changes), seed=0)


def test_two_sources_of_test_images_are_refused():
    with pytest.raises(ConfigError, match=r"data\.test and data\.split\.test exclude each other"):
        divide(sources(a=20), sources(a=20), config(test="more", split=Split(test=0.1)), seed=0)


def test_test_images_of_a_class_that_training_lacks_are_refused():
    with pytest.raises(DataError, match=r"of data.test has the class 'b', which the training images do not know"):
        divide(sources(a=20), sources(a=1, b=1), config(test="more"), seed=0)
    with pytest.raises(DataError, match=r"of data.test has no class, which"):
        divide(sources(a=20), unlabelled(1), config(test="more"), seed=0)


@pytest.mark.parametrize(("root", "train"), [("nut", "."), (".", "nut")])
def test_the_images_of_a_category_are_its_normal_training_images(tmp_path, caplog, root, train):
    folder = categories.mvtec(tmp_path / "nut")
    config = DataConfig(train=train, root=str(tmp_path / root), prepare=Preparation(size=(28, 28), mode="grey"))
    fit = inliers_to_fit(config, seed=0)
    parts = find_parts(config, seed=0)
    for images in (fit, [*parts.train, *parts.validation, *parts.calibration]):
        assert sorted(image.path for image in images) == sorted((folder / "train" / "good").iterdir())
    assert "12 images of train/good are taken, and no other" in caplog.messages[0]


def test_a_folder_of_categories_is_refused(tmp_path):
    categories.mvtec(tmp_path / "nut", train=3, good=1, defects=1)
    config = DataConfig(train=".", root=str(tmp_path), prepare=Preparation(size=(28, 28), mode="grey"))
    for found in (inliers_to_fit, find_parts):
        with pytest.raises(
            DataError, match="is a folder of categories, and each has normal images of its own: name one of nut"
        ):
            found(config, seed=0)


def test_copies_that_parts_share_are_told_once(tmp_path, caplog):
    for number in range(12):
        categories.save(np.full((4, 4), 7, np.uint8), tmp_path / "images" / f"{number}.png")
    found = config(root=str(tmp_path), split=Split(validation=0.2, calibration=0.2, test=0.2))
    for _ in range(2):
        find_parts(found, seed=0)
    told = [line.split(": ")[1] for line in caplog.messages]
    assert told[1:] == [
        "copies of 2 images serve as both training and calibration image",
        "copies of 2 images serve as both training and test image",
    ]
