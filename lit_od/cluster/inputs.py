"""Images for a cluster: all that `lit_od.sources` finds, URLs of object stores, and Parquet files that hold images.

A Parquet file has the image files' bytes in the column `bytes`, or `image` (bytes, or a struct of `bytes` and
`path`), and perhaps their names in `path`. Of a row group only the number of its rows is known before a worker
reads it: a table of a billion images is a short list.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, overload

from lit_od.errors import DataError, ImageError, missing_extra
from lit_od.sources import EXTENSIONS, EncodedImage, Source, Unreadable, find

PARQUET = ".parquet"
_COLUMNS = ("bytes", "image")
_READING = threading.Lock()
"""One thread reads a row group; the others that want it wait for it."""


class StoredImage(EncodedImage):
    """An image file at a URL; its bytes are fetched each time they are wanted."""

    __slots__ = ("url",)
    url: str

    def __init__(self, url: str, label: str | None = None) -> None:
        for name, value in (("url", url), ("name", url), ("label", label)):
            object.__setattr__(self, name, value)

    @property
    def data(self) -> bytes:
        """The bytes. Raises ImageError where they cannot be fetched."""
        try:
            files, path = filesystem(self.url)
            with files.open_input_file(path) as file:
                data: bytes = file.read()
        except FileNotFoundError:
            raise ImageError("no such file") from None
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be fetched: {_cause(error)}") from error
        return data

    def fetched(self) -> EncodedImage | Unreadable:
        """The same with its bytes in memory, or why they are not."""
        try:
            return EncodedImage(self.data, self.name, self.label)
        except ImageError as error:
            return Unreadable(self.name, str(error), self.label)


class PackedImage(EncodedImage):
    """An image file in a row of a row group of a Parquet file; its name is FILE#ROW, where the table has none."""

    __slots__ = ("group", "row", "url")
    url: str
    group: int
    row: int

    def __init__(self, url: str, group: int, row: int, name: str) -> None:
        for key, value in (("url", url), ("group", group), ("row", row), ("name", name), ("label", None)):
            object.__setattr__(self, key, value)

    @property
    def data(self) -> bytes:
        """The bytes. Raises ImageError where they cannot be read."""
        return self._read()[0]

    def fetched(self) -> EncodedImage | Unreadable:
        """The image with its bytes in memory under the name that the table gives it, or why it is not."""
        try:
            data, name = self._read()
            return EncodedImage(data, name or self.name)
        except ImageError as error:
            return Unreadable(self.name, str(error))

    def _read(self) -> tuple[bytes, str | None]:
        try:
            with _READING:
                images, paths = _group(self.url, self.group)
            data, path = images[self.row].as_py(), None if paths is None else paths[self.row].as_py()
        except (OSError, ValueError) as error:
            raise ImageError(f"row group {self.group} cannot be read: {_cause(error)}") from error
        if isinstance(data, dict):
            data, path = data["bytes"], path or data.get("path")
        return data or b"", path


@dataclass(frozen=True, slots=True)
class RowGroup(Sequence[Source]):
    """The images of one row group of a Parquet file."""

    url: str
    group: int
    first: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    @overload
    def __getitem__(self, row: int) -> Source: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Source]: ...

    def __getitem__(self, row: int | slice) -> Source | Sequence[Source]:
        if isinstance(row, slice):
            return [self[each] for each in range(self.rows)[row]]
        row = range(self.rows)[row]
        return PackedImage(self.url, self.group, row, f"{self.url}#{self.first + row}")


class Images(Sequence[Source]):
    """Parts laid end to end; what a part computes on demand stays so."""

    def __init__(self, parts: Iterable[Sequence[Source]]) -> None:
        self._parts = [part for part in parts if part]
        self._ends = list(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, row: int) -> Source: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Source]: ...

    def __getitem__(self, row: int | slice) -> Source | Sequence[Source]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        row = range(len(self))[row]
        part = bisect_right(self._ends, row)
        return self._parts[part][row - self._ends[part]]

    def runs(self, rows: range) -> Iterator[tuple[Sequence[Source], range]]:
        """The parts that consecutive rows lie in, and their rows there."""
        start = rows.start
        while start < rows.stop:
            number = bisect_right(self._ends, start)
            part, end = self._parts[number], self._ends[number]
            first = start - (end - len(part))
            stop = min(rows.stop, end)
            yield part, range(first, first + stop - start)
            start = stop


