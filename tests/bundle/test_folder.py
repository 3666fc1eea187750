"""The bundle on disk: what is written is read, byte by byte, and nothing else is."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from lit_od.bundle import folder as bundles
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import (
    BACKBONE,
    CARD,
    DETECTOR,
    GOLDEN,
    INDEX,
    MANIFEST,
    MAPS,
    Bundle,
    golden_arrays,
    golden_bytes,
)
from lit_od.bundle.manifest import DetectorEntry, FileEntry
from lit_od.detectors import KNN
from lit_od.errors import BundleError, ConfigError

Seal = Callable[..., None]
FILES = [BACKBONE, DETECTOR, GOLDEN, CARD]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def features(rows: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, 16)).astype(np.float32)


def same(one: Bundle, other: Bundle) -> None:
    assert msgspec.structs.replace(one.manifest, files={}, sha256="") == msgspec.structs.replace(
        other.manifest, files={}, sha256=""
    )
    np.testing.assert_array_equal(one.calibration.scores, other.calibration.scores)
    assert one.calibration.threshold == other.calibration.threshold
    np.testing.assert_array_equal(one.detector.score(features(9)), other.detector.score(features(9)))


# Round trip


def test_what_was_written_is_read(made_bundle: Bundle) -> None:
    again = Bundle.read(str(made_bundle.path))
    same(again, made_bundle)
    assert again.files == made_bundle.files
    assert sorted(entry.name for entry in made_bundle.path.iterdir()) == sorted([*FILES, MANIFEST])
    assert again.manifest.calibration.images == 400
    assert again.manifest.detector.images == 800
    with pytest.raises(ValueError, match="read-only"):
        again.calibration.scores[0] = 1


def test_rewriting_keeps_what_is_not_changed(own_bundle: Path) -> None:
    before = Bundle.read(own_bundle)
    after = bundles.rewrite(before, before.manifest, before.calibration)
    same(before, after)
    assert after.files == before.files


def test_what_could_not_be_read_is_not_written(own_bundle: Path, made_bundle: Bundle) -> None:
    before = snapshot(own_bundle)
    read = Bundle.read(own_bundle)
    manifest = msgspec.structs.replace(read.manifest, model=msgspec.structs.replace(read.manifest.model, opset=19))
    with pytest.raises(BundleError, match=f"^{BACKBONE} is of opset 20, its manifest says 19$"):
        bundles.rewrite(read, manifest, read.calibration)
    assert snapshot(own_bundle) == before


def test_a_bundle_may_be_reached_by_a_link(own_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(own_bundle)
    linked = Bundle.read(tmp_path / "link")
    bundles.rewrite(linked, linked.manifest, linked.calibration)
    assert (tmp_path / "link").is_symlink()
    same(Bundle.read(own_bundle), linked)


def test_a_bundle_that_was_left_aside_is_put_back(own_bundle: Path) -> None:
    own_bundle.rename(own_bundle.with_name(".own.lit-od-old"))
    assert Bundle.read(own_bundle).manifest.name == "digits"
    assert own_bundle.is_dir()


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifest and files would be of two bundles."""
    bundle, file_bytes, names = Bundle.read(own_bundle), bundles.file_bytes, ["newest", "newer"]

    def replaced(file: Path, entry: FileEntry) -> bytes:
        if names:
            bundles.rewrite(bundle, msgspec.structs.replace(bundle.manifest, name=names.pop()), bundle.calibration)
        return file_bytes(file, entry)

    monkeypatch.setattr(bundles, "file_bytes", replaced)
    assert Bundle.read(own_bundle).manifest.name == "newest"


def test_an_index_is_a_file_of_its_own(made_bundle: Bundle, tmp_path: Path) -> None:
    bank = features(300)
    detector = KNN.fit(bank, k=2, index="IVF4,Flat")
    manifest = msgspec.structs.replace(
        made_bundle.manifest, detector=DetectorEntry(kind="knn", options=detector.options(), images=300)
    )
    kept = {name: data for name, data in made_bundle.files.items() if name in (BACKBONE, GOLDEN)}
    written = bundles.write(tmp_path / "knn", manifest, detector, made_bundle.calibration, kept)
    assert (tmp_path / "knn" / INDEX).stat().st_size == written.manifest.files[INDEX].size > 0
    np.testing.assert_array_equal(written.detector.score(bank[:50]), detector.score(bank[:50]))
    again = bundles.rewrite(written, written.manifest, written.calibration)
    assert again.files == written.files
    (tmp_path / "knn" / INDEX).unlink()
    with pytest.raises(BundleError, match=f"^{INDEX} is missing$"):
        Bundle.read(tmp_path / "knn")


