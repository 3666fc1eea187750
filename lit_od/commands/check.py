"""Read every image once: list the readable ones, and the others with reasons.

clean.csv (path, label) serves as a PATH to every other command; refused.csv holds path and error. Images of an .npz
have no path, and are only counted.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from lit_od.commands._arguments import no_overrides, positive
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError
from lit_od.formats.atomic import atomic_file, require_writable
from lit_od.formats.text import csv_path, csv_row, printable
from lit_od.images.batching import batches
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageFile, Source

PROBE = Preparation(size=(32, 32))
"""Any preparation decodes the whole image, which is all that the check needs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what to check")
    parser.add_argument("--out", metavar="DIR", help="write clean.csv and refused.csv there")
    parser.add_argument("--threads", metavar="N", type=positive, help="decoding threads (one a core)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Check the images; return 1 if one cannot be read."""
    no_overrides(overrides)
    if args.out:
        require_writable(Path(args.out))
    sources = find(args.paths)
    clean: list[Source] = []
    refused: list[tuple[str, str]] = []
    with tqdm(total=len(sources), unit="img", disable=None, leave=False) as bar:
        for batch in batches(sources, PROBE, batch_size=64, threads=args.threads):
            for row, source in enumerate(batch.sources):
                if row in batch.errors:
                    refused.append((source.name, str(batch.errors[row])))
                else:
                    clean.append(source)
            bar.update(len(batch.sources))
    for name, error in refused:
        print(printable(f"{name}: {error}"))
    print(f"{len(clean):,} images can be read, {len(refused):,} cannot")
    if args.out:
        _write(Path(args.out), clean, refused)
    return INCOMPLETE if refused else DONE


def _write(folder: Path, clean: Sequence[Source], refused: Sequence[tuple[str, str]]) -> None:
    """Write the two lists, of images in files only.

    Paths are absolute, since a list's paths are relative to the list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [(str(source.path.absolute()), source.label or "") for source in clean if isinstance(source, ImageFile)]
    _table(folder / "clean.csv", ("path", "label"), files)
    _table(folder / "refused.csv", ("path", "error"), [(csv_path(name), error) for name, error in refused])
    print(f"{folder}: clean.csv, refused.csv")
    if elsewhere := len(clean) - len(files):
        print(f"clean.csv leaves out {elsewhere:,} images that have no file of their own")


def _table(file: Path, columns: tuple[str, str], rows: Iterable[tuple[str, str]]) -> None:
    text = "".join(csv_row(row) for row in (columns, *rows))
    try:
        with atomic_file(file) as partial:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}. Name another --out") from error
