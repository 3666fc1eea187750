"""Move scored files out of the folder that is watched."""

import errno
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from lit_od.errors import ConfigError
from lit_od.formats.atomic import atomic_file, require_writable
from lit_od.formats.text import one_line
from lit_od.images.folder_walk import Version, version_of

KINDS = ("outliers", "inliers", "errors")
"""Kinds of files, by their verdict."""

_LOG = logging.getLogger(__name__)
"""Logger that Python prints to standard error where nothing else is set up."""


@dataclass
class Moves:
    """Folders for files of a kind.

    Attributes:
        source: The folder that is watched.
        folders: A folder for each kind that is moved.
        failed: Number of files that could not be moved.
    """

    source: Path
    folders: dict[str, Path] = field(default_factory=dict)
    failed: int = 0

    def add(self, word: str) -> None:
        """Take `KIND=DIR`.

        Raises:
            ConfigError: If it is of another form or names a kind again, or the folder lies in the one that is watched.
        """
        kind, equals, folder = word.partition("=")
        if kind not in KINDS or not equals or not folder:
            raise ConfigError(f"--move takes {'=DIR, '.join(KINDS)}=DIR, got {word!r}")
        if kind in self.folders:
            raise ConfigError(f"--move names a folder for {kind} twice: {self.folders[kind]} and {folder}")
        require_apart("--move", Path(folder), self.source)
        require_writable(Path(folder))
        self.folders[kind] = Path(folder)

    def move(self, kind: str, file: Path, version: Version) -> None:
        """Move a file if its kind is moved; a failure is logged and counted.

        Args:
            kind: Its kind.
            file: Its path.
            version: The version that was scored. Another one stays: it has yet to be scored.
        """
        folder = self.folders.get(kind)
        if folder is None or not file.exists():
            return
        try:
            if version_of(file.stat()) == version:
                _moved(file, folder / os.path.relpath(file, self.source))
        except OSError as error:
            self.failed += 1
            _LOG.warning("lit-od: %s stays: %s", one_line(file), one_line(error.strerror or error))


def require_apart(option: str, folder: Path, source: Path) -> None:
    """Check that files in a folder do not arrive in the one that is watched.

    Args:
        option: The option that names the folder, for messages.
        folder: The folder.
        source: The folder that is watched.

    Raises:
        ConfigError: If it lies there.
    """
    if folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{option} {folder} lies in {source}, where its files would be scored again: name another")


def _moved(file: Path, target: Path) -> None:
    """Move a file to the target, or beside it; a link then leads where it led."""
    target.parent.mkdir(parents=True, exist_ok=True)
    free, number = target, 0
    while os.path.lexists(free):
        number += 1
        free = target.with_name(f"{target.stem}-{number}{target.suffix}")
    if file.is_symlink():
        free.symlink_to(file.resolve())
        file.unlink()
        return
    try:
        file.rename(free)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_file(free) as partial:  # whole or not at all, on another file system too
            shutil.copy2(file, partial)
        file.unlink()
