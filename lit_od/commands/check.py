"""Read every image once: list the readable ones, and the others with reasons.

clean.csv (path, label) serves as a PATH to every other command; refused.csv holds path and error. Images of an .npz
have no path, and are only counted.

--duplicates finds images that are there twice: exact ones, of the same pixels, and near ones, which look alike:
resized, recompressed, mirrored or turned. It counts them within each set and between sets: PATHs, the class folders
below them, and the folders of a category of defects. duplicates.csv (group, path, set, kind, distance) lists them all.
--distance allows more or less than 1.1 grey levels of 255, the root mean square between small copies; of images with a
side below some 100 pixels more is allowed, since recompression changes them more.

  lit-od check photos/ --out lists                      clean.csv and refused.csv
  lit-od check train/ test/ --duplicates --out lists    and duplicates.csv: does test hold images of train?
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lit_od.checks import number
from lit_od.commands._arguments import add_json_argument, no_overrides, positive, print_json
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError
from lit_od.formats.atomic import atomic_file, require_writable
from lit_od.formats.text import csv_path, csv_row, printable, unicode_text
from lit_od.images.batching import batches
from lit_od.images.find_local import find
from lit_od.images.sources import ImageFile, Source
from lit_od.operations.duplicates import LOOK, Duplicates, find_duplicates, set_names
from lit_od.operations.perceptual_hash import MOST
from lit_od.types import Images

SHOWN = 20
"""Most groups of duplicates, and most pairs of sets, that are printed."""


@dataclass(slots=True)
class _Checked:
    """Readable images, and refused ones with reasons."""

    clean: list[Source] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    sets: list[str | None] = field(default_factory=list)
    small: list[Images] = field(default_factory=list)
    shortest: list[int] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what to check")
    parser.add_argument("--out", metavar="DIR", help="write clean.csv, refused.csv and duplicates.csv there")
    parser.add_argument("--duplicates", action="store_true", help="find images that are there twice")
    parser.add_argument("--distance", metavar="X", type=float, help=f"--duplicates: distance of near ones ({MOST})")
    add_json_argument(parser)
    parser.add_argument("--threads", metavar="N", type=positive, help="decoding threads (one a core)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Check the images; return 1 if one cannot be read.

    Raises:
        ConfigError: On arguments that do not fit together.
    """
    no_overrides(overrides)
    if args.distance is not None:
        if not args.duplicates:
            raise ConfigError("--distance goes with --duplicates: give both, or neither")
        number("--distance", args.distance, least=0, most=255)
    if args.out:
        require_writable(Path(args.out))
    found = _read(args)
    compared, duplicates = _duplicates(found, args) if args.duplicates else ([], None)
    if args.json:
        print_json(_tree(found, compared, duplicates))
    else:
        _say(found, compared, duplicates)
    if args.out:
        _write(Path(args.out), found, compared, duplicates, quiet=args.json)
    return INCOMPLETE if found.refused else DONE


def _read(args: argparse.Namespace) -> _Checked:
    """Read every image."""
    by_path = [(path, find([path])) for path in args.paths]
    sources = [source for _, images in by_path for source in images]
    sets = [name for path, images in by_path for name in set_names(path, images)] if args.duplicates else []
    found, first = _Checked(), 0
    with tqdm(total=len(sources), unit="img", disable=None, leave=False) as bar:
        for batch in batches(sources, LOOK, batch_size=64, threads=args.threads):
            for row, source in enumerate(batch.sources):
                if row in batch.errors:
                    found.refused.append((source.name, str(batch.errors[row])))
                else:
                    found.clean.append(sources[first + row])  # not the fetched bytes of a table
                    found.sets += sets[first + row : first + row + 1]
            if args.duplicates:
                found.small.append(batch.images)
                found.shortest += [min(each.size) for each in batch.geometry]
            first += len(batch.sources)
            bar.update(len(batch.sources))
    return found


