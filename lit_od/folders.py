"""Put a finished folder in the place of another: whatever happens, the old or the new one is there, whole.

The new folder is made beside its final place, flushed to disk, and exchanged with the old one in a
single step (Linux `renameat2`). Where the system or its file system cannot, the old folder is moved
aside and back again by `recover`, which every opening of a bundle calls first.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TEMPORARY = ".{name}.lit-od-new-"
_ASIDE = ".{name}.lit-od-old"


def recover(target: Path) -> None:
    """Put back a folder that an interrupted replacement has left aside."""
    target = target.resolve()  # as replacing() does: the folder left aside lies beside what a link points to
    aside = target.parent / _ASIDE.format(name=target.name)
    if aside.is_dir() and not os.path.lexists(target):
        aside.rename(target)


@contextlib.contextmanager
def replacing(target: Path, *, replaceable: Callable[[Path], None]) -> Iterator[Path]:
    """A new, empty folder that takes the target's place when the block ends without an exception.

    Args:
        target: The folder to write or to replace. Its parents are made.
        replaceable: Raises if the folder at the target must not be replaced; called before the
            block, and again before the exchange.

    Yields:
        The folder to fill; it is gone if the block raises.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    if os.path.lexists(target):
        replaceable(target)
    _sweep(target)
    fresh = target.parent / f"{_TEMPORARY.format(name=target.name)}{os.getpid()}-{secrets.token_hex(4)}"
    fresh.mkdir()
    try:
        yield fresh
        _flush(fresh)
        if os.path.lexists(target):
            replaceable(target)
            _exchange(fresh, target)
        else:
            fresh.rename(target)
        _flush_folder(target.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if os.path.lexists(target):  # else what lies aside is the only whole folder, for `recover` to put back
            shutil.rmtree(target.parent / _ASIDE.format(name=target.name), ignore_errors=True)


def _exchange(fresh: Path, target: Path) -> None:
    """Swap two folders in one step where the system can; `fresh` holds the old one afterwards."""
    if _rename_exchange(fresh, target):
        return
    aside = target.parent / _ASIDE.format(name=target.name)
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    try:
        fresh.rename(target)
    except BaseException:
        aside.rename(target)
        raise


def _rename_exchange(one: Path, other: Path) -> bool:
    """Linux' renameat2(RENAME_EXCHANGE); False where the system or the file system has none."""
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
    """Remove what writers of this target that are no longer alive have left."""
    prefix = _TEMPORARY.format(name=target.name)
    for left in target.parent.iterdir():
        owner = left.name.removeprefix(prefix).split("-")[0]
        if left.name.startswith(prefix) and owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
