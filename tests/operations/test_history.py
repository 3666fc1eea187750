"""The way back: every byte but the record's."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lit_od.bundle import folder as bundles
from lit_od.bundle.folder import MANIFEST, Bundle
from lit_od.bundle.history import Change, ChangeEntry
from lit_od.errors import ConfigError
from lit_od.operations.history import describe, drop_states, present, purge, rollback
from tests.support.sealing import signed


def moved(path: Path, value: float) -> None:
    bundle = Bundle.read(path)
    calibration = bundle.calibration.with_rule({"rule": "value", "value": value})
    entry = msgspec.structs.replace(bundle.manifest.calibration, threshold=calibration.threshold, rule=calibration.rule)
    manifest = msgspec.structs.replace(bundle.manifest, calibration=entry)
    bundles.rewrite(bundle, manifest, calibration, change=Change(command="threshold"))


def essence(path: Path) -> dict[str, Any]:
    """All bytes of a bundle but the history's, and the manifest without the history's files and its own hash."""
    tree = json.loads((path / MANIFEST).read_bytes())
    tree["files"] = {name: entry for name, entry in tree["files"].items() if not name.startswith("history/")}
    files = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != MANIFEST}
    return {**files, MANIFEST: json.loads(signed(tree))}


def threshold(path: Path) -> float:
    return Bundle.read(path, whole=True).calibration.threshold


def test_a_rollback_brings_every_byte_back(own_bundle: Path) -> None:
    first = essence(own_bundle)
    states = [first]
    for value in (3.0, 4.0, 5.0):
        moved(own_bundle, value)
        states.append(essence(own_bundle))
    for to in (1, 3, 0, 2):
        rollback(Bundle.read(own_bundle), to)
        assert essence(own_bundle) == states[to]
    assert essence(own_bundle)[MANIFEST] != first[MANIFEST]
    Bundle.read(own_bundle, whole=True)


def test_without_a_number_it_goes_a_step_back(own_bundle: Path) -> None:
    old = threshold(own_bundle)
    for value in (3.0, 4.0):
        moved(own_bundle, value)
    seen = []
    for _ in range(2):
        rollback(Bundle.read(own_bundle))
        seen.append(threshold(own_bundle))
    assert seen == [3.0, old]
    with pytest.raises(ConfigError, match=r"is in its first state; name another: 1 to 4$"):
        rollback(Bundle.read(own_bundle))
    rollback(Bundle.read(own_bundle), 2)
    assert threshold(own_bundle) == 4.0
    moved(own_bundle, 6.0)
    rollback(Bundle.read(own_bundle))
    assert threshold(own_bundle) == 4.0


def test_states_that_are_not_there_are_refused(own_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no history: it is as it was made$"):
        rollback(Bundle.read(own_bundle))
    moved(own_bundle, 3.0)
    for to in (-1, 2):
        with pytest.raises(ConfigError, match=f"has the states 0 to 1, got {to}$"):
            rollback(Bundle.read(own_bundle), to)
    with pytest.raises(ConfigError, match=r"is in state 1 already$"):
        rollback(Bundle.read(own_bundle), 1)


def test_dropped_states_leave_the_record(own_bundle: Path) -> None:
    for value in (3.0, 4.0, 5.0):
        moved(own_bundle, value)
    before = Bundle.read(own_bundle).changes()
    drop_states(Bundle.read(own_bundle), keep=1)
    after = Bundle.read(own_bundle, whole=True)
    assert [entry.state is None for entry in after.changes()] == [True, True, False]
    assert [msgspec.structs.replace(entry, state=None) for entry in after.changes()] == [
        msgspec.structs.replace(entry, state=None) for entry in before
    ]
    assert len(list((own_bundle / "history").iterdir())) == 2
    with pytest.raises(ConfigError, match=r"keeps no way back beyond change 2: its states are 2 and later$"):
        rollback(after, 1)
    rollback(after, 2)
    assert threshold(own_bundle) == 4.0


def test_a_purge_leaves_no_trace(own_bundle: Path) -> None:
    moved(own_bundle, 3.0)
    bundle = Bundle.read(own_bundle)
    kept = essence(own_bundle)
    purge(bundle)
    assert essence(own_bundle) == kept
    assert not (own_bundle / "history").exists()
    assert Bundle.read(own_bundle, whole=True).changes() == []


def line(number: int, to: int | None = None) -> ChangeEntry:
    images = {"accepted": {"images": 3, "sha256": []}} if to is None else {}
    facts: dict[str, Any] = {"time": "T", "version": "9", "images": images, "threshold": (1.0, float(number))}
    return ChangeEntry(number=number, command="accept" if to is None else "rollback", to=to, **facts)


@pytest.mark.parametrize(
    ("record", "here"),
    [
        ([], 0),
        ([line(1)], 1),
        ([line(1), line(2, 0)], 0),
        ([line(1), line(2), line(3, 1)], 1),
        ([line(1), line(2, 0), line(3, 1)], 1),
        ([line(1), line(2, 0), line(3, 2)], 0),
        ([line(1), line(2, 0), line(3)], 3),
    ],
)
def test_a_rollback_goes_to_a_state_that_was(record: list[ChangeEntry], here: int) -> None:
    assert present(record) == here


def test_a_record_is_described_line_by_line() -> None:
    first, second, third = describe([line(1), msgspec.structs.replace(line(2, 0), note="why")]).splitlines()
    assert first == "state   0  as it was made  <- present"
    assert second == "state   1  T  accept, threshold 1 stays, accepted 3 images, lit_od 9, not to be undone"
    assert third == "state   2  T  rollback to state 0, threshold 1 -> 2, lit_od 9, not to be undone, why"
