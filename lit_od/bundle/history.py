"""The history of a bundle: a record of changes, and states that undo them.

`history/record.json` lists the changes, the oldest first. A change names a state, `history/SHA256.state`, by the hash
of its bytes: the files that the bundle had before, as far as those after the change do not hold them already. A state
is a safetensors file. Its array `about` is JSON that says, file by file, how the earlier file is made of later ones:

- `null`: it is the same;
- a text: its bytes are the state's array of that name;
- a list: it is a text, whose lines are, range by range, those of the later one, or given;
- an object: it is a safetensors file, and each of its arrays begins as the later one of its name does, for a number of
  elements, and goes on with the state's array of that name.

So a bank that has grown costs nothing to undo: the earlier rows are its first ones.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import SequenceMatcher
from typing import Any

import msgspec
import numpy as np

from lit_od.errors import BundleError, DataError
from lit_od.formats import safetensors_file as safetensors
from lit_od.formats.text import one_line
from lit_od.types import Arrays
from lit_od.versions import __version__

FOLDER = "history"
RECORD = f"{FOLDER}/record.json"

_NAMES = re.compile(rf"{FOLDER}/(record\.json|[0-9a-f]{{64}}\.state)")
_ABOUT = "about"
_TEXTS = (".json", ".md")


class ChangeEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One change.

    Attributes:
        number: Counted from 1; state N is what the bundle was after change N, state 0 what it was before the first.
        time: In UTC, ISO 8601.
        command: The command that made it.
        version: That of lit_od.
        images: The images that it was made by, with their fingerprints.
        threshold: Before and after.
        note: Free text.
        to: State to which a rollback went.
        state: Hash of the state that undoes it; None once that was dropped.
    """

    number: int
    time: str
    command: str
    version: str
    images: dict[str, Any]
    threshold: tuple[float, float]
    note: str | None = None
    to: int | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change, as the command that makes it describes it.

    Attributes:
        command: The command.
        images: The images that the change is made by, with their fingerprints.
        note: Free text.
        to: State to which a rollback goes.
    """

    command: str
    images: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None
    to: int | None = None

    def entry(self, number: int, threshold: tuple[float, float], state: bytes) -> ChangeEntry:
        """Return the line of the record.

        Args:
            number: Number of the change, from 1.
            threshold: Before and after.
            state: The state that undoes it.
        """
        return ChangeEntry(
            number=number,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            command=self.command,
            version=__version__,
            images=dict(self.images),
            threshold=threshold,
            note=self.note,
            to=self.to,
            state=hashlib.sha256(state).hexdigest(),
        )


def is_history(name: str) -> bool:
    """Return True for the names that files of a history have."""
    return _NAMES.fullmatch(name) is not None


def state_file(digest: str) -> str:
    """Return the name of the state with this hash."""
    return f"{FOLDER}/{digest}.state"


def encode(entries: Sequence[ChangeEntry]) -> bytes:
    """Encode a record."""
    return json.dumps(msgspec.to_builtins(list(entries)), indent=1, allow_nan=False).encode() + b"\n"


def decode(raw: bytes) -> list[ChangeEntry]:
    """Read and check a record.

    Raises:
        BundleError: If it is none, or its changes are not numbered from 1.
    """
    try:
        entries = msgspec.json.decode(raw, type=list[ChangeEntry])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(f"{RECORD}: {one_line(error)}") from None
    if [entry.number for entry in entries] != list(range(1, len(entries) + 1)):
        raise BundleError(f"{RECORD} must number its changes from 1, without a gap")
    if any(entry.to is not None and not 0 <= entry.to < entry.number for entry in entries):
        raise BundleError(f"{RECORD} names a rollback to a state that was not yet")
    return entries


def states_of(entries: Sequence[ChangeEntry]) -> set[str]:
    """Return the names of the states that a record needs."""
    return {state_file(entry.state) for entry in entries if entry.state is not None}


def check_states(names: Iterable[str], entries: Sequence[ChangeEntry]) -> None:
    """Check that the states which a record needs are there, and no others.

    Args:
        names: Names of a bundle's files.
        entries: The record.

    Raises:
        BundleError: If one is missing, or more than is needed.
    """
    there, needed = set(filter(is_history, names)) - {RECORD}, states_of(entries)
    for name in sorted(there ^ needed):
        raise BundleError(f"{RECORD} {'needs' if name in needed else 'knows no'} {name}")


def continued(
    record: Sequence[ChangeEntry],
    change: Change | None,
    threshold: tuple[float, float],
    earlier: Mapping[str, bytes],
    later: Mapping[str, bytes],
    *,
    keep: int | None = None,
) -> tuple[dict[str, bytes], set[str]]:
    """Continue a history.

    Args:
        record: The changes so far.
        change: A change to add; None adds none.
        threshold: Before and after the change.
        earlier: Contents of the bundle's files before the change.
        later: Those after it.
        keep: Number of the last changes whose states are kept; None keeps all.

    Returns:
        The files that are new, by name, and the names of the states that stay.
    """
    entries, added = list(record), {}
    if change is not None:
        state = difference(earlier, later)
        entries.append(change.entry(len(entries) + 1, threshold, state))
        added = dict.fromkeys(states_of(entries[-1:]), state)
    if keep is not None:
        dropped = max(0, len(entries) - keep)
        entries[:dropped] = [msgspec.structs.replace(entry, state=None) for entry in entries[:dropped]]
    needed = states_of(entries)
    added = {name: data for name, data in added.items() if name in needed}
    return (added | {RECORD: encode(entries)} if entries else {}), needed - added.keys()


def difference(earlier: Mapping[str, bytes], later: Mapping[str, bytes]) -> bytes:
    """Return the state by which `restore` makes the earlier files of the later ones.

    Args:
        earlier: Contents by name.
        later: Contents by name.
    """
    about: dict[str, Any] = {}
    kept: Arrays = {}
    for name, data in earlier.items():
        if later.get(name) == data:
            about[name] = None
            continue
        parts = _array_difference(name, data, later[name]) if name in later else None
        if parts is not None:
            about[name], arrays = parts
            kept |= arrays
        elif name in later and name.endswith(_TEXTS):
            about[name] = _line_difference(data, later[name])
        else:
            about[name] = name
            kept[name] = np.frombuffer(data, np.uint8)
    return safetensors.save({**kept, _ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})


def restore(state: bytes, later: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that the bundle had before a change.

    Args:
        state: The state that the change left.
        later: Contents of the files after the change, by name.

    Raises:
        BundleError: If the state does not fit the files.
    """
    try:
        kept = safetensors.views(state)
        about = json.loads(kept[_ABOUT].tobytes())
        return {name: _restored(name, made, kept, later) for name, made in about.items()}
    except (DataError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"a state of {FOLDER}/ does not fit the bundle: {one_line(error)}") from None


