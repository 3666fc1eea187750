"""Watch a folder for image files, and hand each on once it is whole.

A file is whole when its size and its time of change have stayed the same for a while. The system's own notices
(`watchfiles`, of the extra `video`) say where to look on a local disk. Network shares give no notice of what other
machines write, so they are polled, as is every folder where watchfiles is not installed.
"""

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import TypeAlias

from lit_od.errors import DataError
from lit_od.formats.text import one_line
from lit_od.images.folder_search import endings
from lit_od.images.folder_walk import Version, version_of, visible_files
from lit_od.images.sources import ImageFile

POLL = 1.0
"""Seconds between two looks at a folder that is polled."""

SETTLE = 1.0
"""Seconds for which a whole file has not changed."""

SECOND_TRY = 5.0
"""Seconds after which a file that cannot be read is tried once more: its writer may only have paused."""

TICK = 0.1
"""Seconds between two looks at files that are not yet whole."""

RESCAN = 30.0
"""Seconds between two walks through a folder that gives notice: a full queue of the system drops notices."""

MOUNTS = Path("/proc/self/mountinfo")
"""Linux' table of mounted file systems."""

REMOTE = re.compile(r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|beegfs|vboxsf|prl_fs|drvfs|virtiofs|fuse\..*")
"""File systems on which others write without a notice to this machine."""

_LOG = logging.getLogger(__name__)
"""Logger that Python prints to standard error where nothing else is set up."""

Looks: TypeAlias = Generator[set[Path] | None, None, None]
"""Looks at a folder: at some paths, or at all."""


@dataclass(frozen=True, slots=True)
class ArrivedFile(ImageFile):
    """An image file that has arrived in a folder.

    Attributes:
        version: Its version when it was seen to be whole.
    """

    version: Version = (0, 0)

    @property
    def key(self) -> str:
        """Absolute path, by which the file is remembered."""
        return os.path.abspath(self.path)  # noqa: PTH100  # Path.absolute leaves .. in


@dataclass(slots=True)
class _Waiting:
    """A file that is not yet known to be whole.

    Attributes:
        version: Its version when it was last seen.
        since: Time from which on it has not changed, or later where it was put off.
    """

    version: Version
    since: float


class FolderWatch:
    """Files that arrive in a folder, each once it is whole.

    A file that is replaced under its name arrives again.
    """

    def __init__(
        self,
        folder: Path,
        known: Callable[[str, Version], bool],
        *,
        settle: float = SETTLE,
        poll: float | None = None,
    ) -> None:
        """Take a folder.

        Args:
            folder: It is searched through; hidden files and folders are left out.
            known: Returns True for the key and version of a file that is done.
            settle: Seconds for which a whole file has not changed.
            poll: Seconds between two looks. None has the system give notice where it can, else POLL.

        Raises:
            DataError: If it is no folder.
        """
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder that can be watched")
        self._folder, self._known, self._settle = folder, known, settle
        self._real, self._poll = folder.resolve(), poll
        if poll is None and (is_remote(folder) or find_spec("watchfiles") is None):
            self._poll = POLL
        self._waiting: dict[Path, _Waiting] = {}
        self._tried: dict[Path, Version] = {}
        self._closed: str | None = None
        self._took = 0.0

    @property
    def poll(self) -> float | None:
        """Seconds between two looks; None where the system gives notice."""
        return self._poll

    def arrivals(self, stop: Event) -> Iterator[list[ArrivedFile]]:
        """Yield the files that have become whole, the earliest first, until stopped.

        Yields:
            Files, none where none has; all of them are done with before the next ones are asked for.
        """
        with closing(self._polled(stop) if self._poll is not None else self._noticed(stop)) as looks:
            for paths in looks:
                began = time.monotonic()
                for path in self._all() if paths is None else paths:
                    self._see(path)
                self._took = time.monotonic() - began
                yield self._whole()

    def again(self, file: ArrivedFile) -> bool:
        """Put a file that could not be read off for a second try; False after it."""
        if self._tried.pop(file.path, None) == file.version:
            return False
        self._tried[file.path] = file.version
        self._waiting[file.path] = _Waiting(file.version, time.monotonic() + SECOND_TRY - self._settle)
        return True

    def _polled(self, stop: Event) -> Looks:
        assert self._poll is not None
        while not stop.is_set():
            yield None
            stop.wait(max(self._poll, 9 * self._took, TICK / 10))  # looks take a tenth of the time at most

    def _noticed(self, stop: Event) -> Looks:
        """Yield paths that have changed, or None where all are to be looked at."""
        import watchfiles

        changes = watchfiles.watch(
            self._real,
            watch_filter=None,
            debounce=200,
            step=20,
            stop_event=stop,
            rust_timeout=int(1000 * TICK),
            yield_on_timeout=True,
        )
        try:
            with closing(changes):
                next(changes, None)  # from here on there is a notice of every change: only now all are looked at
                yield None
                walked = time.monotonic()
                for found in changes:
                    paths = {self._folder / Path(path).relative_to(self._real) for _, path in found}
                    if time.monotonic() - walked > RESCAN or any(path.is_dir() for path in paths):
                        yield None  # a folder that is new holds files of which there was no notice
                        walked = time.monotonic()
                    else:
                        yield {path for path in paths if self._is_image(path)}
        except (OSError, RuntimeError, ValueError) as error:  # the latter two for names that are no Unicode
            _LOG.warning(
                "lit-od: the system gives no notice of changes in %s (%s): it is polled every %g s",
                *(one_line(self._folder), one_line(error), POLL),
            )
            self._poll = POLL
            yield from self._polled(stop)

    def _is_image(self, path: Path) -> bool:
        parts = path.relative_to(self._folder).parts
        return path.suffix.lower() in endings() and not any(part.startswith(".") for part in parts)

    def _all(self) -> Iterator[Path]:
        """Yield the images in the folder; warn where it cannot be listed."""
        closed: list[OSError] = []
        wanted = endings()
        for path in visible_files(self._folder, closed.append):
            if path.suffix.lower() in wanted:
                yield path
        words = one_line(f"{closed[0].filename}: {closed[0].strerror}") if closed else None
        if words is not None and words != self._closed:
            _LOG.warning("lit-od: %s; it is looked at again and again", words)
        self._closed = words

    def _see(self, path: Path) -> None:
        """Have a file wait until it is whole, unless its version is known."""
        version = _version(path)
        if version is None:
            return
        before = self._waiting.get(path)
        if before is not None and before.version == version:
            return
        if self._known(self._file(path, version).key, version):
            self._waiting.pop(path, None)
        else:
            self._waiting[path] = _Waiting(version, time.monotonic())

    def _whole(self) -> list[ArrivedFile]:
        """Return the files that have not changed for long enough, and forget them."""
        due = time.monotonic() - self._settle
        whole = []
        for path in [path for path, each in self._waiting.items() if each.since <= due]:
            version = _version(path)
            if version == self._waiting[path].version:
                whole.append(self._file(path, version))
                del self._waiting[path]
            elif version is None:  # it is gone
                del self._waiting[path]
                self._tried.pop(path, None)
            else:
                self._see(path)
        return sorted(whole, key=lambda file: (file.version[1], file.name))

    def _file(self, path: Path, version: Version) -> ArrivedFile:
        return ArrivedFile(path, str(path), version=version)


def _version(path: Path) -> Version | None:
    """Return the version of a plain file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return version_of(found) if stat.S_ISREG(found.st_mode) else None


def is_remote(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Return True for a folder on a file system that other machines write to.

    Args:
        folder: The folder.
        mounts: Linux' table of mounted file systems; without it the answer is False.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    here, kind = folder.resolve(), ""
    longest = -1
    for line in lines:
        left, _, right = line.partition(" - ")
        place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        if here.is_relative_to(place) and len(place) >= longest:  # of two at one place the later one lies on top
            longest, kind = len(place), right.split(" ")[0]
    return REMOTE.fullmatch(kind) is not None