def find_images(paths: Iterable[str | Path]) -> Sequence[Source]:
    """Every image that the given PATHs name, in their order, as `lit_od.sources.find`, URLs and Parquet among them.

    A folder, or a prefix of an object store, holds image files or Parquet files, not both.

    Raises:
        DataError: If a PATH does not exist or holds no image.
    """
    parts: list[Sequence[Source]] = []
    for path in map(str, paths):
        if "://" in path:
            parts += _at_url(path)
        elif path.lower().endswith(PARQUET):
            parts += _in_table(path)
        elif Path(path).is_dir() and (tables := sorted(Path(path).rglob(f"*{PARQUET}"))):
            mixed = any(file.suffix.lower() in EXTENSIONS for file in Path(path).rglob("*"))
            _require_one_kind(path, tables=True, images=mixed)
            parts += [group for table in tables for group in _in_table(str(table))]
        else:
            parts.append(find([path]))
    images = Images(parts)
    if not images:
        raise DataError("no image found: name an image, a folder, a list, an .npz, a URL or a Parquet file")
    return images


def filesystem(url: str) -> tuple[Any, str]:
    """The file system (of pyarrow) of a URL or of a local path, and the path in it. Raises OSError or ValueError."""
    scheme, slashes, path = url.partition("://")
    if not slashes or scheme == "file":  # nothing is unquoted, here or below: a name is what a listing says
        return _local(), str(Path(path if slashes else url).absolute())
    bucket, _, key = path.partition("/")
    files, base = _of_bucket(f"{scheme}://{bucket}")  # regions, addresses and the like are in the environment
    return files, f"{base}/{key}" if key else base


@lru_cache(maxsize=64)
def _of_bucket(url: str) -> tuple[Any, str]:
    found: tuple[Any, str] = _arrow().FileSystem.from_uri(url)
    return found


@lru_cache(maxsize=1)
def _local() -> Any:
    return _arrow().LocalFileSystem()


def _arrow() -> Any:
    try:
        import pyarrow.fs
        import pyarrow.parquet  # here, lest one be there and the other not
    except ModuleNotFoundError:
        missing_extra("PyArrow", "ray,cpu")
    return pyarrow.fs


def _at_url(url: str) -> Iterator[Sequence[Source]]:
    """The images at a URL: one, those of a Parquet file, or all below a prefix, in the order of their names."""
    arrow = _arrow()
    try:
        files, path = filesystem(url.rstrip("/"))
        kind = files.get_file_info(path).type
        found = (
            files.get_file_info(arrow.FileSelector(path, recursive=True)) if kind == arrow.FileType.Directory else []
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be listed: {_cause(error)}") from error
    if kind == arrow.FileType.File:
        yield from _in_table(url) if url.lower().endswith(PARQUET) else [[StoredImage(url)]]
        return
    if kind == arrow.FileType.NotFound:
        raise DataError(f"{url} does not exist: wanted an image, a Parquet file, or a prefix of such")
    names = sorted(str(PurePosixPath(each.path).relative_to(path)) for each in found if each.is_file)
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    base = url.rstrip("/")
    tables = [name for name in names if name.lower().endswith(PARQUET)]
    images = [name for name in names if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not tables and not images:
        raise DataError(f"no image found in {url}. Looked for {PARQUET} and {' '.join(sorted(EXTENSIONS))}")
    _require_one_kind(url, tables=bool(tables), images=bool(images))
    for name in tables:
        yield from _in_table(f"{base}/{name}")
    yield [StoredImage(f"{base}/{name}", name.split("/")[0] if "/" in name else None) for name in images]


def _require_one_kind(path: str, *, tables: bool, images: bool) -> None:
    if tables and images:
        raise DataError(f"{path} holds image files and Parquet files: name the ones that are meant, with a PATH each")


def _in_table(url: str) -> Iterator[RowGroup]:
    _arrow()
    import pyarrow.parquet as parquet

    try:
        files, path = filesystem(url)
        about = parquet.read_metadata(path, filesystem=files)
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be read as Parquet: {_cause(error)}") from error
    _column(url, about.schema.to_arrow_schema().names)
    first = 0
    for group in range(about.num_row_groups):
        rows = about.row_group(group).num_rows
        yield RowGroup(url, group, first, rows)
        first += rows


def _column(url: str, names: Sequence[str]) -> str:
    """The column that holds the images."""
    for name in _COLUMNS:
        if name in names:
            return name
    raise DataError(f"{url} needs a column named {' or '.join(_COLUMNS)}, its columns are {', '.join(names)}")


@lru_cache(maxsize=2)
def _group(url: str, group: int) -> tuple[Any, Any]:
    """Images and paths of one row group; no paths where there is no such column."""
    import pyarrow.parquet as parquet

    files, path = filesystem(url)
    with parquet.ParquetFile(path, filesystem=files) as file:
        names = file.schema_arrow.names
        image, named = _column(url, names), "path" in names
        table = file.read_row_group(group, columns=[image, "path"] if named else [image])
    return table[image], table["path"] if named else None


def _cause(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