def _array_difference(name: str, earlier: bytes, later: bytes) -> tuple[dict[str, Any], Arrays] | None:
    """Return the arrays that a safetensors file needs besides a later one's.

    They come with a description of all its arrays. None if it would not be the same to the byte.
    """
    try:
        old, new = safetensors.views(earlier), safetensors.views(later)
    except DataError:
        return None
    about: dict[str, Any] = {}
    kept: Arrays = {}
    for array, values in old.items():
        common = _common(values, new.get(array))
        about[array] = [list(values.shape), common]
        if common < values.size or array not in new:
            kept[f"{name}/{array}"] = values.reshape(-1)[common:]
    if _made_of_arrays(name, about, kept, new) != earlier:
        return None
    return about, kept


def _common(values: np.ndarray, later: np.ndarray | None) -> int:
    """Return the number of first elements that two arrays share, bit by bit."""
    if later is None or later.dtype != values.dtype:
        return 0
    size = min(values.size, later.size)
    bits = f"u{values.dtype.itemsize}"
    differ = values.reshape(-1)[:size].view(bits) != later.reshape(-1)[:size].view(bits)
    return int(differ.argmax()) if differ.any() else size


def _line_difference(earlier: bytes, later: bytes) -> list[Any]:
    """Return the lines of a text: ranges of the later one's, and texts."""
    old, new = (data.decode("latin-1").split("\n") for data in (earlier, later))
    made: list[Any] = []
    for kind, start, stop, first, last in SequenceMatcher(None, new, old).get_opcodes():
        made += [[start, stop]] if kind == "equal" else old[first:last]
    return made


def _made_of_lines(made: Sequence[Any], later: bytes) -> bytes:
    lines = later.decode("latin-1").split("\n")
    found: list[str] = []
    done = 0
    for each in made:
        if isinstance(each, str):
            found.append(each)
            continue
        start, stop = each
        if not done <= start <= stop <= len(lines):  # so that a text is no longer than its parts
            raise ValueError(f"lines {start} to {stop} do not follow line {done} of {len(lines)}")
        found += lines[start:stop]
        done = stop
    return "\n".join(found).encode("latin-1")


def _restored(name: str, made: Any, kept: Arrays, later: Mapping[str, bytes]) -> bytes:
    if made is None:
        return later[name]
    if isinstance(made, str):
        return kept[made].tobytes()
    if isinstance(made, list):
        return _made_of_lines(made, later[name])
    return _made_of_arrays(name, made, kept, safetensors.views(later[name]))


def _made_of_arrays(name: str, about: Mapping[str, Any], kept: Arrays, later: Arrays) -> bytes:
    arrays: Arrays = {}
    for array, (shape, common) in about.items():
        rest = kept.get(f"{name}/{array}")
        parts = [later[array].reshape(-1)[:common]] if array in later else []
        parts += [] if rest is None else [rest]
        arrays[array] = np.concatenate(parts).reshape(shape)
    return safetensors.save(arrays)
