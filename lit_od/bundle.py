"""The exported folder: written whole or not at all, and read with nothing taken on trust."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import safetensors.numpy

from lit_od import manifest as manifests
from lit_od.calibration import Calibration, check_rule
from lit_od.card import model_card
from lit_od.detectors import Detector, detector_from_state
from lit_od.errors import BundleError, ConfigError, DataError
from lit_od.folders import recover, replacing
from lit_od.manifest import FileEntry, Manifest
from lit_od.types import Arrays

MANIFEST = "manifest.json"
BACKBONE = "backbone.onnx"
DETECTOR = "detector.safetensors"
INDEX = "index.faiss"
MAPS = "maps.onnx"
GOLDEN = "golden.safetensors"
CARD = "README.md"

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
        manifest: What it says of itself.
        detector: The fitted detector.
        calibration: Calibration scores and threshold.
        files: The bytes of each file by name, as they were hashed.
    """

    path: Path
    manifest: Manifest
    detector: Detector
    calibration: Calibration
    files: Mapping[str, bytes]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a bundle; every file must be the one that the manifest names, byte by byte.

        Raises:
            BundleError: If the folder is no bundle, or anything in it is missing, extra, changed,
                or not what it should be.
        """
        folder = Path(path)
        recover(folder)
        manifest = manifests.decode(_manifest_bytes(folder))
        files = _checked_files(folder, manifest)
        try:
            arrays = safetensors.numpy.load(files[DETECTOR])
        except Exception as error:  # safetensors' own error and KeyError for a dtype that numpy lacks
            raise BundleError(f"{DETECTOR} cannot be read: {error}") from None
        try:
            calibration = _read_calibration(arrays, manifest)
            detector = detector_from_state(
                manifest.detector.kind, manifest.detector.options, _read_state(arrays, files.get(INDEX))
            )
        except (DataError, ConfigError) as error:
            raise BundleError(f"{DETECTOR}: {error}") from None
        return cls(folder, manifest, detector, calibration, files)


def write(
    out: Path,
    manifest: Manifest,
    detector: Detector,
    calibration: Calibration,
    files: Mapping[str, bytes],
) -> Bundle:
    """Write a bundle in place of an older one, or where there is none.

    Args:
        out: The bundle's folder.
        manifest: What it says of itself; `files` and `sha256` are filled in here.
        detector: The fitted detector.
        calibration: Its calibration.
        files: `backbone.onnx`, `golden.safetensors` and perhaps `maps.onnx`.

    Raises:
        ConfigError: If there is something else than a bundle at `out`, or it cannot be written.
    """
    state = detector.state()
    index = state.pop(_INDEX_STATE, None)
    arrays = {_STATE + name: np.ascontiguousarray(array) for name, array in state.items()}
    arrays[_CALIBRATION] = np.array(calibration.scores)
    contents = {**files, DETECTOR: safetensors.numpy.save(arrays)}
    if index is not None:
        contents[INDEX] = index.tobytes()
    contents[CARD] = model_card(manifest, calibration).encode(
        errors="backslashreplace"
    )  # a folder's name may be no Unicode
    entries = {name: _entry(data) for name, data in sorted(contents.items())}
    contents[MANIFEST] = manifests.encode(_with_files(manifest, entries))
    try:
        with replacing(out, replaceable=require_replaceable) as folder:
            for name, data in contents.items():
                (folder / name).write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write the bundle {out}: {error.strerror or error}") from error
    return Bundle.read(out)


def rewrite(bundle: Bundle, manifest: Manifest, calibration: Calibration) -> Bundle:
    """Write a bundle again in its place with another manifest and calibration."""
    kept = {name: data for name, data in bundle.files.items() if name in (BACKBONE, MAPS, GOLDEN)}
    return write(bundle.path, manifest, bundle.detector, calibration, kept)


def require_replaceable(out: Path) -> None:
    """Raise ConfigError unless `out` is free, an empty folder or a bundle: nothing else is ever replaced."""
    if not os.path.lexists(out):
        return
    if out.is_dir():
        names = {entry.name for entry in out.iterdir()}
        if not names or {MANIFEST, BACKBONE} <= names <= {MANIFEST} | _REQUIRED | _OPTIONAL:
            return
        raise ConfigError(f"--out {out} is a folder but no bundle: name another, or remove it yourself")
    raise ConfigError(f"--out {out} is a file: name a folder that is free, or a bundle to replace")


def golden_bytes(arrays: Arrays) -> bytes:
    """Golden images as the file holds them."""
    data: bytes = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return data


def golden_arrays(bundle: Bundle) -> Arrays:
    """Golden images as arrays. Raises BundleError where the file is none of ours."""
    try:
        arrays: Arrays = safetensors.numpy.load(bundle.files[GOLDEN])
    except Exception as error:  # as in Bundle.read
        raise BundleError(f"{GOLDEN} cannot be read: {error}") from None
    return arrays


def _with_files(manifest: Manifest, files: dict[str, FileEntry]) -> Manifest:
    return msgspec.structs.replace(manifest, files=files)


def _entry(data: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


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


def _checked_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """The bytes of every file, each of the size and hash that the manifest names, and no file besides."""
    named = manifest.files.keys()
    if missing := sorted(_REQUIRED - named):
        raise BundleError(f"{MANIFEST} does not name {missing[0]}")
    if foreign := sorted(named - _REQUIRED - _OPTIONAL):
        raise BundleError(f"{MANIFEST} names a file that no bundle has: {foreign[0]!r}")
    there = {entry.name for entry in folder.iterdir()}
    if missing := sorted(named - there):
        raise BundleError(f"{missing[0]} is missing")
    if extra := sorted(there - named - {MANIFEST}):
        raise BundleError(f"extra file {extra[0]!r}: a bundle holds what its manifest names and nothing else")
    files = {}
    for name, entry in manifest.files.items():
        _require_plain(folder / name)
        size = (folder / name).stat().st_size
        if size != entry.size:
            raise BundleError(f"{name} has {size:,} bytes, its manifest says {entry.size:,}")
        files[name] = _read(folder / name)
        if hashlib.sha256(files[name]).hexdigest() != entry.sha256:
            raise BundleError(f"{name} does not match its sha256: it was changed or damaged")
    return files


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
    if not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
        raise DataError(f"{_CALIBRATION} must be finite and ascending")
    if scores.size != manifest.calibration.images:
        raise DataError(f"{scores.size} calibration scores, the manifest says {manifest.calibration.images}")
    scores.setflags(write=False)
    return Calibration(scores, check_rule(manifest.calibration.rule), manifest.calibration.threshold)


def _read_state(arrays: Arrays, index: bytes | None) -> Arrays:
    if foreign := sorted(name for name in arrays if not name.startswith(_STATE)):
        raise DataError(f"unknown array {foreign[0]!r}")
    state = {name.removeprefix(_STATE): array for name, array in arrays.items()}
    if index is not None:
        state[_INDEX_STATE] = np.frombuffer(index, dtype=np.uint8)
    return state
