"""Layouts of defect data sets, recognised by the names of their folders.

| layout | normal images to fit | test images | masks |
|---|---|---|---|
| MVTec AD | train/good | test/good, test/KIND | ground_truth/KIND/NNN_mask.png |
| MVTec LOCO AD | train/good | test/good, test/KIND | ground_truth/KIND/NNN/*.png, and defects_config.json |
| MVTec AD 2 | train/good | test_public/good, test_public/KIND | test_public/ground_truth/KIND/NNN_mask.png |
| VisA | by split_csv/1cls.csv beside the category's folder | by that file | by that file |

Images of other folders, such as validation/good, are left alone; private test sets of MVTec AD 2 come without truth.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_od.errors import DataError
from lit_od.formats.text import one_line
from lit_od.images.find_local import find
from lit_od.images.ground_truth import GroundTruth, match_masks, read_saturations
from lit_od.images.saying import say_once
from lit_od.images.sources import ImageFile, Source

GOOD = "good"
"""Name of the folders of normal images."""

SPLIT = Path("split_csv", "1cls.csv")
"""VisA's division into training and test images, of the protocol with one class."""

SATURATIONS = "defects_config.json"
"""LOCO's file of saturations."""

PRIVATE = ("test_private", "test_private_mixed")
"""Test sets of MVTec AD 2 without truth."""


