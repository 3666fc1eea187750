"""Histories: states that undo changes to the byte, and bundles whose history was tampered with."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od import Scorer
from lit_od.bundle import folder as bundles
from lit_od.bundle import history
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import ACCUMULATOR, DETECTOR, MANIFEST, Bundle
from lit_od.bundle.history import Change, ChangeEntry
from lit_od.errors import BundleError, ConfigError
from lit_od.formats import safetensors_file as safetensors
from tests.support.sealing import seal


def moved(bundle: Bundle, value: float, **change: Any) -> Bundle:
    """The bundle with another threshold, in its place."""
    calibration = bundle.calibration.with_rule({"rule": "value", "value": value})
    entry = msgspec.structs.replace(bundle.manifest.calibration, threshold=calibration.threshold, rule=calibration.rule)
    manifest = msgspec.structs.replace(bundle.manifest, calibration=entry)
    return bundles.rewrite(bundle, manifest, calibration, change=Change(command="threshold", **change))


@pytest.fixture
def changed(own_bundle: Path) -> Path:
    """A bundle that was changed twice."""
    moved(moved(Bundle.read(own_bundle), 3.0), 4.0, note="later")
    return own_bundle


# States

arrays = st.dictionaries(
    st.sampled_from("abc"),
    st.tuples(st.sampled_from([np.float32, np.float64, np.uint8, np.int64]), st.integers(0, 5), st.integers(0, 3)),
    max_size=3,
)


def encoded(shapes: dict[str, Any], *, start: int) -> bytes:
    return safetensors.save(
        {name: (np.arange(n * d) + start).reshape(n, d).astype(kind) for name, (kind, n, d) in shapes.items()}
    )


@settings(max_examples=80)
@given(one=arrays, other=arrays, start=st.integers(0, 1), text=st.binary(max_size=9))
def test_a_state_gives_the_earlier_files_to_the_byte(
    one: dict[str, Any], other: dict[str, Any], start: int, text: bytes
) -> None:
    lines = text.replace(b"a", b"\n")
    earlier = {"x": encoded(one, start=0), "y": b"same", "z": text, "gone": b"1", "t.json": lines}
    later = {"x": encoded(other, start=start), "y": b"same", "z": b"now", "new": b"2", "t.json": b"\n\xff\n\r"}
    assert history.restore(history.difference(earlier, later), later) == earlier


def test_a_bank_that_has_grown_costs_next_to_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(1010, 256)).astype(np.float32)
    earlier = {"x": safetensors.save({"bank": rows[:1000], "centre": np.zeros(256)})}
    later = {"x": safetensors.save({"bank": rows, "centre": np.zeros(256)})}
    assert len(history.difference(earlier, later)) < 500
    assert len(history.difference(later, earlier)) < 500 + 10 * 256 * 4


def test_a_text_that_has_grown_costs_a_line() -> None:
    earlier = {"x.json": "\n".join(map(str, range(10_000))).encode()}
    later = {"x.json": earlier["x.json"] + b"\nlast"}
    state = history.difference(earlier, later)
    assert history.restore(state, later) == earlier
    assert len(state) < 200


def test_bits_are_compared_and_no_values() -> None:
    """Zero equals minus zero, and no NaN equals itself."""
    earlier = {"x": safetensors.save({"a": np.array([0.0, np.nan, 1.0])})}
    later = {"x": safetensors.save({"a": np.array([-0.0, np.nan, 1.0])})}
    assert history.restore(history.difference(earlier, later), later) == earlier
    assert len(history.difference(earlier, earlier)) < len(history.difference(earlier, later))


@pytest.mark.parametrize("state", [b"", safetensors.save({}), safetensors.save({"about": np.zeros(3, np.uint8)})])
def test_what_is_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(BundleError, match=r"^a state of history/ does not fit the bundle"):
        history.restore(state, {})


@pytest.mark.parametrize(
    "made",
    [[[0, 9]], [[1, 0]], [[0, 1], [0, 1]], [["a", "b"]], [[0]], [3], {"a": [[9], 0]}, {"a": 1}, {"a": [[1], "x"]}, 7],
)
def test_a_state_that_does_not_fit_is_refused(made: Any) -> None:
    """Nor may a few lines be repeated without an end."""
    later = {"x.json": b"one\ntwo"} if isinstance(made, list) else {"x.json": safetensors.save({"a": np.zeros(2)})}
    about = np.frombuffer(json.dumps({"x.json": made}).encode(), np.uint8)
    with pytest.raises(BundleError, match=r"^a state of history/ does not fit the bundle: "):
        history.restore(safetensors.save({"about": about}), later)


def test_a_state_of_other_files_is_refused() -> None:
    state = history.difference({"x": b"1"}, {"x": b"1"})
    with pytest.raises(BundleError, match=r"^a state of history/ does not fit the bundle: 'x'"):
        history.restore(state, {})


# Records


def test_a_change_leaves_its_line_and_its_state(own_bundle: Path) -> None:
    old = Bundle.read(own_bundle)
    new = moved(old, 3.0, note="by hand", images={"outliers": {"images": 4}})
    assert sorted(entry.name for entry in own_bundle.iterdir()) == sorted(
        ["history", MANIFEST, *(name for name in old.files)]
    )
    (line,) = new.changes()
    assert (line.number, line.command, line.note, line.to) == (1, "threshold", "by hand", None)
    assert line.threshold == (old.calibration.threshold, 3.0)
    assert line.images == {"outliers": {"images": 4}}
    assert (own_bundle / history.state_file(str(line.state))).stat().st_size < 16_000
    again = moved(new, 3.0)
    assert [entry.number for entry in again.changes()] == [1, 2]
    assert again.changes()[0] == line
    Bundle.read(own_bundle, whole=True)


def test_what_is_rewritten_without_a_change_keeps_the_history(changed: Path) -> None:
    """As evaluate --record does."""
    bundle = Bundle.read(changed)
    bundles.rewrite(bundle, msgspec.structs.replace(bundle.manifest, name="renamed"), bundle.calibration)
    after = Bundle.read(changed, whole=True)
    assert after.manifest.name == "renamed"
    assert after.changes() == bundle.changes()


def test_a_change_of_what_was_changed_meanwhile_is_refused(own_bundle: Path) -> None:
    bundle = Bundle.read(own_bundle)
    moved(bundle, 3.0)
    with pytest.raises(ConfigError, match=r"was changed by another command meanwhile: run this one again$"):
        moved(bundle, 4.0)
    assert Bundle.read(own_bundle).calibration.threshold == 3.0
    assert [entry.name for entry in own_bundle.parent.iterdir()] == ["own"]


def test_the_record_is_checked() -> None:
    line = ChangeEntry(number=1, time="", command="accept", version="", images={}, threshold=(0.0, 1.0))
    assert history.decode(history.encode([line])) == [line]
    for raw, message in (
        (b"{", "history/record.json: "),
        (history.encode([line, line]), "history/record.json must number its changes from 1"),
        (history.encode([msgspec.structs.replace(line, to=1)]), "names a rollback to a state that was not yet"),
        (json.dumps([{**msgspec.to_builtins(line), "more": 1}]).encode(), "unknown field"),
    ):
        with pytest.raises(BundleError, match=message):
            history.decode(raw)


# What scoring does not need is not read


def test_scoring_reads_neither_the_history_nor_the_sums(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: (read.append(file.name), whole(file))[1])
    Scorer.load(changed)
    assert DETECTOR in read
    assert not {name for name in read if name.endswith((".state", "record.json"))}
    read.clear()
    Bundle.read(changed, whole=True)
    assert len([name for name in read if name.endswith(".state")]) == 2


def test_what_was_read_makes_the_bundle_elsewhere(changed: Path) -> None:
    """As workers on other machines make it, without what scoring does not need."""
    bundle = Bundle.read(changed)
    again = Bundle.of_files(changed, bundle.manifest, bundle.files)
    assert again.calibration.threshold == 4.0
    assert not set(filter(history.is_history, bundle.files))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_a_changed_byte_is_found_by_verify(changed: Path, command: Any) -> None:
    (state, _) = sorted((changed / "history").glob("*.state"))
    flip(state)
    Bundle.read(changed)
    outcome = command("verify", changed)
    assert outcome.status == 1
    assert f"{state.name} does not match its sha256" in outcome.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "record.json").unlink(), "^history/record.json is missing$"),
        (lambda folder: (folder / "more").write_text(""), "^extra file 'history/more'"),
        (lambda folder: (folder / "more").mkdir(), "^extra file 'history/more'"),
        (lambda folder: flip(folder / "record.json") or (folder / "record.json").write_bytes(b""), "has 0 bytes"),
        (lambda folder: shutil.rmtree(folder), "^history/.* is missing$"),
        (lambda folder: folder.rename(folder.with_name("history2")), "^history/.* is missing$"),
    ],
)
def test_files_that_are_missing_or_more_are_refused(changed: Path, change: Any, message: str) -> None:
    """By whoever opens the bundle, not by verify alone."""
    change(changed / "history")
    with pytest.raises(BundleError, match=message):
        Bundle.read(changed)


def test_a_linked_history_is_refused(changed: Path, tmp_path: Path) -> None:
    (changed / "history").rename(tmp_path / "elsewhere")
    (changed / "history").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"^history/.* is missing$"):
        Bundle.read(changed)


def test_an_empty_folder_is_more_than_the_manifest_names(own_bundle: Path) -> None:
    (own_bundle / "history").mkdir()
    with pytest.raises(BundleError, match=r"^extra file 'history'"):
        Bundle.read(own_bundle)


@pytest.mark.parametrize("name", ["history/../x", "history/x.state", "history", "history/a/record.json"])
def test_a_manifest_names_no_other_file_of_a_history(own_bundle: Path, name: str) -> None:
    seal(own_bundle, lambda tree: tree["files"].update({name: {"sha256": "0" * 64, "size": 0}}))
    with pytest.raises(BundleError, match=r"names a file that no bundle has: 'history|does not exist|cannot be read"):
        Bundle.read(own_bundle)


def test_a_state_that_no_change_needs_is_refused(changed: Path) -> None:
    (folder := changed / "history").joinpath(f"{'0' * 64}.state").write_bytes(b"")
    entry = {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0}
    seal(changed, lambda tree: tree["files"].update({f"history/{'0' * 64}.state": entry}))
    Bundle.read(changed)
    with pytest.raises(BundleError, match=r"^history/record.json knows no history/0000"):
        Bundle.read(changed, whole=True)
    assert len(list(folder.iterdir())) == 4


def test_sums_that_do_not_fit_are_refused(own_bundle: Path) -> None:
    for arrays, message in (
        ({"x": np.zeros(3)}, "^accumulator.safetensors: "),
        ({"scatter": np.zeros(4)}, "must hold triangles of matrices, got"),
    ):
        data = safetensors.save(arrays)
        (own_bundle / ACCUMULATOR).write_bytes(data)
        entry = msgspec.to_builtins(manifests.FileEntry.of(data))
        seal(own_bundle, lambda tree, entry=entry: tree["files"].update({ACCUMULATOR: entry}))
        Bundle.read(own_bundle)
        with pytest.raises(BundleError, match=message):
            Bundle.read(own_bundle, whole=True)
