"""Classify images by bundles, one a class, or as none of them.

The class is the one whose p-value is largest; none if that lies below --level.

--bundle takes a bundle, which is called by its folder's name, or NAME=BUNDLE. A PATH is what lit-od score
takes. Columns: path, class, p_value (the class'), one p_value.NAME for each class, error. Of equal
p-values the class wins whose score lies lowest among its bundle's own calibration scores, in standard
deviations from their mean; if these are equal too, the one that is named first. The least p-value of n
calibration images is 1 / (n + 1): a --level that a bundle cannot go below is refused; 0 calls nothing none.

  lit-od classify photos/ --bundle cats --bundle dogs
  lit-od classify photos/ --bundle cat=cats --bundle dog=dogs --level 0.01 --out classes.csv
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from lit_od.commands._arguments import (
    add_batch_argument,
    add_row_arguments,
    add_session_arguments,
    named_folder,
    no_overrides,
    read_bundle,
    row_form,
    session_options,
)
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError
from lit_od.images.find_local import find
from lit_od.scoring.classifier import NONE, Classification, classify, require_classes
from lit_od.scoring.rows import output, row_writer
from lit_od.scoring.scorer import Scorer

LEVEL = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--bundle", metavar="[NAME=]BUNDLE", action="append", required=True, help="a class; give it once for each"
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what to classify")
    parser.add_argument(
        "--level", metavar="P", type=float, default=LEVEL, help=f"least p-value that is still a class' ({LEVEL:g})"
    )
    add_row_arguments(parser)
    add_batch_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Classify; return 1 if some image could not be read."""
    no_overrides(overrides)
    named = [_named(each) for each in args.bundle]
    names, form = [name for name, _ in named], row_form(args)
    require_classes(names, args.level)
    scorers = {name: Scorer.of(read_bundle(folder, args), **session_options(args)) for name, folder in named}
    sources = find(args.paths)
    found = classify(scorers, sources, level=args.level, batch_size=args.batch_size)
    failed = 0
    with output(args.out) as out, tqdm(total=len(sources), unit="img", disable=None, leave=False) as bar:
        columns = ("path", "class", "p_value", *(f"p_value.{name}" for name in names), "error")
        write = row_writer(out, form, columns)
        for classes in found:
            for row in _rows(classes, names):
                write(row)
            failed += sum(error is not None for error in classes.error)
            bar.update(len(classes.name))
    return INCOMPLETE if failed else DONE


def _named(word: str) -> tuple[str, Path]:
    """Parse name and folder of a class from BUNDLE or NAME=BUNDLE."""
    name, folder = named_folder(word)
    if not name or not folder:
        raise ConfigError(f"--bundle {word}: wanted BUNDLE or NAME=BUNDLE")
    return name, Path(folder)


def _rows(classes: Classification, names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Yield rows of path, class, its p-value, the p-values of all classes and error."""
    for row, (path, label, error) in enumerate(zip(classes.name, classes.label, classes.error, strict=True)):
        by_class = [float(classes.p_values[name][row]) for name in names]
        known = [None if math.isnan(each) else each for each in by_class]
        best = None if label is None else max(by_class) if label == NONE else by_class[names.index(label)]
        yield path, label, best, *known, error
