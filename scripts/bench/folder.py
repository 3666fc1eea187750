"""Compare scoring of a folder of files with the machine's limit.

    python scripts/bench/folder.py BUNDLE IMAGES [--count 3000] [--batch-size 64] [--runs 7] [--threads 2]

The limit: the seconds that one thread needs to decode and prepare all images, and the seconds that one
thread needs to run them through the graph, measured apart, summed and divided by the number of threads.
The images repeat if the folder holds fewer. Prints medians of interleaved runs, the ratio of the
limit to the scorer's time (1 is the limit), and a JSON line.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np

from lit_od import Scorer
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, Bundle
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.runtime.threads import available_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_threads())
    args = parser.parse_args()
    found = find([args.images])
    sources = list(itertools.islice(itertools.cycle(found), args.count))
    bundle = Bundle.read(args.bundle)
    scorer = Scorer.of(bundle, threads=args.threads)
    one = Backbone.load(bundle.files[BACKBONE], threads=1)
    options = {} if args.batch_size is None else {"batch_size": args.batch_size}
    runs = []
    for _ in range(args.runs):
        started = time.perf_counter()
        scored = sum(len(result) for result in scorer.stream(sources, **options))
        took = time.perf_counter() - started
        assert scored == args.count
        runs.append((took, *_limits(sources, scorer, one)))
    took, decode, infer = (statistics.median(run[part] for run in runs) for part in range(3))
    ratio = statistics.median((run[1] + run[2]) / args.threads / run[0] for run in runs)
    print(
        f"{args.count:,} files: {took:.2f} s, {args.count / took:,.0f} images/s; one thread decodes in {decode:.2f} s "
        f"and infers in {infer:.2f} s; limit over {args.threads} threads / taken: {ratio:.3f}"
    )
    print(json.dumps({"seconds": took, "decode_s": decode, "infer_s": infer, "ratio": ratio, "images": args.count}))


def _limits(sources: Sequence[Source], scorer: Scorer, one: Backbone) -> tuple[float, float]:
    """Return one thread's seconds to prepare all images, and to run the graph."""
    started = time.perf_counter()
    pixels = np.empty((64, *scorer.preparation.shape), dtype=np.uint8)
    for row, source in enumerate(sources):
        pixels[row % 64] = source.prepare(scorer.preparation)
    decoded = time.perf_counter()
    for start in range(0, len(sources), 64):
        one(pixels[: len(sources) - start])
    return decoded - started, time.perf_counter() - decoded


if __name__ == "__main__":
    main()
