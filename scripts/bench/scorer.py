"""The scorer over a bare session.run on the same prepared images, batch 32.

    python scripts/bench/scorer.py BUNDLE [--batch-size 32] [--runs 9] [--threads 2]

Prints the medians of interleaved runs with equal threads, their ratio, and a JSON line.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime

from lit_od import Scorer

SECONDS = 0.5
"""Length of one run of each side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    scorer = Scorer.load(args.bundle, threads=args.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    bare = onnxruntime.InferenceSession(
        str(Path(args.bundle) / "backbone.onnx"), options, providers=["CPUExecutionProvider"]
    )
    name = bare.get_inputs()[0].name
    images = np.random.default_rng(0).integers(0, 256, (args.batch_size, *scorer.preparation.shape), dtype=np.uint8)
    sides = (lambda: scorer.score(images), lambda: bare.run(None, {name: images}))
    repeats = [max(1, int(SECONDS / _seconds(side, 3))) for side in sides]
    runs = [[_seconds(side, count) for side, count in zip(sides, repeats, strict=True)] for _ in range(args.runs)]
    ours, theirs = (statistics.median(run[side] for run in runs) for side in (0, 1))
    ratio = statistics.median(run[0] / run[1] for run in runs)
    print(f"scorer {1e3 * ours:.3f} ms, bare session.run {1e3 * theirs:.3f} ms, batch {args.batch_size}: {ratio:.3f}")
    print(json.dumps({"scorer_ms": 1e3 * ours, "bare_ms": 1e3 * theirs, "ratio": ratio, "batch": args.batch_size}))


def _seconds(call: object, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    main()
