"""Compare two bundles on the same images: ranks, verdicts, AUROC.

Both score all images, each with its own preparation. It prints the rank correlation of the scores, the verdicts that
differ, the images whose rank changed most and, with --inliers and --outliers, both AUROC and the difference with
DeLong's paired interval.

  lit-od compare old new images/                             what would a new bundle change?
  lit-od compare old new --inliers good/ --outliers scratch=scratches/ --outliers dent=dents/
  lit-od compare old new images/ --out comparison.html       a page with the images, which opens in a browser
  lit-od compare old new images/ --out comparison            table, JSON, a row an image, and the page

PATHs as in lit-od score; sets of torchvision's as in lit-od evaluate. Exit status: 1 if some image could not be scored.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lit_od.bundle.folder import Bundle
from lit_od.commands._arguments import (
    add_json_argument,
    add_session_arguments,
    extra,
    no_overrides,
    read_bundle,
    session_options,
)
from lit_od.commands._evaluation_sets import add_named_set_arguments, chosen_sets
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.errors import ConfigError
from lit_od.evaluation.paired import PairedComparison, PairedScores, compare
from lit_od.formats.atomic import atomic_file, require_writable
from lit_od.formats.text import printable
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.scoring.result import Result
from lit_od.scoring.rows import output, row_writer
from lit_od.scoring.scorer import Scorer

PAGES = (".html", ".htm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("first", metavar="A", help="folder of a bundle")
    parser.add_argument("second", metavar="B", help="folder of another one")
    parser.add_argument("paths", metavar="PATH", nargs="*", help="images of which nothing is known")
    add_named_set_arguments(parser)
    add_json_argument(parser)
    parser.add_argument("--out", metavar="DIR|FILE.html", help="write all of it into a folder, or the page alone")
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Score all images with both; return 1 if some could not be scored.

    Raises:
        ConfigError: If no image is named, or --out is invalid.
    """
    if not args.paths and not args.inliers and not args.outliers:
        raise ConfigError("nothing to compare on: give PATHs of images, or --inliers and --outliers NAME=PATH")
    out = Path(args.out) if args.out else None
    if out is not None:
        with extra("evaluate,cpu"):
            from lit_od.evaluation.report import comparison  # noqa: F401  # what is missing is said before the work
        if out.suffix.lower() in PAGES and out.is_dir():
            raise ConfigError(f"--out {out} is a folder, wanted a page")
        require_writable(out.parent if out.suffix.lower() in PAGES else out)
    bundles = [read_bundle(folder, args) for folder in (args.first, args.second)]
    sources, sets, inliers = _images(args, overrides, bundles[0])
    first, second = (_scored(bundle, sources, args) for bundle in bundles)
    scores = PairedScores.of(first, second, sets)
    found = compare((str(args.first), str(args.second)), scores, inliers=inliers)
    print(json.dumps(found.to_json(), indent=2) if args.json else printable(found.table(), keep="\n"))
    if out is not None:
        sound = np.isfinite(first.score) & np.isfinite(second.score)
        shown = [source for source, scored in zip(sources, sound.tolist(), strict=True) if scored]
        _write(out, found, scores, shown, bundles)
    if scores.left_out:
        print(f"lit-od: {scores.left_out} of {len(sources)} images could not be scored by both", file=sys.stderr)
    return INCOMPLETE if scores.left_out else DONE


def _images(
    args: argparse.Namespace, overrides: list[str], bundle: Bundle
) -> tuple[list[Source], list[str], str | None]:
    """Return all images, the name of each one's set, and that of the inliers."""
    sources, sets, inliers = list(find(args.paths)) if args.paths else [], [""], None
    sets *= len(sources)
    if args.inliers or args.outliers:
        found = chosen_sets(argparse.Namespace(**vars(args), masks=None), overrides, bundle)
        inliers = found.inliers.name
        for each in (found.inliers, *found.outliers):
            sources += each.sources
            sets += [each.name] * len(each.sources)
    else:
        no_overrides(overrides)
        if args.label:
            raise ConfigError("--label goes with --inliers: give both")
    return sources, sets, inliers


def _scored(bundle: Bundle, sources: Sequence[Source], args: argparse.Namespace) -> Result:
    """Return a bundle's verdicts, in the order of the images."""
    scorer = Scorer.of(bundle, **session_options(args))
    results = []
    with tqdm(total=len(sources), unit="img", disable=None, leave=False) as bar:
        for result in scorer.stream(sources):
            results.append(result)
            bar.update(len(result))
    return Result.joined(results)


def _write(
    out: Path, found: PairedComparison, scores: PairedScores, sources: Sequence[Source], bundles: Sequence[Bundle]
) -> None:
    """Write the page, or a folder of all of it."""
    from lit_od.evaluation.report.comparison import comparison_page

    first, second = bundles
    thresholds = first.calibration.threshold, second.calibration.threshold
    html = comparison_page(found, scores, sources, first.manifest.preparation, thresholds)
    alone = out.suffix.lower() in PAGES
    page = out if alone else out / "comparison.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(page) as file:
        file.write_text(html, encoding="utf-8")
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    if alone:
        return
    (out / "comparison.json").write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
    (out / "table.txt").write_text(found.table() + "\n", encoding="utf-8", errors="surrogateescape")
    with output(str(out / "rows.csv")) as rows:
        titles = ("path", "set", "score.A", "score.B", "p_value.A", "p_value.B", "below.A", "below.B", "outlier_by")
        put = row_writer(rows, "csv", titles)
        parts = [(each.score.tolist(), each.p_value.tolist()) for each in (scores.first, scores.second)]
        below = [each.tolist() for each in scores.shares_below]
        for row, name in enumerate(scores.first.name):
            numbers = (values[row] for values in (parts[0][0], parts[1][0], parts[0][1], parts[1][1], *below))
            put((name, scores.sets[row], *numbers, scores.verdicts[row]))
