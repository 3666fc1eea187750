"""Read and write bundles: each write is atomic, each read checks every byte."""

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from lit_od.bundle import history
from lit_od.bundle import manifest as manifests
from lit_od.bundle.detector_state import read_state, restored_sums, state_bytes, with_folds
from lit_od.bundle.history import Change
from lit_od.bundle.manifest import DETECTOR, FileEntry, Manifest
from lit_od.bundle.model_card import model_card
from lit_od.bundle.plain_files import (
    check_bytes,
    file_bytes,
    manifest_bytes,
    names_in,
    require_size,
    unreadable,
)
from lit_od.bundle.validate import check_backbone, check_detector, check_golden, check_graph, check_mask
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import Detector
from lit_od.detectors.registry import detector_from_state
from lit_od.errors import BundleError, ConfigError, DataError
from lit_od.formats import safetensors_file as safetensors
from lit_od.formats.atomic import atomic_folder, read_whole, require_writable
from lit_od.formats.text import one_line
from lit_od.types import Arrays

MANIFEST = "manifest.json"
BACKBONE = "backbone.onnx"
ACCUMULATOR = "accumulator.safetensors"
INDEX = "index.faiss"
MAPS = "maps.onnx"
GOLDEN, MASK = "golden.safetensors", "mask.png"
CARD = "README.md"

