"""Score images with a bundle: a row an image, in the order of the input.

A PATH is an image; a folder, searched through; a .txt list or a .csv with a `path` column; an .npz
(`file.npz` or `file.npz:ARRAY`); a .parquet table with the columns bytes or image, and path; or -, a list on
standard input. Columns: path, score (higher is more outlying), p_value (small is outlying), is_outlier (score above
the threshold), error.

--maps DIR draws what makes each image an outlier: a picture an image, the map's values beside it (.npy,
float32), and maps.csv that says which is whose. Coloured are the scores of patches or an autoencoder's errors,
from the same run of the graph as the scores; what is above the threshold for pixels is outlined, and white in a
mask beside the picture. Other detectors have no maps: coloured are the parts without which the score would be
lower, and the graph runs 65 times an image. The colours mean the same in all pictures of a bundle. --regions
FILE writes the boxes of what stands out, in the image's own pixels.

--statistics adds the columns brightness, sharpness and saturation (of the prepared image), and detector, the first 12
digits of the SHA-256 of the detector's file: what lit-od monitor reads beside the score.

--engine ray scores on a Ray cluster, or on all cores of this machine. A PATH may then be a URL of an object
store too (s3://BUCKET/PREFIX, gs://..., file://...). A worker that dies costs time and no row.

  lit-od score BUNDLE photos/ --out scores.csv
  lit-od score BUNDLE a.png b.png --maps heat/ --regions where.jsonl
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lit_od.backbone.extractor import Extracted
from lit_od.bundle.folder import Bundle
from lit_od.bundle.manifest import detector_hash
from lit_od.checks import number
from lit_od.commands._arguments import (
    add_batch_argument,
    add_engine_arguments,
    add_row_arguments,
    add_session_arguments,
    no_overrides,
    open_cluster,
    read_bundle,
    require_engine,
    row_form,
    session_options,
)
from lit_od.commands._status import DONE, INCOMPLETE
from lit_od.detectors.base import PixelDetector
from lit_od.errors import ConfigError
from lit_od.images.find_local import find
from lit_od.images.statistics import STATISTICS, image_statistics
from lit_od.scoring.map_folder import map_folder
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.result import Result
from lit_od.scoring.rows import regions_to, rows_to
from lit_od.scoring.scorer import Scorer

FORMS = ("csv", "jsonl", "parquet")
"""Forms of rows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="what to score")
    add_row_arguments(parser, forms=FORMS)
    parser.add_argument("--maps", metavar="DIR", help="draw heat maps there")
    parser.add_argument("--regions", metavar="FILE", help="write where each image stands out, a line of JSON an image")
    parser.add_argument("--min-area", metavar="N", type=float, default=0, help="pixels of the smallest region (0)")
    parser.add_argument("--statistics", action="store_true", help="add brightness, sharpness, saturation and detector")
    add_batch_argument(parser)
    add_session_arguments(parser)
    add_engine_arguments(parser)
    parser.add_argument("--unordered", action="store_true", help="--engine ray: rows as they are ready")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Score; 1 if some image could not be read.

    Raises:
        ConfigError: On arguments that do not fit together.
    """
    no_overrides(overrides)
    require_engine(args, "address", "workers", "unordered")
    number("--min-area", args.min_area, least=0)
    if args.min_area and not args.regions:
        raise ConfigError("--min-area leaves out small regions: give --regions FILE too")
    bundle = read_bundle(args.bundle, args)
    failed = 0
    with ExitStack() as stack:
        total, results = (_on_cluster if args.engine == "ray" else _here)(args, bundle, stack)
        detector = detector_hash(bundle.manifest) if args.statistics else None
        write = stack.enter_context(rows_to(args.out, row_form(args, forms=FORMS), detector=detector))
        del bundle  # its files, which scoring needs no more
        bar = stack.enter_context(tqdm(total=total, unit="img", disable=None, leave=False))
        for result in results:
            write(result)
            failed += sum(error is not None for error in result.error)
            bar.update(len(result))
    if failed:
        print(f"lit-od: {failed} of {total} images could not be read; their rows say why", file=sys.stderr)
    return INCOMPLETE if failed else DONE


def _here(args: argparse.Namespace, bundle: Bundle, stack: ExitStack) -> tuple[int, Iterator[Result]]:
    """Return the number of images, and verdicts on them by this process."""
    scorer = Scorer.of(bundle, **session_options(args))
    if args.regions and not isinstance(bundle.detector, PixelDetector):
        raise ConfigError(
            f"--regions needs maps, and {bundle.detector.kind} over {bundle.detector.reads} has none: fit defects, or "
            "an autoencoder"
        )
    maps = HeatMaps.of(bundle, scorer) if args.maps else None
    sources = find(args.paths)
    draw = stack.enter_context(map_folder(Path(args.maps), maps, total=len(sources))) if maps else None

    write_regions = stack.enter_context(regions_to(args.regions))

    def results() -> Iterator[Result]:
        mapped = args.regions is not None or draw is not None
        for result, found in scorer.stream_outputs(
            sources, batch_size=args.batch_size, maps=mapped, min_area=args.min_area
        ):
            yield _with_statistics(result, found) if args.statistics else result
            write_regions(result)
            if draw is not None:
                draw(found)
            del result, found  # large with tiles: they must not wait for the next

    return len(sources), results()


def _with_statistics(result: Result, found: Extracted) -> Result:
    """Return the result of a batch with the statistics of its images."""
    statistics = np.full((len(result), len(STATISTICS)), np.nan)
    statistics[found.batch.rows] = image_statistics(found.batch.images)
    return replace(result, statistics=statistics)


def _on_cluster(args: argparse.Namespace, bundle: Bundle, stack: ExitStack) -> tuple[int, Iterator[Result]]:
    """Return the number of images, and verdicts on them by workers."""
    if args.maps or args.regions or args.statistics:
        raise ConfigError("--maps, --regions and --statistics are made by this process alone: leave out --engine ray")
    from lit_od.cluster.scoring import score_images
    from lit_od.images.find_remote import find_with_urls

    sources = find_with_urls(args.paths)
    pool = stack.enter_context(open_cluster(args))
    results = score_images(pool, bundle, sources, batch_size=args.batch_size, ordered=not args.unordered)
    return len(sources), results
