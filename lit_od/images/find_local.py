"""Find images on this machine: files, folders, lists, arrays and standard input."""

import codecs
import csv
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.images.folder_search import PARQUET, endings, search_folder
from lit_od.images.parquet import row_groups
from lit_od.images.sources import ImageArray, ImageFile, SetOpener, Source
from lit_od.types import Images


def find(
    paths: Iterable[str | Path], *, root: Path | None = None, sets: SetOpener | None = None, tell: bool = False
) -> list[Source]:
    """Find the images that PATHs name, in the given order, folders sorted by name.

    Args:
        paths: Each an image file; a folder, searched through (hidden files and folders are left out;
            the first folder below it is an image's label); a `.txt` list, a path a line, `#` comments;
            a `.csv` with a `path` and perhaps a `label` column; an `.npz`, as `file.npz`,
            `file.npz:ARRAY` or `file.npz:ARRAY:CLASSES`; an `.npy`; a `.parquet` table, or a folder of such;
            `-` for a list on standard input. Lists are UTF-8 or UTF-16, their paths are relative to the list.
        root: Folder that relative PATHs start from. None is the working folder.
        sets: Opens further sets by name, such as `mnist:test:8,9`, where no file or folder has that name. None knows
            no sets.
        tell: Log which folders were read, and how many files of which endings were left out.

    Returns:
        At least one image.

    Raises:
        DataError: If a PATH is empty or does not exist (a missing image becomes an error when it is read), a list or an
            array cannot be read, or nothing was found.
        MissingExtra: If a table is named and PyArrow is not installed.
    """
    found: list[Source] = []
    for path in paths:
        images = _find_one(str(path), root, sets, tell=tell)
        if not images:
            raise DataError(f"no image found in {path}. Looked for {' '.join(sorted(endings()))}")
        found += images
    if not found:
        raise DataError("no PATH given: name an image, a folder, a list, an .npz, or - for standard input")
    return found


def of_classes(sources: Sequence[Source], classes: Iterable[str]) -> list[Source]:
    """Return the images that belong to one of the classes.

    Raises:
        DataError: If no image has one of the classes.
    """
    wanted = list(classes)
    known = {source.label for source in sources}
    for name in wanted:
        if name not in known:
            labels = ", ".join(sorted(label for label in known if label is not None)) or "none at all"
            raise DataError(f"no image of class {name!r}: the labels here are {labels}")
    return [source for source in sources if source.label in wanted]


def only_inliers(path: str, images: Sequence[Source], labels: Sequence[str]) -> Sequence[Source]:
    """Return the images of a PATH that are inliers.

    Args:
        path: The PATH.
        images: Its images.
        labels: Labels of inliers; none takes all images.

    Raises:
        DataError: If no label is given for a list whose images have several, or no image has one of them.
    """
    if labels:
        return of_classes(images, labels)
    known = {source.label for source in images}
    if path.lower().endswith(".csv") and len(known) > 1:
        shown = ", ".join(sorted(label or "no label" for label in known)[:5])
        raise DataError(
            f"{path} lists images of several labels ({shown}), and all would count as inliers: say which are, with "
            "--label VALUE (in a recipe data.classes)"
        )
    return images


def _find_one(path: str, root: Path | None, sets: SetOpener | None, *, tell: bool) -> list[Source]:
    if path == "-":
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # names that are not Unicode, as in a list
        return list(_listed(sys.stdin, Path(), "standard input"))
    if not path:
        raise DataError(
            "an empty PATH was given, perhaps of a variable that is not set: name an image, a folder or a list"
        )
    where = root / path if root is not None else Path(path)
    if sets is not None and not is_on_disk(where) and (named := sets(path)) is not None:
        return named
    if where.is_dir():
        return _in_folder(where, tell=tell)
    archive, array, classes = _split_npz(where)
    if archive is not None:
        return _in_npz(archive, array, classes)
    if not where.exists() and where.suffix.lower() not in endings():  # a missing image is an error when it is read
        raise DataError(f"{where} does not exist: wanted an image, a folder, a list, an .npz or -")
    match where.suffix.lower():
        case ".txt":
            return list(_listed(io.StringIO(_text(where), newline=None), where.parent, str(where)))
        case ".csv":
            return list(_in_csv(where))
        case ".npy":
            return _in_npy(where)
        case ending if ending == PARQUET:
            return [image for group in row_groups(str(where)) for image in group]
        case _:
            return [ImageFile(where, str(where))]


def is_on_disk(path: Path) -> bool:
    """Return True if a file or folder has this very name.

    A file system that ignores case would take torchvision's folder MNIST for a folder called mnist.
    """
    if not path.exists() or path.name in ("", ".."):
        return path.exists()
    try:
        return any(each.name == path.name for each in path.parent.iterdir())
    except PermissionError:
        return True


def _in_folder(folder: Path, *, tell: bool) -> list[Source]:
    """Find images below a folder; without any, the rows of its tables.

    Raises:
        DataError: If there is neither.
    """
    found = search_folder(folder)
    if found.images:
        (found.say_read if tell else found.say_unread)()
        return found.images
    if found.tables:
        return [image for table in found.tables for group in row_groups(str(table)) for image in group]
    raise DataError(found.nothing())


