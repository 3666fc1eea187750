"""Find images for a cluster: local files, URLs of object stores, Parquet files."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath

import numpy as np

from lit_od.errors import DataError, first_line
from lit_od.images.find_local import find
from lit_od.images.folder_search import PARQUET, endings
from lit_od.images.identity import require_places_apart, require_places_once
from lit_od.images.object_store import StoredImage, arrow, filesystem
from lit_od.images.parquet import RowGroup, row_groups
from lit_od.images.sources import LazySequence, Source
from lit_od.images.split import Subset


class ImageList(LazySequence[Source]):
    """A sequence of parts, one after the other; parts make their images on request.

    Attributes:
        parts: The parts that hold an image.
        ends: Row after the last of each part.
    """

    def __init__(self, parts: Iterable[Sequence[Source]]) -> None:
        self.parts = [part for part in parts if part]
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def at(self, row: int) -> Source:
        """Return an image."""
        part = bisect_right(self.ends, row)
        return self.parts[part][row - self.ends[part]]

    def group_start(self, row: int) -> int:
        """Return the first row of the row group of a row; the row itself if it has none."""
        number = bisect_right(self.ends, row)
        part = self.parts[number]
        return self.ends[number] - len(part) if isinstance(part, RowGroup) else row


def find_with_urls(
    paths: Iterable[str | Path], *, local: Callable[[Iterable[str]], Sequence[Source]] = find
) -> Sequence[Source]:
    """Find the images that PATHs name, in the given order, as `find` and more.

    Besides, a PATH may be a URL or a Parquet file. A folder, or a prefix of an object store, holds image files
    or Parquet files, not both.

    Args:
        paths: The PATHs.
        local: Finds the images of what is neither a URL nor a table.

    Raises:
        DataError: If a PATH does not exist or holds no image.
    """
    parts: list[Sequence[Source]] = []
    for path in map(str, paths):
        if "://" in path:
            parts += _at_url(path)
        elif tables := sorted(file for file in _visible(path) if file.suffix.lower() == PARQUET):
            mixed = any(file.suffix.lower() in endings() for file in _visible(path))
            _require_one_kind(path, tables=True, images=mixed)
            parts += [group for table in tables for group in row_groups(str(table))]
        elif path.lower().endswith(PARQUET) and not Path(path).is_dir():
            parts += row_groups(path)
        else:
            parts.append(local([path]))
    images = ImageList(parts)
    if not images:
        raise DataError("no image found: name an image, a folder, a list, an .npz, a URL or a Parquet file")
    return images


def require_parts_apart(first: Sequence[Source], second: Sequence[Source], uses: str) -> None:
    """Check that no image is in both of two parts of one list; make and read none.

    Args:
        first: One part, as `split` makes it.
        second: The other.
        uses: Uses of the two in the message, such as "fit and calibration image".

    Raises:
        DataError: If an image, or a table, is named twice.
    """
    require_places_apart(_listed(first), _listed(second), uses)
    _require_groups_once(first)


def require_listed_once(images: Sequence[Source]) -> None:
    """Check that each image and table of a list is named once; make none.

    Raises:
        DataError: If one is named twice.
    """
    whole = Subset(images, np.arange(len(images)))
    require_places_once(_listed(whole))
    _require_groups_once(whole)


def _require_groups_once(part: Sequence[Source]) -> None:
    known: set[tuple[str, int]] = set()
    for group in _groups(part):
        place = group.url if "://" in group.url else os.path.realpath(group.url), group.group
        if place in known:
            raise DataError(f"{group.url} is named twice: name each table once")
        known.add(place)


def _groups(part: Sequence[Source]) -> Iterator[RowGroup]:
    """Yield the row groups of a part's whole list."""
    if isinstance(part, Subset) and isinstance(part.whole, ImageList):
        yield from (each for each in part.whole.parts if isinstance(each, RowGroup))


def _listed(part: Sequence[Source]) -> Iterator[Source]:
    """Yield the images of a part that are no rows of tables."""
    if not (isinstance(part, Subset) and isinstance(part.whole, ImageList)):
        yield from part
        return
    rows = np.array([isinstance(each, RowGroup) for each in part.whole.parts])
    number = np.searchsorted(part.whole.ends, part.rows, side="right")
    yield from (part.whole[int(row)] for row in part.rows[~rows[number]])


def _visible(folder: str) -> Iterator[Path]:
    """Yield the files below a folder, without hidden files and folders."""
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in files if not name.startswith("."))


def _at_url(url: str) -> Iterator[Sequence[Source]]:
    """Find the images at a URL: a file, a Parquet file, or a prefix, sorted by name."""
    listing = arrow()
    try:
        files, path = filesystem(url.rstrip("/"))
        kind = files.get_file_info(path).type
        below = listing.FileSelector(path, recursive=True)
        found = files.get_file_info(below) if kind == listing.FileType.Directory else []
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be listed: {first_line(error)}") from error
    if kind == listing.FileType.File:
        yield from row_groups(url) if url.lower().endswith(PARQUET) else [[StoredImage(url)]]
        return
    if kind == listing.FileType.NotFound:
        raise DataError(f"{url} does not exist: wanted an image, a Parquet file, or a prefix of such")
    names = sorted(str(PurePosixPath(each.path).relative_to(path)) for each in found if each.is_file)
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    base = url.rstrip("/")
    tables = [name for name in names if name.lower().endswith(PARQUET)]
    images = [name for name in names if PurePosixPath(name).suffix.lower() in endings()]
    if not tables and not images:
        raise DataError(f"no image found in {url}. Looked for {PARQUET} and {' '.join(sorted(endings()))}")
    _require_one_kind(url, tables=bool(tables), images=bool(images))
    for name in tables:
        yield from row_groups(f"{base}/{name}")
    yield [StoredImage(f"{base}/{name}", name.split("/")[0] if "/" in name else None) for name in images]


def _require_one_kind(path: str, *, tables: bool, images: bool) -> None:
    if tables and images:
        raise DataError(f"{path} holds image files and Parquet files: name the ones that are meant, with a PATH each")
