"""Parquet files that hold images.

The image files' bytes are in the column `bytes`, or `image` (bytes, or a struct of `bytes` and `path`), and perhaps
their names in `path`. Of a row group only the number of its rows is known before a worker reads it: a table of a
billion images is a short list. A worker reads a row group from its first row on, and holds of it a few pages, the parts
that are compressed each alone (of pyarrow's own files 1,024 rows): however large the group is, it is never in memory
whole. But who wants its last row reads all before it.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lit_od.errors import DataError, ImageError
from lit_od.images.object_store import arrow, cause, filesystem
from lit_od.images.sources import EncodedImage, LazySequence, Source, Unreadable

_COLUMNS = ("bytes", "image")
_NULL = "the table holds null in the place of its bytes"

PIECE = 16
"""Rows that are taken out of a row group at once."""

BUFFER = 1 << 22
"""Bytes that are asked for at once of each column. Without a buffer a group's whole column is."""

_TRIES = 2
"""How often a row group is read before its rows are given up from there on."""

_READING = threading.Lock()
_open: "list[_Reading]" = []
"""The row group that is being read, if there is one; whoever holds the lock reads on."""


class PackedImage(EncodedImage):
    """An image file in a row of a row group of a Parquet file; its name is FILE#ROW, where the table has none."""

    __slots__ = ("group", "row", "url")
    url: str
    group: int
    row: int

    def __init__(self, url: str, group: int, row: int, name: str) -> None:
        put = object.__setattr__  # no loop: a driver makes a billion of these
        put(self, "url", url)
        put(self, "group", group)
        put(self, "row", row)
        put(self, "name", name)
        put(self, "label", None)

    @property
    def data(self) -> bytes:
        """The bytes. Raises ImageError where they cannot be read."""
        data, _ = self._read()
        if data is None:
            raise ImageError(_NULL)
        return data

    def fetched(self) -> EncodedImage | Unreadable:
        """The image with its bytes in memory under the name that the table gives it, or why it is not."""
        try:
            data, name = self._read()
        except ImageError as error:
            return Unreadable(self.name, str(error))
        return Unreadable(name or self.name, _NULL) if data is None else EncodedImage(data, name or self.name)

    def _read(self) -> tuple[bytes | None, str | None]:
        try:
            return _row(self.url, self.group, self.row)
        except _errors() as error:
            raise ImageError(f"row group {self.group} cannot be read: {cause(error)}") from error


@dataclass(frozen=True, slots=True)
class RowGroup(LazySequence[Source]):
    """The images of one row group of a Parquet file."""

    url: str
    group: int
    first: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def at(self, row: int) -> Source:
        """Return the image in a row."""
        return PackedImage(self.url, self.group, row, f"{self.url}#{self.first + row}")


