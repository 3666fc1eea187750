"""Measure how fast a bundle scores on this machine, beside the bare graph.

Cold start, latency, throughput and peak memory. Prepared images are random; the images of the golden set are decoded
for the figures that include decoding.

  lit-od bench BUNDLE
  lit-od bench BUNDLE --threads 1 --json
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lit_od.bundle.folder import Bundle, golden_arrays
from lit_od.commands._arguments import (
    add_batch_argument,
    add_json_argument,
    add_session_arguments,
    no_overrides,
    print_json,
    read_bundle,
    session_options,
)
from lit_od.commands._status import DONE
from lit_od.errors import LitODError
from lit_od.images.sources import EncodedImage
from lit_od.scoring.scorer import Scorer

COLD_START = """
import sys, time
import lit_od, numpy
scorer = lit_od.Scorer.load(sys.argv[1], trust=sys.argv[2:])
scorer.score(numpy.zeros((1, *scorer.preparation.shape), numpy.uint8))
try:
    lines = open("/proc/self/status").read().splitlines()
    print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))
except OSError:
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--runs", metavar="N", type=int, default=9, help="runs of each figure, interleaved (9)")
    add_json_argument(parser)
    add_batch_argument(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Measure and print."""
    no_overrides(overrides)
    bundle = read_bundle(args.bundle, args)
    scorer = Scorer.of(bundle, **session_options(args))
    figures = measure(bundle, scorer, batch_size=args.batch_size, runs=max(1, args.runs))
    if args.json:
        print_json(figures)
    else:
        print(_table(figures))
    return DONE


def measure(bundle: Bundle, scorer: Scorer, *, batch_size: int, runs: int) -> dict[str, Any]:
    """Measure all figures.

    Seconds and images a second are medians over the runs, with scorer and bare graph interleaved.

    Args:
        bundle: The bundle.
        scorer: The same bundle, loaded.
        batch_size: Images of a batch.
        runs: Number of runs, at least 1.

    Returns:
        Figures by name, with units in the names.
    """
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, size=(batch_size, *scorer.preparation.shape), dtype=np.uint8)
    one = batch[:1]
    files = [array.tobytes() for name, array in golden_arrays(bundle).items() if name.startswith("file.")]
    encoded = [EncodedImage(files[row % len(files)], f"#{row}") for row in range(batch_size)]
    cold = [_cold_start(bundle) for _ in range(min(runs, 5))]
    single = [_times((lambda: scorer.score(one), lambda: scorer.backbone(one)), 20) for _ in range(runs)]
    latencies = np.sort([seconds for pair in single for seconds in pair[0]])
    batched = [
        [statistics.median(each) for each in _times((lambda: scorer.score(batch), lambda: scorer.backbone(batch)), 3)]
        for _ in range(runs)
    ]
    decoded = [_times((lambda: list(scorer.stream(encoded, batch_size=batch_size)),), 1)[0][0] for _ in range(runs)]
    scorer_s, bare_s = (statistics.median(each[side] for each in batched) for side in (0, 1))
    return {
        "cold_start_s": statistics.median(seconds for seconds, _ in cold),
        "cold_start_mb": statistics.median(megabytes for _, megabytes in cold),
        "latency_p50_ms": 1000 * float(np.percentile(latencies, 50)),
        "latency_p99_ms": 1000 * float(np.percentile(latencies, 99)),
        "bare_latency_p50_ms": 1000 * statistics.median(seconds for pair in single for seconds in pair[1]),
        "batch_size": batch_size,
        "images_per_s": batch_size / scorer_s,
        "bare_images_per_s": batch_size / bare_s,
        "ratio_to_bare": scorer_s / bare_s,
        "decoded_images_per_s": batch_size / statistics.median(decoded),
        "provider": scorer.backbone.provider,
    }


def _times(calls: tuple[Callable[[], object], ...], repeats: int) -> list[list[float]]:
    """Measure the seconds of each call; the calls take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, kept in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            kept.append(time.perf_counter() - started)
    return seconds


def _cold_start(bundle: Bundle) -> tuple[float, float]:
    """Measure seconds from process start to first score, and peak memory in MB."""
    started = time.perf_counter()
    words = [sys.executable, "-c", COLD_START, str(bundle.path), bundle.detector.kind]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LitODError(f"a fresh process could not score: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - started, float(done.stdout)


def _table(figures: dict[str, Any]) -> str:
    size = figures["batch_size"]
    rows = [
        (
            "start to first score, a fresh process",
            f"{figures['cold_start_s']:.2f} s, {figures['cold_start_mb']:.0f} MB",
        ),
        ("one image, p50 / p99", f"{figures['latency_p50_ms']:.2f} / {figures['latency_p99_ms']:.2f} ms"),
        ("one image, the bare graph, p50", f"{figures['bare_latency_p50_ms']:.2f} ms"),
        (f"prepared images, batch {size}", f"{figures['images_per_s']:,.0f} images/s"),
        (f"the bare graph, batch {size}", f"{figures['bare_images_per_s']:,.0f} images/s"),
        ("scorer over bare graph, time", f"{figures['ratio_to_bare']:.2f}"),
        ("encoded images (the golden ones)", f"{figures['decoded_images_per_s']:,.0f} images/s"),
        ("provider", figures["provider"]),
    ]
    return "\n".join(f"{name:40}{value}" for name, value in rows)