def _duplicates(found: _Checked, args: argparse.Namespace) -> tuple[list[tuple[Source, str]], Duplicates]:
    """Return the images that are compared, with their sets, and duplicates."""
    rows = [row for row, name in enumerate(found.sets) if name is not None]
    images = [found.clean[row] for row in rows]
    small = np.concatenate([np.empty((0, *LOOK.shape), dtype=np.uint8), *found.small])[rows]
    shortest = np.array(found.shortest, dtype=np.int64)[rows]
    most = MOST if args.distance is None else args.distance
    compared = [(found.clean[row], found.sets[row] or "") for row in rows]
    return compared, find_duplicates(images, small, shortest, most=most, threads=args.threads)


def _say(found: _Checked, compared: Sequence[tuple[Source, str]], duplicates: Duplicates | None) -> None:
    for name, error in found.refused:
        print(printable(f"{name}: {error}"))
    print(f"{len(found.clean):,} images can be read, {len(found.refused):,} cannot")
    if duplicates is None:
        return
    groups = duplicates.groups
    exact, near = (sum(duplicates.kind(row) == kind for row in range(len(compared))) for kind in ("exact", "near"))
    print(f"{len(compared):,} compared: {exact:,} have the pixels of an earlier one, {near:,} look like one")
    for each in (counts := duplicates.between([name for _, name in compared]))[:SHOWN]:
        first, *second = each["sets"]
        print(
            printable(
                f"  {each['images']:,} of {second[0]} are in {first}"
                if second
                else f"  {each['images']:,} within {first}"
            )
        )
    _say_more(len(counts), "pairs of sets")
    for rows in groups[:SHOWN]:
        print(printable(compared[rows[0]][0].name))
        for row in rows[1:]:
            print(printable(f"  {duplicates.kind(row)}  {compared[row][0].name}  ({duplicates.distance[row]:.2f})"))
    _say_more(len(groups), "groups")


def _say_more(count: int, what: str) -> None:
    if count > SHOWN:
        print(f"... and {count - SHOWN:,} more {what}: --out DIR or --json lists all")


def _rows(compared: Sequence[tuple[Source, str]], duplicates: Duplicates) -> list[dict[str, Any]]:
    """Return the rows of duplicates.csv, group by group."""
    return [
        {
            "group": number,
            "path": compared[row][0].name,
            "set": compared[row][1],
            "kind": duplicates.kind(row),
            "distance": float(duplicates.distance[row]),
        }
        for number, rows in enumerate(duplicates.groups, start=1)
        for row in rows
    ]


def _tree(found: _Checked, compared: Sequence[tuple[Source, str]], duplicates: Duplicates | None) -> dict[str, Any]:
    refused = [{"path": unicode_text(name), "error": unicode_text(error)} for name, error in found.refused]
    tree: dict[str, Any] = {"readable": len(found.clean), "refused": refused}
    if duplicates is not None:
        rows = _rows(compared, duplicates)
        tree["duplicates"] = [row | {key: unicode_text(row[key]) for key in ("path", "set")} for row in rows]
        tree["between"] = duplicates.between([unicode_text(name) for _, name in compared])
    return tree


def _write(
    folder: Path,
    found: _Checked,
    compared: Sequence[tuple[Source, str]],
    duplicates: Duplicates | None,
    *,
    quiet: bool,
) -> None:
    """Write the lists; of readable images, those in files only.

    Paths are absolute, since a list's paths are relative to the list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        (str(source.path.absolute()), source.label or "") for source in found.clean if isinstance(source, ImageFile)
    ]
    _table(folder / "clean.csv", ("path", "label"), files)
    _table(folder / "refused.csv", ("path", "error"), [(csv_path(name), error) for name, error in found.refused])
    names = ["clean.csv", "refused.csv"]
    if duplicates is not None:
        rows = [{**row, "path": csv_path(row["path"])} for row in _rows(compared, duplicates)]
        columns = ("group", "path", "set", "kind", "distance")
        _table(folder / "duplicates.csv", columns, [[str(row[column]) for column in columns] for row in rows])
        names.append("duplicates.csv")
    if quiet:
        return
    print(f"{folder}: {', '.join(names)}")
    if elsewhere := len(found.clean) - len(files):
        print(f"clean.csv leaves out {elsewhere:,} images that have no file of their own")


def _table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = "".join(csv_row(row) for row in (columns, *rows))
    try:
        with atomic_file(file) as partial:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}. Name another --out") from error