MADE = frozenset({BACKBONE, MAPS, GOLDEN, ACCUMULATOR, MASK})
"""Files that `write` is given; it makes the others."""
_REQUIRED = frozenset({BACKBONE, DETECTOR, GOLDEN, CARD})
_OPTIONAL = frozenset({INDEX, MAPS, ACCUMULATOR, MASK})
_AT_THE_TOP = {MANIFEST, history.FOLDER} | _REQUIRED | _OPTIONAL


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle that has been read and checked.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        detector: The fitted detector.
        calibration: Calibration scores and threshold.
        files: Contents of the files by name, as they were hashed; but for those that scoring does not need, the
            accumulator and the history, which `content` reads when they are wanted.
    """

    path: Path
    manifest: Manifest
    detector: Detector
    calibration: Calibration
    files: Mapping[str, bytes]

    @classmethod
    def read(cls, path: str | Path, *, trust: Collection[str] = (), whole: bool = False) -> Self:
        """Read a bundle, and check every file against the manifest.

        Args:
            path: Its folder.
            trust: Import paths of detectors that may be followed; importing a module runs its code.
            whole: Check the bytes of the accumulator and of the history too; else only that they are there.

        Raises:
            BundleError: If the folder is no bundle, or anything in it is missing, extra, changed or
                invalid.
        """
        folder = Path(path)
        try:
            return read_whole(folder, lambda: cls._read(folder, trust, whole), failure=BundleError)
        except OSError as error:
            raise unreadable(folder, error) from None

    @classmethod
    def _read(cls, folder: Path, trust: Collection[str], whole: bool) -> Self:
        try:
            manifest = manifests.decode(manifest_bytes(folder, MANIFEST))
            _check_names(manifest, names_in(folder, history.FOLDER) - {MANIFEST})
            files = {}
            for name, entry in manifest.files.items():
                if _waits(name):
                    require_size(folder / name, entry)
                else:
                    files[name] = file_bytes(folder / name, entry)
        except OSError as error:
            raise unreadable(folder, error) from None
        bundle = cls.of_files(folder, manifest, files, trust=trust)
        if whole:
            bundle._check_rest()
        return bundle

    @classmethod
    def of_files(
        cls, path: Path, manifest: Manifest, files: Mapping[str, bytes], *, trust: Collection[str] = ()
    ) -> Self:
        """Make a bundle from a decoded manifest and the bytes of all other files.

        Args:
            path: Its folder, which is only noted.
            manifest: The manifest.
            files: The bytes of the other files by name; the accumulator and the history may be left out.
            trust: As `read` takes it.

        Raises:
            BundleError: As `read`.
        """
        _check_names(manifest, {*files, *filter(_waits, manifest.files)})
        for name, data in files.items():
            check_bytes(name, data, manifest.files[name])
        check_backbone(BACKBONE, check_graph(BACKBONE, files[BACKBONE]), manifest)
        if MAPS in files:
            check_graph(MAPS, files[MAPS])
        check_golden(GOLDEN, files[GOLDEN], manifest)
        try:
            manifest = check_mask(MASK, files.get(MASK), manifest)
            state, calibration = read_state(files[DETECTOR], files.get(INDEX), manifest)
            about = manifest.detector
            detector = detector_from_state(about.kind, about.options, state, trust=trust)
            check_detector(detector, manifest)
            calibration = with_folds(calibration, manifest, detector)
        except (DataError, ConfigError) as error:
            raise BundleError(f"{DETECTOR}: {one_line(error)}") from None
        return cls(path, manifest, detector, calibration, files)

    def content(self, name: str) -> bytes:
        """Return the bytes of a file, which is read now where opening the bundle left it.

        Raises:
            BundleError: If it cannot be read, or does not match the manifest.
        """
        if name in self.files:
            return self.files[name]
        data = file_bytes(self.path / name, self.manifest.files[name])
        check_bytes(name, data, self.manifest.files[name])
        return data

    def changes(self) -> list[history.ChangeEntry]:
        """Return the record of changes, the oldest first.

        Raises:
            BundleError: If it is no record.
        """
        return history.decode(self.content(history.RECORD)) if history.RECORD in self.manifest.files else []

    def contents(self) -> dict[str, bytes]:
        """Return the bytes of all files, and the manifest, without the history."""
        own = {name: entry for name, entry in self.manifest.files.items() if not history.is_history(name)}
        return {**{name: self.content(name) for name in own}, MANIFEST: _encoded(self.manifest, own)}

    def _check_rest(self) -> None:
        """Check what scoring does not need, one file in memory at a time.

        Raises:
            BundleError: If the accumulator does not fit the detector, a file does not match its hash, or the record
                needs other states than there are.
        """
        for name in filter(_waits, self.manifest.files):
            data = self.content(name)
            try:
                if name == ACCUMULATOR:
                    restored_sums(self.detector, data)
            except DataError as error:
                raise BundleError(f"{ACCUMULATOR}: {one_line(error)}") from None
        history.check_states(self.manifest.files, self.changes())


def write(
    out: Path,
    manifest: Manifest,
    detector: Detector,
    calibration: Calibration,
    files: Mapping[str, bytes],
    *,
    after: Bundle | None = None,
    change: Change | None = None,
) -> Bundle:
    """Write a bundle, in place of an older one if there is one.

    Args:
        out: The bundle's folder.
        manifest: Its manifest; `files` and `sha256` are filled in here.
        detector: The fitted detector.
        calibration: Its calibration.
        files: Contents of `backbone.onnx`, `golden.safetensors` and perhaps `maps.onnx` and `accumulator.safetensors`.
        after: The bundle at `out`, whose history goes on.
        change: The change that this makes to it, for the history.

    Returns:
        The bundle, as it would be read.

    Raises:
        ConfigError: If `out` holds anything else than a bundle, or cannot be written.
        BundleError: If the new bundle would not pass `Bundle.read`; nothing is written then.
    """
    state, index = state_bytes(detector, calibration)
    contents = {**files, DETECTOR: state}
    if index is not None:
        contents[INDEX] = index
    # a folder's name may be no Unicode
    contents[CARD] = model_card(manifest, calibration).encode(errors="backslashreplace")
    # the detector is at hand already, so its import path is trusted
    return write_files(out, manifest, contents, after=after, change=change, trust=(detector.kind,))


def write_files(
    out: Path,
    manifest: Manifest,
    contents: Mapping[str, bytes],
    *,
    after: Bundle | None = None,
    change: Change | None = None,
    keep: int | None = None,
    trust: Collection[str] = (),
) -> Bundle:
    """Write a bundle of made files, with the history of the bundle that it follows.

    Args:
        out: The bundle's folder.
        manifest: Its manifest; `files` and `sha256` are filled in here.
        contents: Contents of all other files but the history's.
        after: As `write`.
        change: As `write`.
        keep: Number of the last changes whose states are kept; None keeps all.
        trust: As `Bundle.read`.

    Raises:
        ConfigError: As `write`, or if the bundle was changed since `after` was read.
        BundleError: As `write`.
    """
    entries = {name: FileEntry.of(data) for name, data in contents.items()}
    added: dict[str, bytes] = {}
    carried: dict[str, FileEntry] = {}
    if after is not None:
        later = {**contents, MANIFEST: _encoded(manifest, entries)}
        threshold = after.manifest.calibration.threshold, manifest.calibration.threshold
        earlier = after.contents() if change is not None else {}
        added, needed = history.continued(after.changes(), change, threshold, earlier, later, keep=keep)
        carried = {name: after.manifest.files[name] for name in needed}
    encoded = _encoded(manifest, entries | carried | {name: FileEntry.of(data) for name, data in added.items()})
    bundle = Bundle.of_files(out, manifests.decode(encoded), contents, trust=trust)

    def replaceable(folder: Path) -> None:
        require_replaceable(folder)
        if after is None or (change is None and keep is None):
            return
        if manifests.decode(manifest_bytes(folder, MANIFEST)).sha256 != after.manifest.sha256:
            raise ConfigError(f"{folder} was changed by another command meanwhile: run this one again")

    try:
        with atomic_folder(out, replaceable=replaceable) as folder:
            if added:
                (folder / history.FOLDER).mkdir()
            for name, data in {**contents, **added, MANIFEST: encoded}.items():
                (folder / name).write_bytes(data)
            for name in carried:
                shutil.copyfile(out / name, folder / name)
    except OSError as error:
        raise ConfigError(f"cannot write the bundle {out}: {error.strerror or error}") from error
    return bundle


def _encoded(manifest: Manifest, entries: Mapping[str, FileEntry]) -> bytes:
    return manifests.encode(msgspec.structs.replace(manifest, files=dict(sorted(entries.items()))))


def rewrite(bundle: Bundle, manifest: Manifest, calibration: Calibration, *, change: Change | None = None) -> Bundle:
    """Write a bundle again in its place with another manifest and calibration.

    Args:
        bundle: The bundle to replace.
        manifest: The new manifest.
        calibration: The new calibration.
        change: The change that this makes, for the history; None adds none.

    Returns:
        The new bundle.

    Raises:
        ConfigError: As `write_files`.
        BundleError: As `write`.
    """
    kept = {name: bundle.content(name) for name in MADE & bundle.manifest.files.keys()}
    return write(bundle.path, manifest, bundle.detector, calibration, kept, after=bundle, change=change)


def require_replaceable(out: Path) -> None:
    """Raise ConfigError unless `out` is free, an empty folder or a bundle."""
    exists = os.path.lexists(out)
    require_writable(out.resolve().parent if exists else out)
    if not exists:
        return
    if out.is_dir():
        names = {entry.name for entry in out.iterdir()}
        if not names or {MANIFEST, BACKBONE} <= names <= _AT_THE_TOP:
            return
        raise ConfigError(f"--out {out} is a folder but no bundle: name another, or remove it yourself")
    raise ConfigError(f"--out {out} is a file: name a folder that is free, or a bundle to replace")


def golden_bytes(arrays: Arrays) -> bytes:
    """Encode golden images as the bundle's file."""
    return safetensors.save(arrays)


