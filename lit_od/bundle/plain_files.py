"""Read the plain files of a folder, each as the manifest describes it."""

import hashlib
import os
import stat
from pathlib import Path

from lit_od.bundle.manifest import DETECTOR, MAX_BYTES, FileEntry
from lit_od.errors import BundleError, ConfigError


def unreadable(folder: Path, error: OSError) -> BundleError:
    """Return the error for a folder that cannot be read."""
    return BundleError(f"{error.filename or folder} cannot be read: {error.strerror or error}")


def manifest_bytes(folder: Path, name: str) -> bytes:
    """Read the manifest of a bundle.

    Raises:
        BundleError: If the folder is none, or has no such file.
    """
    if not folder.exists():
        raise BundleError(f"no bundle at {folder}: there is no such folder")
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file: a bundle is a folder with {name}")
    file = folder / name
    if not os.path.lexists(file):
        raise BundleError(f"{folder} is no bundle: it has no {name}")
    require_plain(file)
    if file.stat().st_size > MAX_BYTES:
        raise BundleError(f"{name} exceeds {MAX_BYTES:,} bytes")
    return read_bytes(file)


def require_outside(place: Path) -> None:
    """Raise ConfigError if a file or folder would lie in a bundle.

    The bundle would be refused afterwards, or one of its files overwritten.
    """
    folder = place.absolute().parent
    if (folder / "manifest.json").is_file() and (folder / DETECTOR).is_file():
        raise ConfigError(f"{place} lies in the folder of a bundle, which holds nothing else: name a place outside")


def names_in(folder: Path, *below: str) -> set[str]:
    """Return the names of what a folder holds.

    Args:
        folder: The folder.
        below: Folders within it whose files are named instead, as FOLDER/FILE, where there are any.
    """
    names = {entry.name for entry in folder.iterdir()}
    for name in below:
        within = folder / name
        if name in names and not within.is_symlink() and within.is_dir():
            names |= (inner := {f"{name}/{entry.name}" for entry in within.iterdir()})
            names -= {name} if inner else set()
    return names


def file_bytes(file: Path, entry: FileEntry) -> bytes:
    """Read a plain file, after checking its size against the manifest.

    Raises:
        BundleError: If it is a link or a folder, of another size, or cannot be read.
    """
    require_size(file, entry)
    return read_bytes(file)


def check_bytes(name: str, data: bytes, entry: FileEntry) -> None:
    """Check the bytes of a file against the manifest.

    Args:
        name: Its name, for messages.
        data: Its bytes.
        entry: Size and hash that the manifest says.

    Raises:
        BundleError: If they differ.
    """
    _check_size(name, len(data), entry)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(f"{name} does not match its sha256: it was changed or damaged")


def require_size(file: Path, entry: FileEntry) -> None:
    """Raise BundleError unless this is a plain file of its entry's size."""
    require_plain(file)
    _check_size(file.name, file.stat().st_size, entry)


def require_plain(file: Path) -> None:
    """Raise BundleError for a link or a folder."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise BundleError(f"{file.name} is no plain file: links and folders are refused")


def read_bytes(file: Path) -> bytes:
    """Return the bytes of a file. Raises BundleError if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror or error}") from None


def _check_size(name: str, size: int, entry: FileEntry) -> None:
    if size != entry.size:
        raise BundleError(f"{name} has {size:,} bytes, its manifest says {entry.size:,}")
