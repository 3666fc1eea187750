"""Read and write bundles: each write is atomic, each read checks every byte."""

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from lit_od.bundle import manifest as manifests
from lit_od.bundle.manifest import FileEntry, Manifest
from lit_od.bundle.model_card import model_card
from lit_od.bundle.validate import check_backbone, check_detector, check_golden, check_graph
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import check_rule
from lit_od.detectors import Detector
from lit_od.detectors.registry import detector_from_state
from lit_od.errors import BundleError, ConfigError, DataError
from lit_od.formats import safetensors_file as safetensors
from lit_od.formats.atomic import atomic_folder, read_whole, require_writable
from lit_od.formats.text import one_line
from lit_od.types import Arrays

MANIFEST = "manifest.json"
BACKBONE = "backbone.onnx"
DETECTOR = "detector.safetensors"
INDEX = "index.faiss"
MAPS = "maps.onnx"
GOLDEN = "golden.safetensors"
CARD = "README.md"

MAX_SCORE = 1e150
"""Bound of calibration scores, so that their variance is finite."""

_REQUIRED = frozenset({BACKBONE, DETECTOR, GOLDEN, CARD})
_OPTIONAL = frozenset({INDEX, MAPS})
_STATE = "detector."
_CALIBRATION = "calibration.scores"
_INDEX_STATE = "index"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle that has been read and checked.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
        detector: The fitted detector.
        calibration: Calibration scores and threshold.
        files: Contents of the files by name, as they were hashed.
    """

    path: Path
    manifest: Manifest
    detector: Detector
    calibration: Calibration
    files: Mapping[str, bytes]

    @property
    def detector_hash(self) -> str:
        """First 12 hex digits of the detector file's SHA-256.

        Every fit gives another one; a new threshold does not.
        """
        return self.manifest.files[DETECTOR].sha256[:12]

    @classmethod
    def read(cls, path: str | Path, *, trust: Collection[str] = ()) -> Self:
        """Read a bundle, and check every file against the manifest.

        Args:
            path: Its folder.
            trust: Import paths of detectors that may be followed; importing a module runs its code.

        Raises:
            BundleError: If the folder is no bundle, or anything in it is missing, extra, changed or
                invalid.
        """
        folder = Path(path)
        try:
            return read_whole(folder, lambda: cls._read(folder, trust), failure=BundleError)
        except OSError as error:
            raise _unreadable(folder, error) from None

    @classmethod
    def _read(cls, folder: Path, trust: Collection[str]) -> Self:
        try:
            manifest = manifests.decode(_manifest_bytes(folder))
            _check_names(manifest, {entry.name for entry in folder.iterdir()} - {MANIFEST})
            files = {name: _file_bytes(folder / name, entry) for name, entry in manifest.files.items()}
        except OSError as error:
            raise _unreadable(folder, error) from None
        return cls.of_files(folder, manifest, files, trust=trust)

    @classmethod
    def of_files(
        cls, path: Path, manifest: Manifest, files: Mapping[str, bytes], *, trust: Collection[str] = ()
    ) -> Self:
        """Make a bundle from a decoded manifest and the bytes of all other files.

        Args:
            path: Its folder, which is only noted.
            manifest: The manifest.
            files: The bytes of all other files by name.
            trust: As `read` takes it.

        Raises:
            BundleError: As `read`.
        """
        _check_names(manifest, files.keys())
        for name, entry in manifest.files.items():
            _check_bytes(name, files[name], entry)
        check_backbone(BACKBONE, check_graph(BACKBONE, files[BACKBONE]), manifest)
        if MAPS in files:
            check_graph(MAPS, files[MAPS])
        check_golden(GOLDEN, files[GOLDEN], manifest)
        try:
            arrays = safetensors.load(files[DETECTOR])
            calibration = _read_calibration(arrays, manifest)
            about, state = manifest.detector, _read_state(arrays, files.get(INDEX))
            detector = detector_from_state(about.kind, about.options, state, trust=trust)
            check_detector(detector, manifest)
        except (DataError, ConfigError) as error:
            raise BundleError(f"{DETECTOR}: {one_line(error)}") from None
        return cls(path, manifest, detector, calibration, files)


def write(
    out: Path,
    manifest: Manifest,
    detector: Detector,
    calibration: Calibration,
    files: Mapping[str, bytes],
) -> Bundle:
    """Write a bundle, in place of an older one if there is one.

    Args:
        out: The bundle's folder.
        manifest: Its manifest; `files` and `sha256` are filled in here.
        detector: The fitted detector.
        calibration: Its calibration.
        files: Contents of `backbone.onnx`, `golden.safetensors` and perhaps `maps.onnx`.

    Returns:
        The bundle, read again.

    Raises:
        ConfigError: If `out` holds anything else than a bundle, or cannot be written.
        BundleError: If the new bundle would not pass `Bundle.read`; nothing is written then.
    """
    state = detector.state()
    index = state.pop(_INDEX_STATE, None)
    arrays = {_STATE + name: array for name, array in state.items()}
    arrays[_CALIBRATION] = np.array(calibration.scores)
    contents = {**files, DETECTOR: safetensors.save(arrays)}
    if index is not None:
        contents[INDEX] = index.tobytes()
    # a folder's name may be no Unicode
    contents[CARD] = model_card(manifest, calibration).encode(errors="backslashreplace")
    entries = {name: FileEntry.of(data) for name, data in sorted(contents.items())}
    encoded = manifests.encode(msgspec.structs.replace(manifest, files=entries))
    # the detector is at hand already, so its import path is trusted
    bundle = Bundle.of_files(out, manifests.decode(encoded), contents, trust=(detector.kind,))
    try:
        with atomic_folder(out, replaceable=require_replaceable) as folder:
            for name, data in {**contents, MANIFEST: encoded}.items():
                (folder / name).write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write the bundle {out}: {error.strerror or error}") from error
    return bundle


def rewrite(bundle: Bundle, manifest: Manifest, calibration: Calibration) -> Bundle:
    """Write a bundle again in its place with another manifest and calibration.

    Args:
        bundle: The bundle to replace.
        manifest: The new manifest.
        calibration: The new calibration.

    Returns:
        The new bundle.

    Raises:
        ConfigError: As `write`.
        BundleError: As `write`.
    """
    kept = {name: data for name, data in bundle.files.items() if name in (BACKBONE, MAPS, GOLDEN)}
    return write(bundle.path, manifest, bundle.detector, calibration, kept)


def require_replaceable(out: Path) -> None:
    """Raise ConfigError unless `out` is free, an empty folder or a bundle."""
    exists = os.path.lexists(out)
    require_writable(out.resolve().parent if exists else out)
    if not exists:
        return
    if out.is_dir():
        names = {entry.name for entry in out.iterdir()}
        if not names or {MANIFEST, BACKBONE} <= names <= {MANIFEST} | _REQUIRED | _OPTIONAL:
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


def _unreadable(folder: Path, error: OSError) -> BundleError:
    return BundleError(f"{error.filename or folder} cannot be read: {error.strerror or error}")


def _manifest_bytes(folder: Path) -> bytes:
    if not folder.exists():
        raise BundleError(f"no bundle at {folder}: there is no such folder")
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file: a bundle is a folder with {MANIFEST}")
    file = folder / MANIFEST
    if not os.path.lexists(file):
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}")
    _require_plain(file)
    if file.stat().st_size > manifests.MAX_BYTES:
        raise BundleError(f"{MANIFEST} exceeds {manifests.MAX_BYTES:,} bytes")
    return _read(file)


def _check_names(manifest: Manifest, present: Collection[str]) -> None:
    """Raise BundleError unless manifest and folder hold the same files of a bundle."""
    named = manifest.files.keys()
    if missing := sorted(_REQUIRED - named):
        raise BundleError(f"{MANIFEST} does not name {missing[0]}")
    if foreign := sorted(named - _REQUIRED - _OPTIONAL):
        raise BundleError(f"{MANIFEST} names a file that no bundle has: {one_line(repr(foreign[0]))}")
    if missing := sorted(named - set(present)):
        raise BundleError(f"{missing[0]} is missing")
    if extra := sorted(set(present) - named):
        raise BundleError(
            f"extra file {one_line(repr(extra[0]))}: a bundle holds what its manifest names and nothing else"
        )


def _file_bytes(file: Path, entry: FileEntry) -> bytes:
    """Read a plain file, after checking its size against the manifest."""
    _require_plain(file)
    _check_size(file.name, file.stat().st_size, entry)
    return _read(file)


def _check_bytes(name: str, data: bytes, entry: FileEntry) -> None:
    _check_size(name, len(data), entry)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(f"{name} does not match its sha256: it was changed or damaged")


def _check_size(name: str, size: int, entry: FileEntry) -> None:
    if size != entry.size:
        raise BundleError(f"{name} has {size:,} bytes, its manifest says {entry.size:,}")


def _require_plain(file: Path) -> None:
    if not stat.S_ISREG(file.lstat().st_mode):
        raise BundleError(f"{file.name} is no plain file: links and folders are refused")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file.name} cannot be read: {error.strerror or error}") from None


def _read_calibration(arrays: Arrays, manifest: Manifest) -> Calibration:
    scores = arrays.pop(_CALIBRATION, None)
    if scores is None or scores.ndim != 1 or scores.dtype != np.float64 or scores.size == 0:
        raise DataError(f"{_CALIBRATION} must be float64 (n,) with n of at least 1")
    if not np.isfinite(scores).all() or (scores[1:] < scores[:-1]).any():
        raise DataError(f"{_CALIBRATION} must be finite and ascending")
    if max(-scores[0], scores[-1]) > MAX_SCORE:
        raise DataError(f"{_CALIBRATION} must lie within {MAX_SCORE:g}, got {scores[0]:g} to {scores[-1]:g}")
    if scores.size != manifest.calibration.images:
        raise DataError(f"{scores.size} calibration scores, the manifest says {manifest.calibration.images}")
    scores.setflags(write=False)
    return Calibration(scores, check_rule(manifest.calibration.rule), manifest.calibration.threshold)


def _read_state(arrays: Arrays, index: bytes | None) -> Arrays:
    if foreign := sorted(name for name in arrays if not name.startswith(_STATE)):
        raise DataError(f"unknown array {foreign[0]!r}")
    state = {name.removeprefix(_STATE): array for name, array in arrays.items()}
    if _INDEX_STATE in state:
        raise DataError(f"unknown array {_STATE + _INDEX_STATE!r}: an index is the file {INDEX}")
    if index is not None:
        state[_INDEX_STATE] = np.frombuffer(index, dtype=np.uint8)
    return state
