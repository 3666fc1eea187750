"""Find images on this machine: files, folders, lists, arrays and standard input."""

import csv
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lit_od.errors import DataError
from lit_od.images.sources import ImageArray, ImageFile, SetOpener, Source, Unreadable

EXTENSIONS = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
"""Endings, in any case, of the files that are found in a folder. A file that is named itself may have any ending."""


def find(paths: Iterable[str | Path], *, root: Path | None = None, sets: SetOpener | None = None) -> list[Source]:
    """Find the images that PATHs name, in the given order, folders sorted by name.

    Args:
        paths: Each an image file; a folder, searched through (hidden files and folders are left out;
            the first folder below it is an image's label); a `.txt` list, a path a line, `#` comments;
            a `.csv` with a `path` and perhaps a `label` column; an `.npz`, as `file.npz`,
            `file.npz:ARRAY` or `file.npz:ARRAY:CLASSES`; `-` for a list on standard input.
            Paths in a list are relative to the list.
        root: Folder that relative PATHs start from. None is the working folder.
        sets: Opens further sets by name, such as `mnist:test:8,9`, where no file or folder has that name. None knows
            no sets.

    Returns:
        At least one image.

    Raises:
        DataError: If a PATH is empty or does not exist (a missing image becomes an error when it is read), a list or an
            array cannot be read, or nothing was found.
    """
    found: list[Source] = []
    for path in paths:
        images = _find_one(str(path), root, sets)
        if not images:
            raise DataError(f"no image found in {path}. Looked for {' '.join(sorted(EXTENSIONS))}")
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


def _find_one(path: str, root: Path | None, sets: SetOpener | None) -> list[Source]:
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
        return list(_in_folder(where))
    archive, array, classes = _split_npz(str(where))
    if archive is not None:
        return _in_npz(archive, array, classes)
    if not where.exists() and where.suffix.lower() not in EXTENSIONS:  # a missing image is an error when it is read
        raise DataError(f"{where} does not exist: wanted an image, a folder, a list, an .npz or -")
    match where.suffix.lower():
        case ".txt":
            with where.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                return list(_listed(lines, where.parent, str(where)))
        case ".csv":
            return list(_in_csv(where))
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


def _in_folder(folder: Path) -> Iterator[Source]:
    """Find images below a folder, sorted; each linked folder is searched once.

    A folder that cannot be listed becomes an unreadable image.
    """
    seen: set[str] = set()
    closed: list[OSError] = []
    for here, folders, files in os.walk(folder, followlinks=True, onerror=closed.append):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(here).relative_to(folder).parts
        for name in sorted(files):
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                path = Path(here, name)
                yield ImageFile(path, str(path), below[0] if below else None)
    for error in closed:
        yield Unreadable(str(error.filename), f"the folder cannot be listed: {str(error.strerror).lower()}")


def _listed(lines: Iterable[str], base: Path, where: str) -> Iterator[Source]:
    try:
        for number, raw in enumerate(lines):
            line = raw.rstrip("\r\n")
            if number == 0:
                line = line.removeprefix("\ufeff")  # standard input keeps the byte order mark that utf-8-sig drops
            if line.strip() and not line.lstrip().startswith("#"):
                yield ImageFile(base / line, str(base / line))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not a text list of paths: {error.reason}") from None


def _in_csv(table: Path) -> Iterator[Source]:
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)  # else a quote that is never closed swallows the rest
        try:
            if "path" not in (rows.fieldnames or ()):
                raise DataError(f"{table} needs a column named path, its columns are {rows.fieldnames}")
            for row in rows:
                if row["path"]:
                    path = table.parent / row["path"]
                    yield ImageFile(path, str(path), row.get("label") or None)
                elif any(row.values()):
                    raise DataError(f"{table} line {rows.line_num} has no path")
        except csv.Error as error:
            raise DataError(f"{table} line {rows.reader.line_num} is not CSV: {error}") from None


def _split_npz(path: str) -> tuple[Path | None, str | None, list[str] | None]:
    """Split `file.npz:ARRAY:CLASSES` into its parts; None for each that is missing."""
    head, ending, tail = path.partition(".npz")
    if not ending or (tail and not tail.startswith(":")):
        return None, None, None
    array, _, classes = tail[1:].partition(":")
    return Path(head + ending), array or None, classes.split(",") if classes else None


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
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{archive}:{array} must be uint8 (n, h, w) or (n, h, w, c), got {images.dtype} {images.shape}")
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4):
        raise DataError(f"{archive}:{array} must have 1, 3 or 4 channels, last of its axes, got shape {images.shape}")
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{archive}: {labels_name} has {len(labels)} rows for {len(images)} images")
    rows: list[Source] = [
        ImageArray(pixels, f"{archive}#{row}", None if labels is None else str(labels[row]))
        for row, pixels in enumerate(images)
    ]
    return rows if classes is None else of_classes(rows, classes)


def _only_images(archive: Path, names: list[str]) -> str:
    """Return the name of the only array that can hold the images."""
    images = [name for name in names if name.endswith("images")] or names
    if not images:
        raise DataError(f"{archive} holds no array")
    if len(images) != 1:
        raise DataError(f"{archive} holds several arrays: name one, as {archive}:{images[0]}")
    return images[0]