def golden_arrays(bundle: Bundle) -> Arrays:
    """Return the golden images' arrays.

    Raises:
        BundleError: If they hold NaN or infinity.
    """
    arrays = safetensors.load(bundle.files[GOLDEN])
    for name in {"outputs", "scores"} & arrays.keys():
        if not np.isfinite(arrays[name]).all():
            raise BundleError(f"{GOLDEN}: array {name!r} must be finite, but it holds NaN or infinity")
    return arrays


def _waits(name: str) -> bool:
    return name == ACCUMULATOR or history.is_history(name)


def _check_names(manifest: Manifest, present: Collection[str]) -> None:
    """Raise BundleError unless manifest and folder hold the same files of a bundle."""
    named = manifest.files.keys()
    if missing := sorted(_REQUIRED - named):
        raise BundleError(f"{MANIFEST} does not name {missing[0]}")
    if foreign := sorted(name for name in named - _REQUIRED - _OPTIONAL if not history.is_history(name)):
        raise BundleError(f"{MANIFEST} names a file that no bundle has: {one_line(repr(foreign[0]))}")
    if missing := sorted(named - set(present)):
        raise BundleError(f"{missing[0]} is missing")
    if extra := sorted(set(present) - named):
        raise BundleError(
            f"extra file {one_line(repr(extra[0]))}: a bundle holds what its manifest names and nothing else"
        )
