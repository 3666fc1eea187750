"""Compare detectors with scikit-learn's and the machine's limits.

    python scripts/bench/detectors.py DATA [knn approximate lof gmm coreset moments million] [--threads 2]

DATA holds MNIST as torchvision lays it out. Features are those of the shipped backbone for the digits
at 64x64, kept in --cache between runs. Both sides get the same number of threads. Prints medians of
interleaved runs, their ratio, and a JSON line for each.

    knn          flat search of 1,000 queries among 60,000 rows, against brute force
    approximate  HNSW one query at a time against flat one at a time, with its recall
    lof          1,000 queries and one at a time among 6,000 rows, against novelty LOF, with the difference
    gmm          scoring of 10,000 rows by four components of each kind, on 128 random projections, both
                 in float64; and the ratio to scikit-learn in float32
    coreset      10 % of 50,000 x 512 by greedy k-centre: seconds and peak memory of a fresh process
    moments      mean and scatter of 60,000 x 512 in a stream, against one float64 product of that size
    million      a bank of a million rows of 128 random projections: fit, save, load and score, peak memory
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file
from lit_od.detectors import GMM, KNN, LOF
from lit_od.detectors.moments import Moments
from lit_od.detectors.registry import detector_from_state
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation

RUNS = 7
HNSW = {"index": "HNSW32", "search": {"efSearch": 10}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--cache", type=Path, default=Path("bench-features.npy"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # a part in a separate process
    args = parser.parse_args()
    rows = _features(args.data, args.cache, args.threads)
    with threadpool_limits(args.threads):
        for part in args.parts:
            if part in FRESH and not args.alone:
                words = [str(args.data), part, "--cache", str(args.cache), "--threads", str(args.threads), "--alone"]
                subprocess.run([sys.executable, __file__, *words], check=True)
                continue
            figures = PARTS[part](rows)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"{part}: {shown}\n{json.dumps({'part': part, 'threads': args.threads, **figures})}", flush=True)


def _features(data: Path, cache: Path, threads: int) -> np.ndarray:
    """Return features of MNIST's 70,000 digits, float32 (70000, 1280).

    Training images come first.
    """
    if not cache.exists():
        from lit_od.training.data.torchvision_sets import open_set  # torch, which would count in the peaks of memory

        sources = find(["mnist:train", "mnist:test"], root=data, sets=open_set(data))
        backbone = Backbone.load(backbone_file("lit_od:tf_efficientnet_lite0"), threads=threads)
        np.save(
            cache,
            np.concatenate([each.outputs for each in Extractor(backbone, Preparation(size=(64, 64))).outputs(sources)]),
        )
    return np.load(cache, mmap_mode="r")


def _projected(rows: np.ndarray, width: int) -> np.ndarray:
    """Return random projections, which keep distances but for a factor, (n, width)."""
    matrix = np.random.default_rng(0).standard_normal((rows.shape[1], width)) / np.sqrt(width)
    matrix = matrix.astype(np.float32)
    return np.concatenate([rows[start : start + 5_000] @ matrix for start in range(0, len(rows), 5_000)])


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _medians(*calls: Callable[[], Any]) -> list[float]:
    """Return the median seconds of each call, the calls taking turns."""
    runs = [[_seconds(call) for call in calls] for _ in range(RUNS)]
    return [statistics.median(run[side] for run in runs) for side in range(len(calls))]


def _peak() -> float:
    """Return the peak resident megabytes of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _knn(rows: np.ndarray) -> dict[str, float]:
    from sklearn.neighbors import NearestNeighbors

    bank, queries = _projected(rows[:60_000], 512), _projected(rows[60_000:61_000], 512)
    ours, theirs = KNN.fit(bank), NearestNeighbors(n_neighbors=5, algorithm="brute").fit(bank)
    gap = np.abs(ours.score(queries) - theirs.kneighbors(queries)[0].mean(axis=1)).max()
    own, other = _medians(lambda: ours.score(queries), lambda: theirs.kneighbors(queries))
    return {"ours_s": own, "sklearn_s": other, "ratio": other / own, "largest_difference": float(gap)}


def _approximate(rows: np.ndarray) -> dict[str, float]:
    bank, queries = _projected(rows[:60_000], 512), _projected(rows[60_000:61_000], 512)
    flat = KNN.fit(bank)
    built = time.perf_counter()
    graph = KNN.fit(bank, **HNSW)
    built = time.perf_counter() - built
    exact = flat.bank.nearest(flat.bank.prepare(queries), 5)[1]
    found = graph.bank.nearest(graph.bank.prepare(queries), 5)[1]
    recall = np.mean([len(np.intersect1d(*pair)) / 5 for pair in zip(exact, found, strict=True)])
    few = [queries[row : row + 1] for row in range(100)]
    slow, fast = _medians(
        lambda: [flat.score(query) for query in few[:10]], lambda: [graph.score(query) for query in few]
    )
    return {
        "flat_ms": 100 * slow,
        "graph_ms": 10 * fast,
        "ratio": 10 * slow / fast,
        "recall": float(recall),
        "build_s": built,
    }


