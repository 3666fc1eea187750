"""File systems of object stores, through pyarrow, and image files that lie there."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_od.errors import ImageError, missing_extra
from lit_od.images.sources import EncodedImage, Unreadable


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
            raise ImageError(f"cannot be fetched: {cause(error)}") from error
        return data

    def fetched(self) -> EncodedImage | Unreadable:
        """The same with its bytes in memory, or why they are not."""
        try:
            return EncodedImage(self.data, self.name, self.label)
        except ImageError as error:
            return Unreadable(self.name, str(error), self.label)


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
    found: tuple[Any, str] = arrow().FileSystem.from_uri(url)
    return found


@lru_cache(maxsize=1)
def _local() -> Any:
    return arrow().LocalFileSystem()


def arrow() -> Any:
    """The module pyarrow.fs. Raises MissingExtra where PyArrow is not installed."""
    try:
        import pyarrow.fs
        import pyarrow.parquet  # here, lest one be there and the other not
    except ModuleNotFoundError:
        missing_extra("PyArrow", "ray,cpu")
    return pyarrow.fs


def cause(error: Exception) -> str:
    """The first line of what an error says, else its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
