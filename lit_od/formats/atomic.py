"""Replace folders and files atomically: a crash leaves the old or the new, whole.

The new folder is made beside its final place, flushed to disk, and exchanged with the old one in a
single step (Linux `renameat2`). Where the system or its file system has no such step, the old folder is
moved aside, and `recover`, which every opening of a bundle calls first, moves it back if its writer is
dead: a writer locks it, so that nobody moves it back between its two renames. Who reads a folder while it
is replaced reads it again (`read_whole`). A writer that is killed leaves a folder beside the target, which
the next writer removes: the folder's lock tells whether its writer lives.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from lit_od.errors import ConfigError

_FCNTL = import_module("fcntl") if os.name == "posix" else None  # without it nothing is locked, and nothing swept
MOST_READS = 20
"""Times that a folder is read while others replace it."""

T = TypeVar("T")

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TEMPORARY = ".{name}.lit-od-new"
_ASIDE = ".{name}.lit-od-old"


def require_writable(target: Path) -> None:
    """Raise ConfigError unless a folder can be made or filled at the target.

    Called before long work, so that the work is not lost.
    """
    here = target.absolute()
    while not os.path.lexists(here):
        here = here.parent
    if not here.is_dir():
        where = "is" if here == target.absolute() else f"lies inside {here}, which is"
        raise ConfigError(f"{target} {where} a file: name a folder")
    if not os.access(here, os.W_OK | os.X_OK):
        raise ConfigError(f"{target} cannot be written: the folder {here} is read-only. Name another")


def recover(target: Path) -> None:
    """Put back a folder that an interrupted replacement has left aside.

    Wait for a replacement that goes on.
    """
    target = target.resolve()  # as atomic_folder() does: the folder left aside lies beside what a link points to
    aside = _aside(target)
    if aside.is_dir() and not os.path.lexists(target):
        with contextlib.suppress(FileNotFoundError), _locked(aside):  # the writer has moved it meanwhile
            if not os.path.lexists(target):
                aside.rename(target)


def read_whole(target: Path, read: Callable[[], T], *, failure: type[Exception]) -> T:
    """Read a folder, and again where it was replaced meanwhile.

    Args:
        target: The folder.
        read: Function that reads it; it raises where it finds the files of two folders, or none.
        failure: Class of what it raises then.

    Raises:
        OSError: If a folder that was left aside cannot be put back.
    """
    for left in reversed(range(MOST_READS)):
        recover(target)
        with _opened(target) as before:
            try:
                return read()
            except failure:
                recover(target)
                with _opened(target) as now:
                    if not left or _same(before, now):
                        raise
    raise AssertionError("the last failure is raised")


@contextlib.contextmanager
def atomic_folder(target: Path, *, replaceable: Callable[[Path], None]) -> Iterator[Path]:
    """Yield an empty folder that replaces the target when the block ends.

    Args:
        target: The folder to write or to replace. Its parents are made.
        replaceable: Raises if the folder at the target must not be replaced; called before the
            block, and again before the exchange.

    Yields:
        The folder to fill; it is removed if the block raises.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    if os.path.lexists(target):
        replaceable(target)
    _sweep(target)
    fresh, lock = _make(target)
    try:
        yield fresh
        _flush(fresh)
        if os.path.lexists(target):
            replaceable(target)
            _exchange(fresh, target)
        else:
            fresh.rename(target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Yield a path to write to; its file replaces the target when the block ends.

    One writer at a time: the path is always the same, so that the remains of a killed writer are overwritten.

    Raises:
        OSError: If the target is a device or a pipe, which a file would take the place of.
    """
    file = file.resolve()
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EINVAL, "is a device or a pipe, wanted a plain file", str(file))
    partial = file.with_name(_TEMPORARY.format(name=file.name))
    try:
        yield partial
        _flush_file(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _aside(target: Path) -> Path:
    return target.parent / _ASIDE.format(name=target.name)


def _unused(target: Path) -> Path:
    """Return an unused path beside the target."""
    return target.parent / f"{_TEMPORARY.format(name=target.name)}-{secrets.token_hex(8)}"


def _make(target: Path) -> tuple[Path, int | None]:
    """Make an empty folder beside the target, and lock it against sweeping."""
    while True:
        fresh = _unused(target)
        fresh.mkdir()
        try:
            lock = _lock(fresh)
        except (BlockingIOError, FileNotFoundError):  # swept before it was locked
            continue
        if fresh.exists():
            return fresh, lock


def _lock(folder: Path) -> int | None:
    """Lock a folder until the handle is closed or the process ends.

    Returns:
        The handle; None where the file system has no locks.

    Raises:
        BlockingIOError: If another process has locked it.
    """
    if _FCNTL is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        _FCNTL.flock(handle, _FCNTL.LOCK_EX | _FCNTL.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for the block, once nobody else has; where the system has locks."""
    with _opened(folder) as handle:
        if _FCNTL is not None and handle is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                _FCNTL.flock(handle, _FCNTL.LOCK_EX)
        yield


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """Open a folder for the block: while it is open, no other folder has its number.

    Yields:
        The handle; None where there is no folder, or the system opens none.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))  # a named pipe would wait for a writer
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _same(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return one is other
    return os.path.samestat(os.fstat(one), os.fstat(other))


def _exchange(fresh: Path, target: Path) -> None:
    """Swap two folders, in one step where possible; then `fresh` holds the old one."""
    if _rename_exchange(fresh, target):
        return
    aside = _aside(target)
    with _locked(target):
        target.rename(aside)
        try:
            fresh.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        with contextlib.suppress(FileNotFoundError):  # another writer has swept it
            aside.rename(fresh)


def _rename_exchange(one: Path, other: Path) -> bool:
    """Call Linux's renameat2(RENAME_EXCHANGE); return False where it is missing."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sweep(target: Path) -> None:
    """Remove folders that dead writers of this target have left behind."""
    prefix = f"{_TEMPORARY.format(name=target.name)}-"
    if os.path.lexists(target) and _aside(target).is_dir():
        # under its own name a half-removed folder could be taken for the old one
        _aside(target).rename(old := _unused(target))
        shutil.rmtree(old, ignore_errors=True)
    for left in [entry for entry in target.parent.iterdir() if entry.name.startswith(prefix)]:
        with contextlib.suppress(OSError):  # its writer is alive, or another has swept it
            lock = _lock(left)
            if lock is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            _flush_file(file)
    flush_folder(folder)


def _flush_file(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def flush_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
