"""Compare the scorer with a bare session.run on the same prepared images.

    python scripts/bench/scorer.py BUNDLE [--batch-size 32] [--runs 41] [--threads 2]

Both sides run the same session. Prints the medians of interleaved runs, their ratio, and a JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from lit_od import Scorer

SECONDS = 0.1
"""Length of one run of each side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=41)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    scorer = Scorer.load(args.bundle, threads=args.threads)
    session, name = scorer.backbone.session, scorer.backbone.input
    images = np.random.default_rng(0).integers(0, 256, (args.batch_size, *scorer.preparation.shape), dtype=np.uint8)
    sides = (lambda: scorer.score(images), lambda: session.run(None, {name: images}))
    runs = [[_median(side) for side in sides] for _ in range(args.runs + 1)][1:]  # the first warms up
    ours, theirs = (statistics.median(run[side] for run in runs) for side in (0, 1))
    ratio = ours / theirs
    print(f"scorer {1e3 * ours:.3f} ms, bare session.run {1e3 * theirs:.3f} ms, batch {args.batch_size}: {ratio:.3f}")
    print(json.dumps({"scorer_ms": 1e3 * ours, "bare_ms": 1e3 * theirs, "ratio": ratio, "batch": args.batch_size}))


def _median(call: Callable[[], object]) -> float:
    """Return the median seconds of a call, called for SECONDS."""
    times: list[float] = []
    while sum(times) < SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
