"""Read image files as fast as their size allows."""

import stat
from pathlib import Path

from lit_od.errors import ImageError

AT_ONCE = 2**24
"""Bytes of the largest file that is read at once: of a decoder's many small reads each lets another thread in."""


def contents(file: Path) -> Path | bytes:
    """Return the bytes of a file, or its path if it is larger than `AT_ONCE`.

    Raises:
        ImageError: If it is no regular file: opening a pipe would wait for its writer.
        OSError: If it cannot be read.
    """
    try:
        status = file.stat()
    except ValueError:  # a name that no file can have
        raise ImageError("no such file") from None
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("is a folder, wanted an image file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is a pipe or a device, wanted an image file")
    return file.read_bytes() if status.st_size <= AT_ONCE else file