@dataclass(frozen=True, slots=True, eq=False)
class Category:
    """Images of one category.

    Attributes:
        folder: Its folder.
        layout: Name of its layout, such as "MVTec AD".
        source: Place of the normal images to fit, such as "train/good".
        train: Normal images to fit.
        good: Normal test images.
        defects: Defective test images by kind.
        truth: Their masks; None where there are none.
        unlabelled: Test images without truth, by name of their set.
    """

    folder: Path
    layout: str
    source: str
    train: Sequence[Source]
    good: Sequence[Source]
    defects: Mapping[str, Sequence[Source]]
    truth: GroundTruth | None
    unlabelled: Mapping[str, Sequence[Source]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name


def layout_of(folder: Path) -> str | None:
    """Return the name of a category's layout; None if the folder is no category."""
    if (folder / "train" / GOOD).is_dir():
        if (folder / "test_public").is_dir():
            return "MVTec AD 2"
        if (folder / "test").is_dir():
            return "MVTec LOCO AD" if (folder / SATURATIONS).is_file() or _has_folders_of_masks(folder) else "MVTec AD"
    if (folder / "Data" / "Images" / "Normal").is_dir():
        return "VisA"
    return None


def read_category(folder: Path, *, masks: bool = True) -> Category | None:
    """Find the images of a category; None if the folder is in no known layout.

    Args:
        folder: The category's folder.
        masks: Find the masks of its defects too; False leaves them out.

    Raises:
        DataError: If the layout is known, and files are missing: a mask, or VisA's division.
    """
    match layout_of(folder):
        case None:
            return None
        case "VisA":
            return _visa(folder, masks=masks)
        case "MVTec AD 2" as layout:
            return _mvtec(folder, layout, folder / "test_public", masks=masks)
        case layout:
            return _mvtec(folder, layout, folder / "test", masks=masks)


def categories_below(root: Path) -> list[Path]:
    """Find the folders of categories at or below a folder, sorted by path."""
    if layout_of(root) is not None:
        return [root]
    found = []
    for here, folders, _ in os.walk(root):
        for name in list(folders):
            if name.startswith("."):
                folders.remove(name)
            elif layout_of(Path(here, name)) is not None:
                folders.remove(name)
                found.append(Path(here, name))
    return sorted(found)


def normal_images(folder: Path, *, tell: bool = True) -> list[Source] | None:
    """Return the normal images to fit of a category; log a line about them.

    Args:
        folder: A folder that is to be searched for normal images.
        tell: Log the line.

    Returns:
        None if the folder is in no known layout.

    Raises:
        DataError: If it is a folder of categories, or the category has no normal image.
    """
    category = read_category(folder, masks=False)
    if category is None:
        require_no_categories(folder)
        return None
    if not category.train:
        raise DataError(f"{folder} is in the layout of {category.layout}, and {category.source} holds no image")
    if tell:
        say_once(
            f"{one_line(folder)} is in the layout of {category.layout}: {len(category.train):,} images of "
            f"{category.source} are taken, and no other"
        )
    return list(category.train)


def require_no_categories(folder: Path) -> None:
    """Check that a folder, which is no category, holds none.

    Raises:
        DataError: If it does; the message names them.
    """
    if names := [str(path.relative_to(folder)) for path in categories_below(folder)]:
        shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        raise DataError(
            f"{folder} is a folder of categories, and each has normal images of its own: name one of {shown} "
            "(lit-od benchmark runs over all)"
        )


def _mvtec(folder: Path, layout: str, test: Path, *, masks: bool) -> Category:
    truth = (test if layout == "MVTec AD 2" else folder) / "ground_truth"
    kinds = [each for each in sorted(test.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    defects = {each.name: images for each in kinds if each.name not in (GOOD, truth.name) and (images := _in(each))}
    return Category(
        folder=folder,
        layout=layout,
        source=f"train/{GOOD}",
        train=_in(folder / "train" / GOOD),
        good=_in(test / GOOD),
        defects=defects,
        truth=_truth(folder, layout, truth, defects) if masks else None,
        unlabelled={name: images for name in PRIVATE if (images := _in(folder / name))}
        if layout == "MVTec AD 2"
        else {},
    )


def _truth(folder: Path, layout: str, truth: Path, defects: Mapping[str, Sequence[Source]]) -> GroundTruth | None:
    """Match defective images with their masks; None if there is no folder of masks."""
    if not defects or not _in(truth):
        return None
    saturations = None
    if layout == "MVTec LOCO AD":
        if not (folder / SATURATIONS).is_file():
            raise DataError(f"{folder} holds several masks an image, as LOCO does, and no {SATURATIONS}: add that file")
        saturations = read_saturations(folder / SATURATIONS)
    files, without = match_masks([each for images in defects.values() for each in images], truth)
    require_masks(without, truth)
    return GroundTruth(files, saturations)


def require_masks(without: Sequence[Source], masks: Path) -> None:
    """Check that no defective image lacks a mask.

    Args:
        without: Defective images without a mask.
        masks: Folder of masks.

    Raises:
        DataError: If there is one.
    """
    if without:
        others = f" nor have {len(without) - 1:,} others" if len(without) > 1 else ""
        raise DataError(
            f"{without[0].name} has no mask in {masks},{others} though it counts as defective: add its mask, or take "
            "the image out"
        )


def _in(folder: Path) -> list[Source]:
    """Find the images of a folder; none if it holds none or is missing."""
    try:
        return find([folder])
    except DataError:
        return []


def _has_folders_of_masks(folder: Path) -> bool:
    """Return True if a kind of defect has a folder of masks an image, as LOCO has."""
    kinds = folder / "ground_truth"
    return kinds.is_dir() and any(each.is_dir() for kind in kinds.iterdir() if kind.is_dir() for each in kind.iterdir())


def _visa(folder: Path, *, masks: bool) -> Category:
    """Read the rows of a category from VisA's division."""
    root, name = folder.resolve().parent, folder.resolve().name
    table = root / SPLIT
    if not table.is_file():
        raise DataError(
            f"{folder} is in the layout of VisA, which says in {SPLIT} what is for training: {table} does not exist"
        )
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"), newline=""))
    wanted = ("object", "split", "label", "image", "mask")
    if not set(wanted) <= set(rows.fieldnames or ()):
        raise DataError(f"{table} needs the columns {', '.join(wanted)}, its columns are {rows.fieldnames}")
    train: list[Source] = []
    good: list[Source] = []
    defects: dict[str, list[Source]] = {}
    files: dict[str, list[Path]] = {}
    for row in rows:
        if row["object"] != name:
            continue
        path = (
            folder / Path(row["image"]).relative_to(name)
            if row["image"].startswith(f"{name}/")
            else root / row["image"]
        )
        image = ImageFile(path, str(path))
        normal = row["label"].lower() == "normal"
        if row["split"] == "train":
            if normal:
                train.append(image)
        elif normal:
            good.append(image)
        else:
            defects.setdefault(row["label"], []).append(image)
            if row["mask"]:
                files[image.name] = [root / row["mask"]]
    if files and masks:
        require_masks([each for images in defects.values() for each in images if each.name not in files], table)
    truth = GroundTruth(files) if files and masks else None
    return Category(folder, "VisA", f"the training rows of {SPLIT}", train, good, defects, truth)
