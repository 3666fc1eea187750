"""Folders of normal images, and folders that hold more: what is found, said and refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import DataError
from lit_od.images.find_local import find
from lit_od.images.normal_folders import find_all_normal, find_normal, require_normal
from tests.support.categories import mvtec


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_what_was_read_and_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path, "a.png", "b/1.jpg", "b/2.JPG", "b/c/3.jpg", "notes.txt", "x.db", "y.db", "README", ".z.txt", "r.nef"
    )
    assert len(find_normal(tmp_path)) == 4
    line = f"lit-od: {tmp_path}: read 4 images (3 .jpg, 1 .png) of 3 folders: b (2), . (1), b/c (1); left out "
    assert [each for each in caplog.messages if each.startswith(line)] == caplog.messages
    assert caplog.messages[0].removeprefix(line) == (
        "2 .db, 1 without ending, 1 .txt, 1 .nef. .nef cannot be read. Convert them to PNG"
    )
    find_normal(tmp_path)
    assert len(caplog.messages) == 1


def test_one_image_is_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find_normal(touch(tmp_path, "a.png"))
    assert caplog.messages == [f"lit-od: {tmp_path}: read 1 image (1 .png)"]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image found in .*: it holds no file\. Looked for \.apng"):
        find_normal(tmp_path)
    with pytest.raises(DataError, match=r"it holds 2 \.mp4, 1 \.nef\. Convert them to PNG\. Looked for"):
        find_normal(touch(tmp_path, "a.mp4", "b.mp4", "c.nef"))


def test_a_category_gives_its_training_images(tmp_path: Path) -> None:
    category = mvtec(tmp_path / "pill")
    (folder := touch(tmp_path / "more", "x.png"))
    found = find_all_normal([category, folder])
    assert {Path(each.name).parent for each in found} == {category / "train" / "good", folder}
    require_normal(found, [category, folder])


@pytest.mark.parametrize("name", ["test", "Test Set", "ground_truth", "not-good", "deep/er/defects"])
def test_folders_for_tests_and_defects_are_refused(name: str, tmp_path: Path) -> None:
    photos = touch(tmp_path / "photos", "good/1.png", f"{name}/2.png", f"{name}/more/3.png")
    images = find([photos])
    with pytest.raises(
        DataError, match=rf"photos holds images that are hardly normal: 2 in {name}/\. Name .*--take-all"
    ):
        require_normal(images, [photos])
    require_normal(images, [photos], take_all=True)
    require_normal([each for each in images if each.label == "good"], [photos])  # the class was chosen
    require_normal(images, [photos / "good"])


def test_a_folder_that_is_called_so_itself_is_refused_and_those_above_it_are_not(tmp_path: Path) -> None:
    test = touch(tmp_path / "test", "good/1.png")
    with pytest.raises(DataError, match="is called as folders are that hold more than normal images"):
        require_normal(find([test]), [test])
    require_normal(find([test / "good"]), [test / "good"])


def test_masks_beside_their_images_are_refused_by_name(tmp_path: Path) -> None:
    folder = touch(tmp_path, "1.jpg", "1_mask.png", "2.jpg", "2_MASK.png", "3.jpg", "4_mask.png")
    with pytest.raises(DataError, match=r"holds 2 masks among its images, such as 1_mask\.png beside 1\.jpg"):
        require_normal(find([folder]), [folder])
    require_normal(find([touch(tmp_path / "b", "death_mask.png", "x.png")]), [tmp_path / "b"])


def test_masks_with_the_stems_of_their_images_are_refused_by_their_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).save(tmp_path / f"{number}.jpg")
    (other := tmp_path / "other").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).save(other / f"{number}.png")
        Image.open(tmp_path / f"{number}.jpg").save(other / f"{number}.jpg")
    require_normal(find([other]), [other])  # two photographs of a stem
    for number in range(3):
        Image.fromarray(rng.integers(0, 2, (9, 9), np.uint8) * 255).save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=r"holds 3 masks among its images, such as 0\.png beside 0\.jpg"):
        require_normal([each for each in find([tmp_path]) if each.label is None], [tmp_path])
