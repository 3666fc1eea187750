"""The history of a bundle: go back to an earlier state, and drop states."""

from collections.abc import Collection, Sequence

import msgspec

from lit_od.bundle import folder as bundles
from lit_od.bundle import history
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import MANIFEST, Bundle
from lit_od.bundle.history import Change, ChangeEntry
from lit_od.errors import BundleError, ConfigError


def rollback(bundle: Bundle, to: int | None = None, *, note: str | None = None, trust: Collection[str] = ()) -> Bundle:
    """Bring an earlier state of a bundle back, in its place.

    All files but the history's become what they were, to the byte, and so does the manifest but for naming them. The
    history goes on: a rollback can be undone by another.

    Args:
        bundle: The bundle.
        to: Number of the state: the one after change N, or 0 for the one before the first. None takes the one before
            the present one.
        note: Free text for the history.
        trust: As `Bundle.read` takes it.

    Raises:
        BundleError: If the history is damaged.
        ConfigError: If there is no such state, or its way back was dropped.
    """
    record = bundle.changes()
    if not record:
        raise ConfigError(f"{bundle.path} has no history: it is as it was made")
    here = present(record)
    if to is None:
        if here == 0:
            raise ConfigError(f"{bundle.path} is in its first state; name another: 1 to {len(record)}")
        to = present(record[: here - 1])
    if not 0 <= to <= len(record):
        raise ConfigError(f"{bundle.path} has the states 0 to {len(record)}, got {to}")
    if to == len(record):
        raise ConfigError(f"{bundle.path} is in state {to} already")
    files = bundle.contents()
    for entry in reversed(record[to:]):
        if entry.state is None:
            raise ConfigError(
                f"{bundle.path} keeps no way back beyond change {entry.number}: its states are {entry.number} and later"
            )
        files = history.restore(bundle.content(history.state_file(entry.state)), files)
    if MANIFEST not in files:
        raise BundleError(f"a state of {history.FOLDER}/ does not fit the bundle: it has no {MANIFEST}")
    manifest = manifests.decode(files.pop(MANIFEST))
    change = Change(command="rollback", note=note, to=to)
    return bundles.write_files(bundle.path, manifest, files, after=bundle, change=change, trust=trust)


def present(record: Sequence[ChangeEntry]) -> int:
    """Return the number of the state after a record; a rollback goes to one before."""
    here = len(record)
    while here and (to := record[here - 1].to) is not None:
        here = to
    return here


def drop_states(bundle: Bundle, *, keep: int, trust: Collection[str] = ()) -> Bundle:
    """Drop the ways back before the last changes; the record of them stays.

    Args:
        bundle: The bundle.
        keep: Number of the last changes that can still be undone.
        trust: As `Bundle.read` takes it.

    Raises:
        ConfigError: If the bundle cannot be written.
    """
    return bundles.write_files(bundle.path, *_own(bundle), after=bundle, keep=keep, trust=trust)


def purge(bundle: Bundle, *, trust: Collection[str] = ()) -> Bundle:
    """Remove the history with its record.

    Args:
        bundle: The bundle.
        trust: As `Bundle.read` takes it.

    Raises:
        ConfigError: If the bundle cannot be written.
    """
    return bundles.write_files(bundle.path, *_own(bundle), trust=trust)


def describe(record: Sequence[ChangeEntry]) -> str:
    """Format a record, a line a change."""
    here = present(record)
    lines = [f"state {0:>3}  as it was made{'  <- present' if here == 0 else ''}"]
    for entry in record:
        before, after = entry.threshold
        moved = f"threshold {before:.6g}" + (f" -> {after:.6g}" if after != before else " stays")
        facts = [f"{entry.time}  {entry.command}" + ("" if entry.to is None else f" to state {entry.to}"), moved]
        facts += [f"{part} {_count(each)}" for part, each in entry.images.items()]
        facts += [f"lit_od {entry.version}"] + ([] if entry.state else ["not to be undone"])
        facts += [entry.note] if entry.note else []
        lines.append(f"state {entry.number:>3}  " + ", ".join(facts) + ("  <- present" if entry.number == here else ""))
    return "\n".join(lines)


def _count(images: object) -> str:
    """Return the number of images of a fingerprint."""
    count = images.get("images") if isinstance(images, dict) else None
    return f"{count:,} images" if isinstance(count, int) else "images"


def _own(bundle: Bundle) -> tuple[manifests.Manifest, dict[str, bytes]]:
    """Return the manifest, and all files but the history's and the manifest's."""
    files = bundle.contents()
    files.pop(MANIFEST)
    return msgspec.structs.replace(bundle.manifest, files={}, sha256=""), files
