"""Planted duplicates are found, with their kind, and nothing else is."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.sources import OpenImage
from lit_od.operations.duplicates import LOOK, Duplicates, find_duplicates, set_names
from tests.support.categories import mvtec


def scene(seed: int, side: int = 96) -> Image.Image:
    """A made-up photograph: soft blots, so that it survives compression as photographs do."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(io.BytesIO(file.getvalue()))


def duplicates_of(images: list[Image.Image]) -> Duplicates:
    sources = [OpenImage(image, str(row)) for row, image in enumerate(images)]
    shortest = np.array([min(image.size) for image in images])
    return find_duplicates(sources, load(sources, LOOK, threads=1), shortest, threads=1)


def test_planted_duplicates_are_found_and_no_others() -> None:
    scenes = [scene(seed) for seed in range(20)]
    turned = scenes[3].transpose(Image.Transpose.TRANSVERSE)
    copies = [
        scenes[0].convert("RGBA"),
        jpeg(scenes[1]),
        scenes[2].resize((60, 60)),
        turned,
        jpeg(turned.resize((150, 150))),
    ]
    found = duplicates_of([*scenes, *copies])
    assert found.groups == [[0, 20], [1, 21], [2, 22], [3, 23, 24]]
    assert [found.kind(row) for row in (0, 20, 21, 22, 23, 24, 19)] == [
        "first",
        "exact",
        "near",
        "near",
        "near",
        "near",
        "first",
    ]
    assert found.distance[[0, 19, 20]].tolist() == [0, 0, 0]
    assert found.distance[23] < 0.5  # Pillow rounds after it has resized one of the two axes
    assert 0 < found.distance[21] < 1.5


def test_images_of_one_look_are_exact_only_where_all_pixels_agree() -> None:
    """Shrunk they are the same to the bit."""
    image = scene(0, side=256)
    other = image.copy()
    other.putpixel((8, 8), tuple((value + 1) % 256 for value in image.getpixel((8, 8))))
    found = duplicates_of([image, other, image, other])
    assert found.groups == [[0, 1, 2, 3]]
    assert [found.kind(row) for row in range(4)] == ["first", "near", "exact", "exact"]


def test_duplicates_are_counted_within_and_between_sets() -> None:
    first = np.array([0, 1, 0, 0, 1, 5])
    found = Duplicates(first, np.zeros(6, dtype=bool), np.zeros(6))
    assert found.groups == [[0, 2, 3], [1, 4]]
    assert found.between(["train", "train", "train", "test", "test", "test"]) == [
        {"sets": ["train", "test"], "images": 2},
        {"sets": ["train"], "images": 1},
    ]
    assert found.between(list("abcdef")) == [
        {"sets": list(names), "images": 1} for names in (("a", "c"), ("a", "d"), ("c", "d"), ("b", "e"))
    ]


def test_sets_are_paths_classes_and_the_folders_of_a_category(tmp_path: Path) -> None:
    category = mvtec(tmp_path / "pill")
    found = find([category])
    names = dict(
        zip(
            [Path(each.name).relative_to(category).parts[:2] for each in found],
            set_names(str(category), found),
            strict=True,
        )
    )
    assert names[("train", "good")] == str(category / "train" / "good")
    assert {name for parts, name in names.items() if parts[0] == "ground_truth"} == {None}
    folder = tmp_path / "pill" / "test"
    assert set(set_names(str(folder), find([folder]))) >= {str(folder / "good")}


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_have_no_duplicates(count: int) -> None:
    assert duplicates_of([scene(0)][:count]).groups == []
