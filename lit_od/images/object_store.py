"""Open file systems of object stores, through pyarrow, and image files in them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_od.errors import ImageError, first_line, missing_extra
from lit_od.images.sources import EncodedImage, Unreadable


class StoredImage(EncodedImage):
    """An image file at a URL; its bytes are fetched on every access."""

    __slots__ = ("url",)
    url: str

    def __init__(self, url: str, label: str | None = None) -> None:
        for name, value in (("url", url), ("name", url), ("label", label)):
            object.__setattr__(self, name, value)

    @property
    def data(self) -> bytes:
        """Fetch the bytes. Raises ImageError if that fails."""
        try:
            files, path = filesystem(self.url)
            with files.open_input_file(path) as file:
                data: bytes = file.read()
        except FileNotFoundError:
            raise ImageError("no such file") from None
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be fetched: {first_line(error)}") from error
        return data

    def fetched(self) -> EncodedImage | Unreadable:
        """Fetch the bytes once, into memory; failure gives an unreadable image."""
        try:
            return EncodedImage(self.data, self.name, self.label)
        except ImageError as error:
            return Unreadable(self.name, str(error), self.label)


def filesystem(url: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URL or local path, and the path in it.

    Raises:
        OSError: If the store cannot be reached.
        ValueError: If the URL is invalid.
    """
    scheme, slashes, path = url.partition("://")
    if not slashes or scheme == "file":  # names are used as listed, never unquoted
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
    """Import pyarrow.fs. Raises MissingExtra if PyArrow is not installed."""
    try:
        import pyarrow.fs
        import pyarrow.parquet  # both or neither
    except ModuleNotFoundError:
        missing_extra("PyArrow", "parquet,cpu")
    return pyarrow.fs