def test_maps_are_kept(own_bundle: Path, seal: Seal, small_graph: bytes) -> None:
    (own_bundle / MAPS).write_bytes(small_graph)
    seal(own_bundle, lambda tree: tree["files"].update({MAPS: entry(small_graph)}))
    read = Bundle.read(own_bundle)
    assert read.files[MAPS] == small_graph
    assert bundles.rewrite(read, read.manifest, read.calibration).files[MAPS] == small_graph


def entry(data: bytes) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(FileEntry.of(data))
    return built


def test_a_folder_whose_name_is_no_unicode(made_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"\xff\xfe")
    manifest = msgspec.structs.replace(made_bundle.manifest, name=out.name)
    kept = {name: data for name, data in made_bundle.files.items() if name in (BACKBONE, GOLDEN)}
    written = bundles.write(out, manifest, made_bundle.detector, made_bundle.calibration, kept)
    assert written.manifest.name == out.name
    assert b"\\udcff\\udcfe" in written.files[CARD]


def test_golden_images_come_back(made_bundle: Bundle) -> None:
    arrays = golden_arrays(made_bundle)
    assert arrays["pixels"].shape == (7, 28, 28, 1)
    again = golden_bytes({**arrays, "pixels": arrays["pixels"].transpose(0, 2, 1, 3).transpose(0, 2, 1, 3)})
    np.testing.assert_array_equal(safetensors.numpy.load(again)["pixels"], arrays["pixels"])


# Damage


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_anywhere_is_found(own_bundle: Path, name: str, place: float) -> None:
    raw = bytearray((own_bundle / name).read_bytes())
    raw[int(place * len(raw))] ^= 1
    (own_bundle / name).write_bytes(raw)
    wanted = "manifest.json" if name == MANIFEST else f"{name} does not match its sha256: it was changed or damaged"
    if name == MANIFEST and place == 0.999:
        raw[-1] = ord("x")  # the last byte is white space
        (own_bundle / name).write_bytes(raw)
    with pytest.raises(BundleError, match=wanted):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_truncated_file_is_found(own_bundle: Path, name: str, kept: int) -> None:
    raw = (own_bundle / name).read_bytes()
    (own_bundle / name).write_bytes(raw[:kept])
    wanted = (
        "manifest.json is damaged" if name == MANIFEST else f"{name} has {kept} bytes, its manifest says {len(raw):,}"
    )
    with pytest.raises(BundleError, match=wanted):
        Bundle.read(own_bundle)


def test_a_longer_file_is_found(own_bundle: Path) -> None:
    with (own_bundle / BACKBONE).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=rf"{BACKBONE} has .* bytes, its manifest says"):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(own_bundle: Path, name: str) -> None:
    (own_bundle / name).unlink()
    with pytest.raises(BundleError, match=f"^{name} is missing$"):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("name", [INDEX, MAPS, "notes.txt", ".DS_Store", "backbone.onnx.data"])
def test_a_file_that_is_not_named_is_found(own_bundle: Path, name: str) -> None:
    (own_bundle / name).touch()
    with pytest.raises(BundleError, match=f"extra file '{name}': a bundle holds what its manifest names"):
        Bundle.read(own_bundle)


def test_a_folder_below_is_found(own_bundle: Path) -> None:
    (own_bundle / "below").mkdir()
    with pytest.raises(BundleError, match="extra file 'below'"):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_links_folders_and_pipes_are_refused(own_bundle: Path, tmp_path: Path, name: str) -> None:
    file = own_bundle / name
    file.rename(tmp_path / "outside")
    message = f"^{name} is no plain file: links and folders are refused$"
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=message):
        Bundle.read(own_bundle)
    file.unlink()
    file.mkdir()
    with pytest.raises(BundleError, match=message):
        Bundle.read(own_bundle)
    file.rmdir()
    os.mkfifo(file)
    with pytest.raises(BundleError, match=message):
        Bundle.read(own_bundle)