def row_groups(url: str) -> Iterator[RowGroup]:
    """The row groups of a Parquet file. Raises DataError where it cannot be read or holds no images."""
    arrow()
    import pyarrow.parquet as parquet

    try:
        files, path = filesystem(url)
        about = parquet.read_metadata(path, filesystem=files)
        schema = about.schema.to_arrow_schema()
    except _errors() as error:
        raise DataError(f"{url} cannot be read as Parquet: {cause(error)}") from error
    _columns(url, schema)  # refused here, not by a worker
    first = 0
    for group in range(about.num_row_groups):
        rows = about.row_group(group).num_rows
        yield RowGroup(url, group, first, rows)
        first += rows


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a table are read.

    Attributes:
        image: The one that holds the images.
        fields: Fields of it that are read, where it is a struct: `bytes`, and `path` where there is one.
        named: Whether the column `path` holds names.
    """

    image: str
    fields: tuple[str, ...]
    named: bool

    @property
    def read(self) -> list[str]:
        """Their names, as pyarrow takes them."""
        images = [f"{self.image}.{field}" for field in self.fields] or [self.image]
        return [*images, "path"] if self.named else images


def _columns(url: str, schema: Any) -> _Columns:
    """The columns of a table that are read. Raises DataError where they are missing, or of another type."""
    kinds = {name: schema.field(name).type for name in schema.names if schema.get_field_index(name) >= 0}
    there = [name for name in _COLUMNS if name in kinds]
    if not there:
        columns = ", ".join(schema.names)
        raise DataError(f"{url} needs a column named {' or '.join(_COLUMNS)}, its columns are {columns}")
    image = next((name for name in there if _fields(kinds[name]) is not None), None)
    if image is None:
        raise DataError(
            f"{url} has a column {there[0]} of type {_type_text(kinds[there[0]])}: wanted the bytes of image files, as "
            "binary or as a struct with a binary field bytes"
        )
    fields = _fields(kinds[image]) or ()
    names = [("column path", kinds["path"])] if "path" in kinds else []
    names += [(f"field path of column {image}", kinds[image].field("path").type)] if "path" in fields else []
    for what, kind in names:
        if not (_is_text(kind) or _is_binary(kind)):
            raise DataError(f"{url} has a {what} of type {_type_text(kind)}: wanted names, as string or binary")
    return _Columns(image, fields, "path" in kinds)


def _fields(kind: Any) -> tuple[str, ...] | None:
    """The fields to be read of a column of images: none of plain bytes; None where it is no such column."""
    import pyarrow as pa

    if _is_binary(kind):
        return ()
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0 or not _is_binary(kind.field("bytes").type):
        return None
    return ("bytes", "path") if kind.get_field_index("path") >= 0 else ("bytes",)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _is_text(kind: Any) -> bool:
    """Whether these are texts, or nothing at all."""
    import pyarrow as pa

    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return plain in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _type_text(kind: Any) -> str:
    text = str(kind)
    return text if len(text) < 100 else f"{text[:97]}..."


class _Reading:
    """A row group that is read from its first row on.

    Attributes:
        place: URL and number of the group.
        first: Number of the first row that can still be had.
        tried: How often the group has been opened to get past an error.
    """

    def __init__(self, url: str, group: int, tried: int = 1) -> None:
        import pyarrow.parquet as parquet

        self.place, self.first, self.tried = (url, group), 0, tried
        self._images: Any = []
        self._paths: Sequence[Any] = ()
        files, path = filesystem(url)
        self._file = parquet.ParquetFile(path, filesystem=files, buffer_size=BUFFER, pre_buffer=False)
        self._columns = _columns(url, self._file.schema_arrow)
        self._pieces = self._file.iter_batches(
            batch_size=PIECE, row_groups=[group], columns=self._columns.read, use_threads=False
        )
        self._error: Exception | None = None

    def close(self) -> None:
        """Nothing more is wanted of it."""
        self._file.close()

    def row(self, row: int) -> tuple[bytes | None, str | None]:
        """Bytes and name of a row. Raises one of `_errors()`, and from then on the same one."""
        while row >= self.first + len(self._images):
            if self._error is not None:
                raise self._error
            try:
                self._next()
            except _errors() as error:
                self._error = error
        at = row - self.first
        named = (os.fsdecode(name) for paths in self._paths if (name := paths[at].as_py()))
        return self._images[at].as_py(), next(named, None)

    def _next(self) -> None:
        import pyarrow as pa

        piece = next(self._pieces, None)
        if piece is None:
            raise ValueError("it has fewer rows than it had")
        self.first += len(self._images)
        self._images, columns = piece.column(self._columns.image), self._columns
        paths = [piece.column("path")] if columns.named else []
        if columns.fields:
            parts = dict(zip((field.name for field in self._images.type), self._images.flatten(), strict=True))
            self._images = parts["bytes"]  # null where the struct is
            paths += [parts["path"]] if "path" in parts else []
        plain = (each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in paths)
        self._paths = [each.cast(pa.large_binary()) for each in plain]  # texts need not be Unicode in truth


def _row(url: str, group: int, row: int) -> tuple[bytes | None, str | None]:
    """Bytes and name of a row of a row group. Raises one of `_errors()`."""
    with _READING:
        tried = 1
        while True:
            if not _open or _open[0].place != (url, group) or row < _open[0].first or _open[0].tried < tried:
                for each in _open:
                    each.close()
                _open[:] = []
                _open.append(_Reading(url, group, tried))
            try:
                return _open[0].row(row)
            except _errors():
                tried += 1  # stores fail now and then, but a damaged group is not read over and over
                if tried > _TRIES:
                    raise


def _errors() -> tuple[type[Exception], ...]:
    """What reading a table may raise."""
    import pyarrow as pa

    return OSError, ValueError, pa.ArrowException
