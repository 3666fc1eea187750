import struct

import numpy as np
import pytest
import torchvision

from lit_od.errors import DataError
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.recipes.roots import data_root
from lit_od.training.data.torchvision_sets import open_set


@pytest.fixture
def root(tmp_path):
    """MNIST's four files with three digits for training and two for testing, and a small CIFAR-10 archive."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, digits in (("train", [8, 1, 9]), ("t10k", [8, 0])):
        pixels = np.arange(len(digits) * 28 * 28, dtype=np.uint64).astype(np.uint8).tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, len(digits), 28, 28) + pixels)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(digits)) + bytes(digits))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "cifar10.npz",
        train_images=images,
        train_labels=np.array([[3], [5], [3], [0]]),
        test_images=images[:2],
        test_labels=np.array([[5], [3]]),
    )
    return tmp_path


def test_all_is_training_then_test_images_with_their_own_row_numbers(root):
    found = open_set(root)("mnist")
    assert [source.name for source in found] == [
        "mnist:train#0",
        "mnist:train#1",
        "mnist:train#2",
        "mnist:test#0",
        "mnist:test#1",
    ]
    assert [source.label for source in found] == ["8", "1", "9", "8", "0"]
    assert [s.name for s in open_set(root)("mnist:all")] == [s.name for s in found]


def test_classes_by_index_and_by_name_keep_the_row_numbers(root):
    opener = open_set(root)
    assert [source.name for source in opener("mnist:train:8,9")] == ["mnist:train#0", "mnist:train#2"]
    assert [source.name for source in opener("mnist:train:Eight,nine")] == ["mnist:train#0", "mnist:train#2"]
    assert [source.label for source in opener("cifar10:train:cat")] == ["3", "3"]


def test_pixels_are_prepared_without_change(root):
    image = open_set(root)("mnist:test")[1].prepare(Preparation(size=(28, 28), mode="grey"))
    assert image.shape == (28, 28, 1)
    np.testing.assert_array_equal(image.reshape(-1), np.arange(784, 1568, dtype=np.uint64).astype(np.uint8))


def test_cifar10_is_read_from_an_archive_in_colour(root):
    found = find(["cifar10:test"], root=root, sets=open_set(root))
    assert [source.prepare(Preparation(size=(28, 28), crop=(28, 28))).shape for source in found] == [(28, 28, 3)] * 2


def test_other_paths_are_no_sets(root):
    assert open_set(root)("folder") is None
    assert open_set(root)("./mnist") is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mnist:validation", "no split 'validation', the splits are train, test, all"),
        ("mnist:test:10", r"no class '10', the classes are 0 zero, 1 one"),
        ("fashion-mnist:test:boot", "no class 'boot'.*9 ankle-boot"),
        ("mnist:test:8:9", r"wanted mnist\[:SPLIT\[:CLASSES\]\]"),
    ],
)
def test_an_unknown_split_or_class_names_the_known(root, path, message):
    with pytest.raises(DataError, match=message):
        open_set(root)(path)


def test_a_set_that_cannot_be_downloaded_is_one_line_with_the_mend(tmp_path, monkeypatch):
    def offline(self):
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    with pytest.raises(DataError, match=r"fashion-mnist is not below .*--data\.root or LIT_OD_DATA$") as caught:
        open_set(tmp_path)("fashion-mnist:test")
    assert "\n" not in str(caught.value)
    assert "and could not be downloaded (" in str(caught.value)
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: pytest.fail("it downloads"))
    with pytest.raises(DataError, match=r"mnist is not below .* \(Dataset not found"):
        open_set(tmp_path, download=False)("mnist:test")


def test_a_damaged_archive_is_one_line(tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cifar10\.npz cannot be read"):
        open_set(tmp_path)("cifar10")


def test_the_data_root_is_the_given_then_the_variable_then_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("LIT_OD_DATA", raising=False)
    assert str(data_root(None)) == "."
    monkeypatch.setenv("LIT_OD_DATA", str(tmp_path))
    assert data_root(None) == tmp_path
    (tmp_path / "below").mkdir()
    assert data_root(str(tmp_path / "below")) == tmp_path / "below"
    assert (data_root("lit_od:assets") / "digits.npz").is_file()


def test_a_data_root_that_is_no_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"data\.root .*missing is not a folder"):
        data_root(str(tmp_path / "missing"))
    monkeypatch.setenv("LIT_OD_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"LIT_OD_DATA .*gone is not a folder"):
        data_root(None)
