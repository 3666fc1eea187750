"""Score images with a bundle: a row an image, in the order of the input.

A PATH is an image; a folder, searched through; a .txt list or a .csv with a `path` column; an .npz
(`file.npz` or `file.npz:ARRAY`); or -, a list on standard input. Columns: path, score (higher is more
outlying), p_value (small is outlying), is_outlier (score above the threshold), error.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from lit_od.cli import DONE, INCOMPLETE
from lit_od.commands import no_overrides
from lit_od.errors import ConfigError
from lit_od.extraction import BATCH_SIZE
from lit_od.scorer import Result, Scorer
from lit_od.sources import find

COLUMNS = ("path", "score", "p_value", "is_outlier", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what to score")
    parser.add_argument("--out", metavar="FILE", help="write the rows there instead of standard output")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="form of the rows (csv)")
    add_batch_argument(parser)
    add_session_arguments(parser)


def add_batch_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the batch size of a command whose user may choose it."""
    parser.add_argument("--batch-size", metavar="N", type=positive, default=BATCH_SIZE, help="images a run")


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every command that runs a backbone."""
    parser.add_argument("--threads", metavar="N", type=positive, help="threads (one a core)")
    parser.add_argument("--provider", metavar="NAME", help="execution provider: cpu, cuda, ...")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Score; 1 if some image could not be read."""
    no_overrides(overrides)
    scorer = Scorer.load(args.bundle, threads=args.threads, providers=[args.provider] if args.provider else None)
    sources = find(args.paths)
    failed = 0
    with _output(args.out) as out, tqdm(total=len(sources), unit="img", disable=None, leave=False) as bar:
        write = _writer(out, args.format)
        for result in scorer.stream(sources, batch_size=args.batch_size):
            write(result)
            failed += sum(error is not None for error in result.error)
            bar.update(len(result))
    if failed:
        print(f"lit-od: {failed} of {len(sources)} images could not be read; their rows say why", file=sys.stderr)
    return INCOMPLETE if failed else DONE


def positive(text: str) -> int:
    """A whole number of at least 1, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


@contextmanager
def _output(file: str | None) -> Iterator[TextIO]:
    """Standard output or a file; names that are not Unicode go out as the bytes they are."""
    if file is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(newline="")
        yield sys.stdout
        return
    try:
        with Path(file).open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            yield out
    except IsADirectoryError:
        raise ConfigError(f"--out {file} is a folder, wanted a file") from None


def _writer(out: TextIO, form: str) -> Callable[[Result], None]:
    if form == "csv":
        out.write(csv_row(COLUMNS))

    def write(result: Result) -> None:
        for name, score, p_value, is_outlier, error in zip(
            result.name, result.score, result.p_value, result.is_outlier, result.error, strict=True
        ):
            values = (None, None, None) if error else (float(score), float(p_value), bool(is_outlier))
            if form == "jsonl":
                out.write(json.dumps(dict(zip(COLUMNS, (name, *values, error), strict=True))) + "\n")
            else:
                shown = ["" if value is None else str(value).lower() for value in values]
                out.write(csv_row([name, *shown, error or ""]))

    return write


def csv_row(fields: Sequence[str]) -> str:
    """A line of CSV (RFC 4180, but ending in a line feed): csv.writer of Python 3.12 leaves carriage returns bare."""
    quoted = ('"' + each.replace('"', '""') + '"' if set(each) & set(',"\r\n') else each for each in fields)
    return ",".join(quoted) + "\n"
