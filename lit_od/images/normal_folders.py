"""Find normal images to fit, and refuse folders that hold others too.

A folder of a category of defects gives its normal training images. Any other folder is searched through, which is said;
what lies below a folder called `test`, `ground_truth` or `defect`, or looks like a mask, is no normal image.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lit_od.errors import DataError, ImageError
from lit_od.formats.text import one_line
from lit_od.images.find_local import find
from lit_od.images.ground_truth import SUFFIX
from lit_od.images.layouts import layout_of, normal_images
from lit_od.images.sources import ImageFile, SetOpener, Source
from lit_od.images.split import evenly

NOT_NORMAL = frozenset(
    (
        "test tests testing test_set testset test_public test_private test_private_mixed ground_truth groundtruth gt "
        "mask masks annotations abnormal anomalies anomalous anomaly bad defect defective defects faulty ng nok "
        "not_good outlier outliers reject rejects"
    ).split()
)
"""Names, in small letters, of folders whose images are not, or not all, normal."""

MASK_ENDS = (SUFFIX, "_gt", "_seg", "_label", "_annotation")
"""Ends of the stems of masks."""

LOOKED_AT = 5
"""Images, of those that have another one's stem, that are decoded to see whether they are masks."""

MEND = "Name the folder of normal images alone; if all of these are normal, give --take-all (in a recipe data.take_all)"
"""Mend in the messages."""


def find_normal(
    path: str | Path, *, root: Path | None = None, sets: SetOpener | None = None, tell: bool = True
) -> list[Source]:
    """Find the images of a PATH that are to be fitted.

    Args:
        path: As `find` takes it; a category of defects gives its normal training images.
        root: As `find` takes it.
        sets: As `find` takes it.
        tell: Log what was read and left out.

    Raises:
        DataError: As `find`, and for a folder of categories.
    """
    folder = Path(path) if root is None else root / path
    return normal_images(folder, tell=tell) or find([path], root=root, sets=sets, tell=tell)


def find_all_normal(paths: Iterable[str | Path]) -> list[Source]:
    """Find the images of PATHs that are to be fitted, as `find_normal`."""
    return [image for path in paths for image in find_normal(path)]


def require_normal(images: Sequence[Source], folders: Iterable[Path], *, take_all: bool = False) -> None:
    """Check that images of folders look like normal ones.

    Args:
        images: Images to fit, perhaps some classes of those that were found.
        folders: Folders that were named; what is no folder, or a category of defects, is left alone.
        take_all: Check nothing.

    Raises:
        DataError: If some lie below a folder for tests or defects, or are masks of others.
    """
    if take_all:
        return
    files = [each.path for each in images if isinstance(each, ImageFile)]
    for folder in folders:
        if folder.is_dir() and layout_of(folder) is None:
            below = [file for file in files if file.is_relative_to(folder)]
            _require_no_tests(folder, below)
            _require_no_masks(folder, below)


def _require_no_tests(folder: Path, files: Sequence[Path]) -> None:
    if _is_not_normal(folder.resolve().name) and files:
        raise DataError(f"{folder} is called as folders are that hold more than normal images. {MEND}")
    found: Counter[str] = Counter()
    for parent, count in Counter(file.parent for file in files).items():
        parts = parent.relative_to(folder).parts
        for depth, part in enumerate(parts, start=1):
            if _is_not_normal(part):
                found["/".join(parts[:depth])] += count
                break
    if found:
        shown = ", ".join(f"{count:,} in {one_line(name, most=60)}/" for name, count in found.most_common(4))
        more = f" and {len(found) - 4:,} more folders" if len(found) > 4 else ""
        raise DataError(f"{folder} holds images that are hardly normal: {shown}{more}. {MEND}")


def _is_not_normal(name: str) -> bool:
    return name.lower().replace("-", "_").replace(" ", "_") in NOT_NORMAL


def _require_no_masks(folder: Path, files: Sequence[Path]) -> None:
    """Raise DataError if there are masks.

    They are known by the ends of their stems, or by their pixels where two files share a stem.
    """
    by_place: dict[str, Path] = {}
    twice: list[tuple[Path, Path]] = []
    ended: list[tuple[Path, str]] = []
    for file in files:
        place = str(file.with_suffix("")).lower()
        if place in by_place:
            twice.append((by_place[place], file))
        by_place.setdefault(place, file)
        if end := next((end for end in MASK_ENDS if place.endswith(end)), None):
            ended.append((file, place.removesuffix(end)))
    pairs = [(by_place[place], file) for file, place in ended if place in by_place]
    if not pairs and (looked := evenly(twice, LOOKED_AT)):
        black_and_white = [[_is_mask(file) for file in pair] for pair in looked]
        if all(sum(pair) == 1 for pair in black_and_white):
            pairs = [(one, other) if black_and_white[0][1] else (other, one) for one, other in twice]
    if pairs:
        image, mask = pairs[0]
        raise DataError(
            f"{folder} holds {len(pairs):,} masks among its images, such as {one_line(mask.name, most=60)} beside "
            f"{one_line(image.name, most=60)}. {MEND}"
        )


def _is_mask(file: Path) -> bool:
    """Return True for an image of at most two colours."""
    try:
        pixels = np.asarray(ImageFile(file, str(file)).decode().convert("L"))
    except ImageError:
        return False
    return len(np.unique(pixels)) <= 2
