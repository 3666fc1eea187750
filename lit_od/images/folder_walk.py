"""Files of a folder: walk past what is hidden, each linked folder once; versions."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

Version: TypeAlias = tuple[int, int]
"""Size of a file in bytes, and its time of change in milliseconds, which all file systems keep alike."""


def version_of(found: os.stat_result) -> Version:
    """Return the version of a file."""
    return found.st_size, found.st_mtime_ns // 1_000_000


def visible_files(folder: Path, closed: Callable[[OSError], object]) -> Iterator[Path]:
    """Yield the files below a folder, sorted by name within each folder.

    Args:
        folder: The folder. Hidden files and folders in it are left out.
        closed: Called with the error of each folder that cannot be listed.
    """
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=closed):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(here, name)