def test_a_file_that_cannot_be_read_is_named(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match=rf"^{MANIFEST} cannot be read: Permission denied$"):
        Bundle.read(own_bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere: there is no such folder"):
        Bundle.read(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"file is a file: a bundle is a folder with manifest\.json"):
        Bundle.read(tmp_path / "file")
    with pytest.raises(BundleError, match=r"empty is no bundle: it has no manifest\.json"):
        Bundle.read(tmp_path / "empty")


def test_a_manifest_that_is_too_large_is_not_read(own_bundle: Path) -> None:
    with (own_bundle / MANIFEST).open("ab") as file:
        file.truncate(manifests.MAX_BYTES + 1)
    with pytest.raises(BundleError, match=r"manifest\.json exceeds 16,777,216 bytes"):
        Bundle.read(own_bundle)


def test_a_folder_that_cannot_be_listed_is_named(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(BundleError, match=r"own cannot be read: Permission denied$"):
        Bundle.read(own_bundle)


def test_files_in_memory_are_read_as_those_on_disk_are(made_bundle: Bundle) -> None:
    again = Bundle.of_files(made_bundle.path, made_bundle.manifest, made_bundle.files)
    same(again, made_bundle)
    for name in FILES:
        rest = {other: data for other, data in made_bundle.files.items() if other != name}
        with pytest.raises(BundleError, match=f"^{name} is missing$"):
            Bundle.of_files(made_bundle.path, made_bundle.manifest, rest)
        changed = bytes([made_bundle.files[name][0] ^ 1]) + made_bundle.files[name][1:]
        with pytest.raises(BundleError, match=f"^{name} does not match its sha256"):
            Bundle.of_files(made_bundle.path, made_bundle.manifest, rest | {name: changed})
    with pytest.raises(BundleError, match=r"^extra file 'x'"):
        Bundle.of_files(made_bundle.path, made_bundle.manifest, {**made_bundle.files, "x": b""})


# Where a bundle may be written


def test_free_places_empty_folders_and_bundles_may_be_written(own_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "free", tmp_path / "empty", own_bundle):
        bundles.require_replaceable(out)
    (own_bundle / CARD).unlink()
    (own_bundle / MANIFEST).write_text("damaged")
    bundles.require_replaceable(own_bundle)


@pytest.mark.parametrize(
    "names", [["photo.png"], [CARD], [MANIFEST], [MANIFEST, CARD], [MANIFEST, BACKBONE, "photo.png"], [BACKBONE]]
)
def test_a_folder_that_is_no_bundle_is_never_replaced(made_bundle: Bundle, tmp_path: Path, names: list[str]) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    for name in names:
        (out / name).write_text("precious")
    kept = {name: data for name, data in made_bundle.files.items() if name in (BACKBONE, GOLDEN)}
    with pytest.raises(ConfigError, match=r"^--out .*precious is a folder but no bundle: name another, or remove it"):
        bundles.write(out, made_bundle.manifest, made_bundle.detector, made_bundle.calibration, kept)
    assert snapshot(tmp_path) == {f"precious/{name}": b"precious" for name in names}


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(
        ConfigError, match=r"^--out .*file is a file: name a folder that is free, or a bundle to replace$"
    ):
        bundles.require_replaceable(tmp_path / "file")


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left(
    own_bundle: Path, made_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write the bundle .*file/out: "):
        bundles.write(
            tmp_path / "file" / "out",
            made_bundle.manifest,
            made_bundle.detector,
            made_bundle.calibration,
            {BACKBONE: made_bundle.files[BACKBONE], GOLDEN: made_bundle.files[GOLDEN]},
        )
    before = snapshot(tmp_path)
    write_bytes = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == MANIFEST:
            raise OSError(28, "No space left on device")
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"cannot write the bundle .*own: No space left on device"):
        bundles.rewrite(Bundle.read(own_bundle), made_bundle.manifest, made_bundle.calibration)
    assert snapshot(tmp_path) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "own"]


def test_a_manifest_entry_is_hash_and_size() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert FileEntry.of(b"") == FileEntry(sha256=empty, size=0)
