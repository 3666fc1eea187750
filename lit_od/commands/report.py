"""Write a report of a bundle's scores as one HTML file.

It holds figures, pictures, galleries and a movable threshold, and opens from disk, without a network. The sets
are those of lit-od evaluate. The nearest normal images come from --normal PATH, else from the images that the
bundle's recipe was fitted on, where they are at hand, else from the inliers themselves.

  lit-od report BUNDLE --inliers good/ --outliers scratch=scratches/ --out report.html
  lit-od report BUNDLE --data.root mvtec/pill --out report.html
"""

import argparse
from functools import partial
from pathlib import Path

from lit_od.commands._arguments import (
    add_json_argument,
    add_session_arguments,
    extra,
    print_json,
    read_bundle,
    session_options,
)
from lit_od.commands._evaluation_sets import add_set_arguments, chosen_sets, sets_root, torchvision_sets
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError
from lit_od.evaluation.image_sets import ImageSet, fitted_images, tell_of_seen
from lit_od.formats.atomic import atomic_file, require_writable
from lit_od.formats.text import printable
from lit_od.images.find_local import find
from lit_od.scoring.scorer import Scorer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_set_arguments(parser)
    parser.add_argument(
        "--normal", metavar="PATH", action="append", default=[], help="normal images to look for the nearest among"
    )
    parser.add_argument("--out", metavar="FILE.html", required=True, help="the page; a file there is replaced")
    add_json_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Score the sets, write the page and print the table.

    Raises:
        ConfigError: If --out names no page, or an option is invalid.
    """
    with extra("evaluate,cpu"):
        from lit_od.evaluation.report import report
    out = Path(args.out)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise ConfigError(f"--out names the page, FILE.html, got {args.out!r}")
    require_writable(out.parent)
    bundle = read_bundle(args.bundle, args)
    scorer = Scorer.of(bundle, **session_options(args))
    images = chosen_sets(args, overrides, bundle)
    tell_of_seen(bundle, overrides, images)
    if not args.normal:
        normals = fitted_images(bundle, overrides, sets=partial(torchvision_sets, download=False))
    else:
        sources = find(args.normal, sets=torchvision_sets(sets_root(overrides)))
        normals = ImageSet("normal", sources, scorer.preparation)
    found = report(bundle, scorer, images, normals=normals)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as file:
        file.write_text(found.html, encoding="utf-8")
    figures = found.defects or found.evaluation
    if args.json:
        print_json(figures.to_json())
    else:
        print(printable(figures.table(), keep="\n"))
        print(f"\n{out}: {out.stat().st_size / 1e6:.1f} MB")
    return DONE
