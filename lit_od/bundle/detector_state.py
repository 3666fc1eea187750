"""The files of a detector: state and calibration scores, and sums."""

import math
from dataclasses import replace

import numpy as np

from lit_od.bundle.manifest import Manifest
from lit_od.calibration.method import Folds
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import check_rule
from lit_od.detectors import Accumulator, Detector
from lit_od.errors import DataError
from lit_od.formats import safetensors_file as safetensors
from lit_od.types import Arrays, Scores, Stats

MAX_SCORE = 1e150
"""Bound of calibration scores, so that their variance is finite."""

_STATE = "detector."
_CALIBRATION = "calibration.scores"
_PEAKS = "calibration.peaks"
_INDEX_STATE = "index"


def state_bytes(detector: Detector, calibration: Calibration) -> tuple[bytes, bytes | None]:
    """Encode state and calibration scores, and FAISS' index apart where there is one."""
    state = detector.state()
    index = state.pop(_INDEX_STATE, None)
    arrays = {_STATE + name: array for name, array in state.items()}
    arrays[_CALIBRATION] = np.array(calibration.scores)
    if calibration.peaks is not None:
        arrays[_PEAKS] = np.array(calibration.peaks)
    return safetensors.save(arrays), None if index is None else index.tobytes()


def read_state(data: bytes, index: bytes | None, manifest: Manifest) -> tuple[Arrays, Calibration]:
    """Decode what `state_bytes` gives.

    Args:
        data: State and calibration scores.
        index: FAISS' index.
        manifest: The bundle's manifest.

    Returns:
        The detector's state, and the calibration.

    Raises:
        DataError: If the arrays are not those of a bundle.
    """
    arrays = safetensors.load(data)
    calibration = _read_calibration(arrays, manifest)
    return _read_state(arrays, index), calibration


def with_folds(calibration: Calibration, manifest: Manifest, detector: Detector) -> Calibration:
    """Return the calibration with its folds, where it is a cross calibration.

    Args:
        calibration: As `read_state` gives it.
        manifest: The bundle's manifest.
        detector: The detector, which says what is proven.
    """
    count = manifest.calibration.folds
    return replace(calibration, folds=Folds(count, detector.falls_with_rows)) if isinstance(count, int) else calibration


def sums_bytes(sums: Accumulator) -> bytes:
    """Encode the sums that accepted images are added to.

    Of symmetric matrices the lower triangles are kept.
    """
    arrays = sums.state()
    for name in filter(_is_symmetric, arrays):
        arrays[name] = arrays[name][..., *np.tril_indices(arrays[name].shape[-1])]
    return safetensors.save(arrays)


def restored_sums(detector: Detector, data: bytes) -> Accumulator:
    """Decode what `sums_bytes` gives.

    Args:
        detector: The detector whose sums these are.
        data: The bytes.

    Raises:
        DataError: If the arrays are not such sums, or the detector has none.
    """
    sums = detector.sums()
    if sums is None:
        raise DataError(f"{detector.kind} keeps no sums")
    arrays = safetensors.load(data)
    for name in filter(_is_symmetric, arrays):
        arrays[name] = _square(name, arrays[name])
    sums.restore(arrays)
    return sums


def _is_symmetric(name: str) -> bool:
    """Return True for the sums of products of two values, by the name of the array."""
    return name.rpartition(".")[2] in ("scatter", "second")


def _square(name: str, triangles: Stats) -> Stats:
    """Return symmetric matrices (..., d, d) of triangles (..., d (d + 1) / 2)."""
    size = triangles.shape[-1] if triangles.ndim else 0
    width = (math.isqrt(8 * size + 1) - 1) // 2
    if not size or width * (width + 1) // 2 != size:
        raise DataError(f"array {name!r} must hold triangles of matrices, got {triangles.shape}")
    squares = np.empty((*triangles.shape[:-1], width, width), triangles.dtype)
    rows, columns = np.tril_indices(width)
    squares[..., rows, columns] = squares[..., columns, rows] = triangles
    return squares


def _read_calibration(arrays: Arrays, manifest: Manifest) -> Calibration:
    scores = _ascending(arrays, _CALIBRATION, manifest)
    peaks = _ascending(arrays, _PEAKS, manifest) if _PEAKS in arrays else None
    return Calibration(scores, check_rule(manifest.calibration.rule), manifest.calibration.threshold, peaks=peaks)


def _ascending(arrays: Arrays, name: str, manifest: Manifest) -> Scores:
    """Take a value of each calibration inlier, ascending."""
    values = arrays.pop(name, None)
    if values is None or values.ndim != 1 or values.dtype != np.float64 or values.size == 0:
        raise DataError(f"{name} must be float64 (n,) with n of at least 1")
    if not np.isfinite(values).all() or (values[1:] < values[:-1]).any():
        raise DataError(f"{name} must be finite and ascending")
    if max(-values[0], values[-1]) > MAX_SCORE:
        raise DataError(f"{name} must lie within {MAX_SCORE:g}, got {values[0]:g} to {values[-1]:g}")
    if values.size != manifest.calibration.images:
        raise DataError(f"{values.size} {name.replace('.', ' ')}, the manifest says {manifest.calibration.images}")
    values.setflags(write=False)
    return values


def _read_state(arrays: Arrays, index: bytes | None) -> Arrays:
    if foreign := sorted(name for name in arrays if not name.startswith(_STATE)):
        raise DataError(f"unknown array {foreign[0]!r}")
    state = {name.removeprefix(_STATE): array for name, array in arrays.items()}
    if _INDEX_STATE in state:
        raise DataError(f"unknown array {_STATE + _INDEX_STATE!r}: an index is the file index.faiss")
    if index is not None:
        state[_INDEX_STATE] = np.frombuffer(index, dtype=np.uint8)
    return state
