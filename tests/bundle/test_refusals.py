"""Bundles whose hashes are right and whose contents are not: somebody made them so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_od.bundle.folder import BACKBONE, CARD, DETECTOR, GOLDEN, INDEX, MANIFEST, Bundle
from lit_od.bundle.manifest import FileEntry
from lit_od.errors import BundleError

Seal = Callable[..., None]
FILES = [BACKBONE, DETECTOR, GOLDEN, CARD]


def entry(data: bytes) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(FileEntry.of(data))
    return built


# The wrong files


@pytest.mark.parametrize("name", FILES)
def test_a_file_must_be_named(own_bundle: Path, seal: Seal, name: str) -> None:
    seal(own_bundle, lambda tree: tree["files"].pop(name))
    with pytest.raises(BundleError, match=rf"^manifest\.json does not name {name}$"):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "notes.txt", "", ".", MANIFEST])
def test_no_other_file_may_be_named(own_bundle: Path, tmp_path: Path, seal: Seal, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"x")
    seal(own_bundle, lambda tree: tree["files"].update({name: entry(b"x")}))
    with pytest.raises(BundleError, match=r"^manifest\.json names a file that no bundle has: "):
        Bundle.read(own_bundle)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, rf"^{BACKBONE} has .* bytes, its manifest says 0$"),
        (2**40, rf"^{BACKBONE} has .* bytes, its manifest says 1,099,511,627,776$"),
        (-1, r"^manifest\.json: Expected `int` >= 0 - at `\$\.files\[\.\.\.\]\.size`$"),
        (2**62, r"^manifest\.json: Expected `int` <= 1099511627776 - at `\$\.files\[\.\.\.\]\.size`$"),
    ],
)
def test_sizes_must_be_true(own_bundle: Path, seal: Seal, size: int, message: str) -> None:
    seal(own_bundle, lambda tree: tree["files"][BACKBONE].update(size=size))
    with pytest.raises(BundleError, match=message):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "G" * 64, "A" * 64, "0" * 64 + "\n", "x" * 10_000])
def test_hashes_must_be_hashes(own_bundle: Path, seal: Seal, sha256: str) -> None:
    seal(own_bundle, lambda tree: tree["files"][BACKBONE].update(sha256=sha256))
    with pytest.raises(
        BundleError, match=r"^manifest\.json: sha256 must be 64 hexadecimal digits in lower case"
    ) as caught:
        Bundle.read(own_bundle)
    assert len(str(caught.value)) < 300


# The wrong statistics


def with_arrays(folder: Path, seal: Seal, **changes: np.ndarray | None) -> None:
    arrays = safetensors.numpy.load((folder / DETECTOR).read_bytes())
    for name, array in changes.items():
        key = name.replace("__", ".")
        if array is None:
            del arrays[key]
        else:
            arrays[key] = array
    (folder / DETECTOR).write_bytes(safetensors.numpy.save(arrays))
    seal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration__scores": None}, r"calibration\.scores must be float64 \(n,\)"),
        ({"calibration__scores": np.zeros(400, np.float32)}, r"calibration\.scores must be float64 \(n,\)"),
        ({"calibration__scores": np.zeros((20, 20))}, r"calibration\.scores must be float64 \(n,\)"),
        ({"calibration__scores": np.zeros(0)}, "with n of at least 1"),
        ({"calibration__scores": np.arange(400.0)[::-1].copy()}, "must be finite and ascending"),
        ({"calibration__scores": np.full(400, np.nan)}, "must be finite and ascending"),
        ({"calibration__scores": np.r_[np.zeros(399), np.inf]}, "must be finite and ascending"),
        ({"calibration__scores": np.r_[-1e308, np.zeros(398), 1e308]}, r"must lie within 1e\+150, got -1e\+308 to 1e"),
        ({"calibration__scores": np.zeros(399)}, "399 values of calibration.scores, the manifest says 400"),
        ({"detector__means": None}, "the state of mahalanobis lacks the array 'means'"),
        ({"detector__means": np.full((1, 16), np.nan)}, "array 'means' of the state must be finite"),
        ({"detector__means": np.zeros((1, 17))}, r"'whitener' of the state must have shape \(17, 17\)"),
        ({"detector__more": np.zeros(1)}, "unknown array 'more'"),
        (
            {"detector__index": np.zeros(1, np.uint8)},
            r"unknown array 'detector\.index': an index is the file index\.faiss",
        ),
        ({"foreign": np.zeros(1)}, "unknown array 'foreign'"),
    ],
)
def test_statistics_that_cannot_be_are_refused(
    own_bundle: Path, seal: Seal, changes: dict[str, np.ndarray | None], message: str
) -> None:
    with_arrays(own_bundle, seal, **changes)
    with pytest.raises(BundleError, match=rf"^{DETECTOR}: .*{message}"):
        Bundle.read(own_bundle)


def test_an_index_that_the_detector_does_not_have_is_refused(own_bundle: Path, seal: Seal) -> None:
    (own_bundle / INDEX).write_bytes(b"x")
    seal(own_bundle, lambda tree: tree["files"].update({INDEX: entry(b"x")}))
    with pytest.raises(BundleError, match="unknown array 'index'"):
        Bundle.read(own_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["detector"].update(kind="magic"), "unknown detector 'magic'"),
        (lambda tree: tree["detector"]["options"].update(more=1), "detector mahalanobis has no option 'more'"),
        (lambda tree: tree["detector"]["options"].update(shrinkage=2), "shrinkage must be a number"),
        (lambda tree: tree["detector"]["options"].update(class_conditional=True), "lacks the array 'classes'"),
        (lambda tree: tree["calibration"].update(rule={"rule": "magic"}), "unknown threshold rule 'magic'"),
        (lambda tree: tree["calibration"].update(rule={}), "unknown threshold rule None"),
        (lambda tree: tree["calibration"].update(images=5), "400 values of calibration.scores, the manifest says 5"),
    ],
)
def test_a_manifest_that_does_not_fit_the_statistics_is_refused(
    own_bundle: Path, seal: Seal, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    seal(own_bundle, change)
    with pytest.raises(BundleError, match=rf"^{DETECTOR}: .*{message}"):
        Bundle.read(own_bundle)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_statistics_of_any_bytes_are_read_or_refused_in_one_line(
    own_bundle: Path, seal: Seal, made_bundle: Bundle, data: st.DataObject
) -> None:
    raw = bytearray(made_bundle.files[DETECTOR])
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, header + 20))] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    (own_bundle / DETECTOR).write_bytes(damaged)
    seal(own_bundle)
    try:
        Bundle.read(own_bundle)
    except BundleError:
        with pytest.raises(BundleError, match=rf"^{DETECTOR}[^\n]*$"):
            Bundle.read(own_bundle)


def test_golden_images_of_any_bytes_are_refused(own_bundle: Path, seal: Seal) -> None:
    (own_bundle / GOLDEN).write_bytes(b"not safetensors")
    seal(own_bundle)
    with pytest.raises(BundleError, match=rf"^{GOLDEN}: cannot be read: "):
        Bundle.read(own_bundle)