def _lof(rows: np.ndarray) -> dict[str, float]:
    from sklearn.neighbors import LocalOutlierFactor

    bank, queries = np.ascontiguousarray(rows[:6_000]), np.ascontiguousarray(rows[60_000:61_000])
    ours, theirs = LOF.fit(bank), LocalOutlierFactor(n_neighbors=20, novelty=True).fit(bank)
    gap = np.abs(ours.score(queries) + theirs.score_samples(queries)).max()
    few = [queries[row : row + 1] for row in range(20)]
    own, other, own_one, other_one = _medians(
        lambda: ours.score(queries),
        lambda: theirs.score_samples(queries),
        lambda: [ours.score(query) for query in few],
        lambda: [theirs.score_samples(query) for query in few],
    )
    return {
        "ours_s": own,
        "sklearn_s": other,
        "ratio": other / own,
        "ours_one_ms": 50 * own_one,
        "sklearn_one_ms": 50 * other_one,
        "ratio_one": other_one / own_one,
        "largest_difference": float(gap),
    }


def _gmm(rows: np.ndarray) -> dict[str, float]:
    from sklearn.mixture import GaussianMixture

    bank, queries = _projected(rows[:10_000], 128), _projected(rows[60_000:70_000], 128)
    figures = {}
    for covariance in ("full", "tied", "diag", "spherical"):
        ours = GMM.fit(bank, components=4, covariance=covariance)  # type: ignore[arg-type]  # one of the four
        theirs = GaussianMixture(4, covariance_type=covariance, random_state=0).fit(bank.astype(np.float64))
        single = GaussianMixture(4, covariance_type=covariance, random_state=0).fit(bank)
        own, double, least = _medians(
            lambda: ours.score(queries),  # noqa: B023
            lambda: theirs.score_samples(queries.astype(np.float64)),  # noqa: B023
            lambda: single.score_samples(queries),  # noqa: B023
        )
        figures |= {
            f"{covariance}_ours_s": own,
            f"{covariance}_ratio": double / own,
            f"{covariance}_ratio_to_float32": least / own,
        }
    return figures


def _coreset(rows: np.ndarray) -> dict[str, float]:
    bank = _projected(rows[:50_000], 512)
    return {"seconds": _seconds(lambda: KNN.fit(bank, coreset=0.1)), "peak_mb": _peak()}


def _moments(rows: np.ndarray) -> dict[str, float]:
    batches = [_projected(rows[start : start + 500], 512) for start in range(0, 60_000, 500)]
    whole = np.concatenate(batches).astype(np.float64)
    other = whole.copy()  # of an array with itself numpy computes but half

    def stream() -> None:
        moments = Moments(512)
        for batch in batches:
            moments.update(batch)

    own, product = _medians(stream, lambda: whole.T @ other)
    return {"ours_s": own, "product_s": product, "share_of_rate": product / own}


def _million(rows: np.ndarray) -> dict[str, float]:
    narrow = _projected(rows[:50_000], 128)
    noise = np.random.default_rng(1)
    gathered = KNN.accumulator()
    fit = time.perf_counter()
    for _ in range(20):  # each digit twenty times, a little aside
        gathered.update(narrow + noise.normal(0, 0.01, narrow.shape).astype(np.float32))
    detector = gathered.finish()
    del gathered
    fit = time.perf_counter() - fit
    file = Path("bench-bank.safetensors")
    try:
        save = time.perf_counter()
        save_file(dict(detector.state()), file)
        save, options = time.perf_counter() - save, detector.options()
        del detector
        started = time.perf_counter()
        back = detector_from_state("knn", options, load_file(file))
        load = time.perf_counter() - started
    finally:
        file.unlink(missing_ok=True)
    queries = _projected(rows[60_000:61_000], 128)
    thousand, one = _seconds(lambda: back.score(queries)), _seconds(lambda: back.score(queries[:1]))
    return {"fit_s": fit, "save_s": save, "load_s": load, "thousand_s": thousand, "one_s": one, "peak_mb": _peak()}


PARTS: dict[str, Callable[[np.ndarray], dict[str, float]]] = {
    "knn": _knn,
    "approximate": _approximate,
    "lof": _lof,
    "gmm": _gmm,
    "coreset": _coreset,
    "moments": _moments,
    "million": _million,
}
FRESH = ("coreset", "million")
"""Parts that run in a fresh process, since their peak memory is measured."""


if __name__ == "__main__":
    main()
