"""Walk through a folder, past what is hidden, each linked folder once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


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
