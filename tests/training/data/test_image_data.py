import numpy as np
import pytest
import torch
from PIL import Image

from lit_od.errors import ConfigError, DataError
from lit_od.images.batching import load
from lit_od.images.preparation import Preparation
from lit_od.recipes.roots import PACKAGED_DATA
from lit_od.recipes.schema import Augment, DataConfig, Split
from lit_od.training.data.image_data import EVALUATION_BATCH, ImageData, check_trainable, evaluation_batch
from tests.support.images import GREY


def digits(seed=0, **changes):
    settings = {"root": PACKAGED_DATA, "prepare": GREY, "limit": 200, "outlier_classes": ["8", "9"]} | changes
    return ImageData(DataConfig(train="digits.npz:train_images", **settings), seed=seed)


@pytest.fixture
def folders(tmp_path):
    """Six photographs in each of two class folders."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for row in range(6):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{row}.png")
    return tmp_path


def in_folders(folders, **changes):
    how = Preparation(size=(8, 8))
    settings = {"prepare": how, "batch_size": 3, "split": Split(validation=0.2, calibration=0.2)} | changes
    return ImageData(DataConfig(train=str(folders), **settings))


def test_batches_are_prepared_images_and_class_positions():
    data = digits()
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((32, 28, 28, 1), torch.uint8)
    assert (labels.shape, labels.dtype) == ((32,), torch.int64)
    assert data.class_names == ["0", "1", "2", "3", "4", "5", "6", "7"]
    np.testing.assert_array_equal(data.labels("train"), [int(source.label) for source in data.sources("train")])
    assert set(data.labels("outliers").tolist()) == {-1}


def test_evaluation_batches_hold_every_image_once_in_order():
    data = digits()
    images = torch.cat([images for images, _ in data.val_dataloader()])
    np.testing.assert_array_equal(images.numpy(), load(data.sources("validation"), GREY))


def test_an_epoch_holds_every_training_image_with_its_label():
    data = digits()
    loader = data.train_dataloader()
    pairs = [(images, labels) for images, labels in loader]
    known = {
        image.tobytes(): label
        for image, label in zip(load(data.sources("train"), GREY), data.labels("train"), strict=True)
    }
    seen = {
        image.tobytes(): int(label)
        for images, labels in pairs
        for image, label in zip(images.numpy(), labels, strict=True)
    }
    assert seen == {key: int(label) for key, label in known.items()}
    assert len(pairs) == len(loader)


def test_decoding_ahead_gives_the_same_batches_as_memory(folders):
    kept, decoded = in_folders(folders), in_folders(folders, memory=0)
    for epoch in (0, 1):
        loaders = kept.train_dataloader(), decoded.train_dataloader()
        assert type(loaders[0]) is not type(loaders[1])
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for mine, other in zip(*loaders, strict=True):
            torch.testing.assert_close(mine[0], other[0], rtol=0, atol=0)
            torch.testing.assert_close(mine[1], other[1])


def test_the_memory_budget_is_spent_part_by_part(folders):
    data = in_folders(folders, prepare=Preparation(size=(300, 300)), memory=2)  # 8 and 2 images of 0.26 MiB
    assert type(data.train_dataloader()).__name__ == "DecodingLoader"
    assert type(data.val_dataloader()).__name__ == "MemoryLoader"


def test_a_broken_image_names_itself(folders):
    (folders / "cats" / "0.png").write_bytes(b"\x89PNG broken")
    data = in_folders(folders, memory=0, split=Split(validation=0, calibration=0))
    with pytest.raises(DataError, match=r"cats/0\.png: .*Run lit-od check"):
        list(data.train_dataloader())


def test_the_fingerprint_knows_names_labels_and_parts_but_not_the_root(folders, tmp_path_factory):
    def fingerprint(root, **changes):
        return in_folders(".", root=str(root), **changes).fingerprint

    first = fingerprint(folders)
    moved = tmp_path_factory.mktemp("elsewhere") / "images"
    folders.rename(moved)
    assert fingerprint(moved) == first
    assert fingerprint(moved, split=Split(validation=0.4, calibration=0.2)) != first
    (moved / "cats" / "0.png").rename(moved / "cats" / "x.png")
    assert fingerprint(moved) != first


def test_the_fingerprint_counts_from_the_folder_that_is_named(folders, monkeypatch):
    first = in_folders(folders).fingerprint
    monkeypatch.setenv("LIT_OD_DATA", str(folders.parent))
    assert in_folders(folders).fingerprint == first
    assert in_folders(folders.name).fingerprint == first


def test_an_image_that_took_anothers_place_changes_the_fingerprint(folders):
    first = in_folders(folders).fingerprint
    (folders / "cats" / "0.png").write_bytes((folders / "cats" / "0.png").read_bytes() + b" ")
    assert in_folders(folders).fingerprint != first
    rows = np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4)
    prints = []
    for images in (rows, rows, rows[::-1]):
        np.savez(folders / "rows.npz", images=images)
        prints.append(in_folders("rows.npz", root=str(folders)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_images_that_no_training_sees_are_not_in_the_fingerprint(folders):
    (folders / "tests" / "cats").mkdir(parents=True)
    (folders / "cats" / "0.png").rename(folders / "tests" / "cats" / "0.png")
    how = {"outlier_classes": ["dogs"], "classes": ["cats"], "test": str(folders / "tests")}
    first = in_folders(folders, **how).fingerprint
    (folders / "dogs" / "0.png").unlink()
    (folders / "tests" / "cats" / "0.png").rename(folders / "tests" / "cats" / "1.png")
    assert in_folders(folders, **how).fingerprint == first
    (folders / "cats" / "5.png").unlink()
    assert in_folders(folders, **how).fingerprint != first


def test_a_missing_file_has_a_fingerprint(folders):
    (folders / "list.txt").write_text("".join(f"cats/{row}.png\n" for row in range(9)))
    assert in_folders("list.txt", root=str(folders)).fingerprint  # and reading it says what is wrong


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ((28, 28, 1), EVALUATION_BATCH),
        ((96, 96, 3), EVALUATION_BATCH),
        ((128, 128), 144),
        ((512, 512, 1), 9),
        ((64, 256, 3), 144),
        ((4000, 4000, 3), 1),
    ],
)
def test_a_batch_of_large_images_has_fewer(shape, batch):
    assert evaluation_batch(shape) == batch


def test_validation_takes_so_many_at_once(folders, monkeypatch):
    monkeypatch.setattr("lit_od.training.data.image_data.EVALUATION_PIXELS", 8 * 8 * 2)
    loader = in_folders(folders, split=Split(validation=0.4, calibration=0.2)).val_dataloader()
    assert [len(labels) for _, labels in loader] == [2, 2]


def test_an_empty_part_has_no_loader():
    data = digits(split=Split(validation=0, calibration=0.1))
    assert data.val_dataloader() == []
    assert data.test_dataloader() == []
    with pytest.raises(DataError, match=r"training needs validation images: set data\.split\.validation"):
        check_trainable(data)


def test_nothing_is_augmented_outside_of_training():
    data = digits(augment=Augment(rotation=30))
    batch = next(iter(data.train_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        digits(seed=-1)
    with pytest.raises(ConfigError, match=r"data\.batch_size must be at least 1, got 0"):
        digits(batch_size=0)
    with pytest.raises(ConfigError, match=r"data\.augment\.turns takes square images"):
        digits(augment=Augment(turns=True), prepare=Preparation(size=(28, 20), mode="grey"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image found in"):
        in_folders(tmp_path / "empty")


def test_the_watched_outliers_are_those_of_the_training_source():
    data = digits(test="digits.npz:test_images")
    watched = data.watched_outliers()
    assert {source.label for source in watched} == {"8", "9"}
    assert watched == data.sources("outliers")[: len(watched)]
    assert len(watched) < len(data.sources("outliers"))
