"""Read images from Parquet files.

The image files' bytes are in the column `bytes`, or `image` (bytes, or a struct of `bytes` and `path`); their names
may be in `path`. Until a worker reads a row group only its number of rows is known: a table of a billion images is a
short list. A worker reads a row group from its first row on, and keeps a few pages of it in memory, the parts that are
compressed separately (1,024 rows in pyarrow's own files): however large the group is, it is never in memory whole. But
reading only its last row still reads all rows before it.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lit_od.errors import DataError, ImageError, first_line
from lit_od.images.object_store import arrow, filesystem
from lit_od.images.sources import EncodedImage, LazySequence, Source, Unreadable

_COLUMNS = ("bytes", "image")
_NULL = "the table holds null in the place of its bytes"

PIECE = 16
"""Rows that are read from a row group at once."""

BUFFER = 1 << 22
"""Bytes of each column that are read at once. Without a buffer a group's whole column is read."""

_TRIES = 2
"""Number of times that a row group is read before its remaining rows are given up."""

_READING = threading.Lock()
_open: "list[_Reading]" = []
"""The row group that is being read, if any; the holder of the lock reads on."""


class PackedImage(EncodedImage):
    """An image file in a row of a Parquet file's row group.

    Its name is FILE#ROW, where the table has no name for it.
    """

    __slots__ = ("group", "row", "url")
    url: str
    group: int
    row: int

    def __init__(self, url: str, group: int, row: int, name: str) -> None:
        """Name an image of a table, which is read later.

        Args:
            url: The table's file or URL.
            group: Number of the row group.
            row: Number of the row in its group.
            name: Name of the image.
        """
        put = object.__setattr__  # no loop: a driver makes a billion of these
        put(self, "url", url)
        put(self, "group", group)
        put(self, "row", row)
        put(self, "name", name)
        put(self, "label", None)

    @property
    def data(self) -> bytes:
        """Read the bytes. Raises ImageError if that fails."""
        data, _ = self._read()
        if data is None:
            raise ImageError(_NULL)
        return data

    def fetched(self) -> EncodedImage | Unreadable:
        """Read the bytes and the table's name; failure gives an unreadable image."""
        try:
            data, name = self._read()
        except ImageError as error:
            return Unreadable(self.name, str(error))
        return Unreadable(name or self.name, _NULL) if data is None else EncodedImage(data, name or self.name)

    def _read(self) -> tuple[bytes | None, str | None]:
        try:
            return _row(self.url, self.group, self.row)
        except _errors() as error:
            raise ImageError(f"row group {self.group} cannot be read: {first_line(error)}") from error


def fetched(image: Source) -> Source:
    """Return a row of a table with its bytes; any other image unchanged."""
    return image.fetched() if isinstance(image, PackedImage) else image


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
    """List the row groups of a Parquet file.

    Raises:
        DataError: If the file cannot be read or has no column of images.
    """
    arrow()
    import pyarrow.parquet as parquet

    try:
        files, path = filesystem(url)
        about = parquet.read_metadata(path, filesystem=files)
        schema = about.schema.to_arrow_schema()
    except _errors() as error:
        raise DataError(f"{url} cannot be read as Parquet: {first_line(error)}") from error
    _columns(url, schema)  # refused here, not by a worker
    first = 0
    for group in range(about.num_row_groups):
        rows = about.row_group(group).num_rows
        yield RowGroup(url, group, first, rows)
        first += rows


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of a table that are read.

    Attributes:
        image: The column that holds the images.
        fields: Fields of it that are read, if it is a struct: `bytes`, and `path` where there is one.
        named: True if the column `path` holds names.
    """

    image: str
    fields: tuple[str, ...]
    named: bool

    @property
    def read(self) -> list[str]:
        """Return the columns' names for pyarrow."""
        images = [f"{self.image}.{field}" for field in self.fields] or [self.image]
        return [*images, "path"] if self.named else images


def _columns(url: str, schema: Any) -> _Columns:
    """Choose the columns to read.

    Raises:
        DataError: If columns are missing, or have another type.
    """
    kinds = {name: schema.field(name).type for name in schema.names if schema.get_field_index(name) >= 0}
    candidates = [name for name in _COLUMNS if name in kinds]
    if not candidates:
        columns = ", ".join(schema.names)
        raise DataError(f"{url} needs a column named {' or '.join(_COLUMNS)}, its columns are {columns}")
    image = next((name for name in candidates if _fields(kinds[name]) is not None), None)
    if image is None:
        raise DataError(
            f"{url} has a column {candidates[0]} of type {_type_text(kinds[candidates[0]])}: wanted the bytes of image "
            "files, as binary or as a struct with a binary field bytes"
        )
    fields = _fields(kinds[image]) or ()
    names = [("column path", kinds["path"])] if "path" in kinds else []
    names += [(f"field path of column {image}", kinds[image].field("path").type)] if "path" in fields else []
    for name, kind in names:
        if not (_is_text(kind) or _is_binary(kind)):
            raise DataError(f"{url} has a {name} of type {_type_text(kind)}: wanted names, as string or binary")
    return _Columns(image, fields, "path" in kinds)


def _fields(kind: Any) -> tuple[str, ...] | None:
    """Return the fields to read of a column of images.

    Returns:
        None if the type holds no images; () for plain bytes.
    """
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
    """Return True for columns of text, and for columns of nulls."""
    import pyarrow as pa

    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return plain in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _type_text(kind: Any) -> str:
    text = str(kind)
    return text if len(text) < 100 else f"{text[:97]}..."


class _Reading:
    """A row group that is being read from its first row on.

    Attributes:
        place: URL and number of the group.
        first: Number of the first row that can still be read.
        tried: Number of times that the group has been opened to get past an error.
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
        """Close the file."""
        self._file.close()

    def row(self, row: int) -> tuple[bytes | None, str | None]:
        """Return bytes and name of a row.

        Raises one of `_errors()`, and the same one for all later rows.
        """
        while row >= self.first + len(self._images):
            if self._error is not None:
                raise self._error
            try:
                self._next()
            except _errors() as error:
                self._error = error.with_traceback(None)  # its frames hold what has been read
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
            self._images = parts["bytes"]  # null where the struct is null
            paths += [parts["path"]] if "path" in parts else []
        plain = (each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in paths)
        self._paths = [each.cast(pa.large_binary()) for each in plain]  # strings of a table may be invalid Unicode


def _row(url: str, group: int, row: int) -> tuple[bytes | None, str | None]:
    """Return bytes and name of a row of a row group. Raises one of `_errors()`."""
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
    """Return the types of exceptions that reading a table may raise."""
    import pyarrow as pa

    return OSError, ValueError, pa.ArrowException