def _text(file: Path) -> str:
    """Read a list in UTF-8, or in UTF-16 where it begins with that byte order mark.

    Bytes of names that are no Unicode are kept.

    Raises:
        DataError: If it is no text.
    """
    data = file.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not a text list of paths: {error.reason}") from None
    return data.decode("utf-8-sig", errors="surrogateescape")


def _listed(lines: Iterable[str], base: Path, where: str) -> Iterator[Source]:
    try:
        for number, raw in enumerate(lines):
            line = raw.rstrip("\r\n")
            if number == 0:
                line = line.removeprefix("\ufeff")  # standard input keeps the byte order mark that utf-8-sig drops
            if "\0" in line:
                raise DataError(f"{where} is not a text list of paths: wanted UTF-8 or UTF-16, got a zero byte")
            if line.strip() and not line.lstrip().startswith("#"):
                path = _below(base, line)
                yield ImageFile(path, str(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not a text list of paths: {error.reason}") from None


def _below(base: Path, name: str) -> Path:
    """Return the file that a list names, also with separators of Windows.

    A backslash may be part of a name elsewhere: it separates where only so the file exists.
    """
    path = base / name
    if os.sep != "\\" and "\\" in name and not path.exists():
        other = base / name.replace("\\", "/")
        return other if other.exists() else path
    return path


def _in_csv(table: Path) -> Iterator[Source]:
    rows = csv.DictReader(io.StringIO(_text(table), newline=""), strict=True)  # else an open quote swallows the rest
    try:
        columns = rows.fieldnames and [name.strip() for name in rows.fieldnames]
        if "path" not in (columns or ()):
            raise DataError(f"{table} needs a column named path, its columns are {columns}")
        rows.fieldnames = columns
        for row in rows:
            if row["path"]:
                path = _below(table.parent, row["path"])
                yield ImageFile(path, str(path), (row.get("label") or "").strip() or None)
            elif any(row.values()):
                raise DataError(f"{table} line {rows.line_num} has no path")
    except csv.Error as error:
        raise DataError(f"{table} line {rows.reader.line_num} is not CSV: {error}") from None


def _split_npz(path: Path) -> tuple[Path | None, str | None, list[str] | None]:
    """Split `file.npz:ARRAY:CLASSES` into its parts; None for each that is missing."""
    parts = re.fullmatch(r"(.*?\.npz)(?::(.*))?", str(path), re.DOTALL | re.IGNORECASE)
    if parts is None:
        return None, None, None
    array, _, classes = (parts[2] or "").partition(":")
    return Path(parts[1]), array or None, classes.split(",") if classes else None


def _in_npy(file: Path) -> list[Source]:
    if not file.exists():
        raise DataError(f"{file} does not exist")
    try:
        with file.open("rb") as data:
            images = np.lib.format.read_array(data, allow_pickle=False)
    except Exception as error:  # numpy raises several types, and would suggest unpickling
        raise DataError(f"{file} cannot be read as .npy: {error}. Write it with numpy.save") from error
    return [ImageArray(pixels, f"{file}#{row}") for row, pixels in enumerate(_stack(images, str(file)))]


def _in_npz(archive: Path, array: str | None, classes: list[str] | None) -> list[Source]:
    if not archive.exists():
        raise DataError(f"{archive} does not exist")
    if not zipfile.is_zipfile(archive):  # numpy would suggest unpickling it
        raise DataError(f"{archive} cannot be read as .npz: it is cut off, or no archive. Write it with numpy.savez")
    try:
        with archive.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = list(arrays.files)
            if array is None:
                array = _only_images(archive, names)
            elif array not in names:
                raise DataError(f"{archive} holds no array {array!r}, it holds {', '.join(names)}")
            images = arrays[array]
            labels_name = array.removesuffix("images") + "labels"
            labels = arrays[labels_name].reshape(-1) if labels_name in names and labels_name != array else None
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each raise their own type
        raise DataError(f"{archive} cannot be read as .npz: {error}") from error
    images = _stack(images, f"{archive}:{array}")
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{archive}: {labels_name} has {len(labels)} rows for {len(images)} images")
    rows: list[Source] = [
        ImageArray(pixels, f"{archive}#{row}", None if labels is None else str(labels[row]))
        for row, pixels in enumerate(images)
    ]
    return rows if classes is None else of_classes(rows, classes)


def _stack(images: NDArray[Any], where: str) -> Images:
    """Return the images of an array, shape (n, h, w) or (n, h, w, c).

    An array (h, w, 3) is one image in colour, as it is for a Scorer.

    Raises:
        DataError: If the array holds no images.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{where} must be uint8 (n, h, w) or (n, h, w, c), got {images.dtype} {images.shape}")
    if images.ndim == 3 and images.shape[2] == 3:
        return images[None]
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        raise DataError(f"{where} must have 1, 3 or 4 channels, last of its axes, got shape {images.shape}")
    return images


def _only_images(archive: Path, names: list[str]) -> str:
    """Return the name of the only array that can hold the images."""
    images = [name for name in names if name.endswith("images")] or names
    if not images:
        raise DataError(f"{archive} holds no array")
    if len(images) != 1:
        raise DataError(f"{archive} holds several arrays: name one, as {archive}:{images[0]}")
    return images[0]
