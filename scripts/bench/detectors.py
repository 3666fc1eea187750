"""Compare detectors with scikit-learn's and the machine's limits.

    python scripts/bench/detectors.py DATA [PART ...] [--threads N]

DATA holds MNIST as torchvision lays it out. Features are those of the shipped backbone for the digits
at 64x64, kept in --cache between runs; narrower ones are their random projections. Both sides get the
same number of threads, by default the cores that the process may use. Prints the machine and the libraries
that multiply, then for each case medians of seven runs that take turns, scikit-learn's time over ours, and a
JSON line.

    knn          flat search of 1, 32 and 2,000 queries in 5,000 x 640 and 60,000 x 512, against brute force;
                 the speed of numpy's bare product, and the share of the time that float64 decides in
    lof          fit on 6,000 x 1280, scores of 1,000 queries and of one at a time, against novelty LOF
    gmm          scores of 10,000 x 128 by 1 and 4 components of each kind, against float64; and the ratio to
                 scikit-learn in float32
    mahalanobis  fit on 10,000 x 512 with the Ledoit-Wolf shrinkage, and scores of 2,000 rows
    approximate  HNSW one query at a time against flat one at a time, with its recall
    coreset      10 % of 50,000 x 512 by greedy k-centre: seconds and peak memory of a fresh process
    moments      mean and scatter of 60,000 x 512 in a stream, against one float64 product of that size
    million      a bank of a million rows of 128 random projections: fit, save, load and score, peak memory
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_info, threadpool_limits

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file
from lit_od.detectors import GMM, KNN, LOF, Mahalanobis
from lit_od.detectors.moments import Moments
from lit_od.detectors.registry import detector_from_state
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.runtime.threads import available_threads, limited

RUNS = 7
HNSW = {"index": "HNSW32", "search": {"efSearch": 10}}
NEIGHBOURS = 5
SETS = ("avx", "fma", "amx", "asimd", "sve", "i8mm", "bf16")
"""Beginnings of the names of instruction sets for arithmetic on many numbers."""

Figures: TypeAlias = dict[str, float]
Cases: TypeAlias = Iterator[tuple[str, Figures]]
"""Names of what was measured, and the figures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--cache", type=Path, default=Path("bench-features.npy"))
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # a part in a separate process
    args = parser.parse_args()
    rows = _features(args.data, args.cache, args.threads)
    if not args.alone:
        _print_machine(args.threads)
    with threadpool_limits(args.threads), limited(args.threads):
        for part in args.parts:
            if part in FRESH and not args.alone:
                words = [str(args.data), part, "--cache", str(args.cache), "--threads", str(args.threads), "--alone"]
                subprocess.run([sys.executable, __file__, *words], check=True)
                continue
            for case, figures in PARTS[part](rows):
                shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                line = json.dumps({"part": part, "case": case, "threads": args.threads, **figures})
                print(f"{part}, {case}: {shown}\n{line}", flush=True)


def _print_machine(threads: int) -> None:
    """Print the processor, its instruction sets, and the BLAS of each side.

    Imports what both sides use, since a limit on threads holds for loaded libraries alone.
    """
    import faiss
    import onnxruntime
    import sklearn.mixture
    import sklearn.neighbors

    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    known = {name.strip(): value.split() for name, _, value in reversed(lines)}
    flags = known.get("flags", known.get("Features", []))
    libraries = {  # by the package that brings them: numpy.libs/libscipy_openblas64.so
        Path(each["filepath"]).parent.name.partition(".")[0]: "{internal_api} {version} for {architecture}".format(
            **each
        )
        for each in threadpool_info()
        if each["user_api"] == "blas"
    }
    machine = {
        "processor": " ".join(known.get("model name", [platform.machine()])),
        "instructions": " ".join(sorted(flag for flag in flags if flag.startswith(SETS))),
        "cores": available_threads(),
        "threads": threads,
        "numpy": f"{np.__version__}: {libraries.get('numpy')}",
        "ours, flat search": f"ONNX Runtime {onnxruntime.__version__}: MLAS",
        "ours, approximate search": f"FAISS {faiss.__version__}: {libraries.get('faiss_cpu')}",
        "theirs, neighbours": f"scikit-learn {sklearn.__version__}: SciPy's {libraries.get('scipy')}",
    }
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n")
    print(json.dumps({"part": "machine", **machine}), flush=True)


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


def _paired(ours: Callable[[], Any], theirs: Callable[[], Any], calls: int = 1) -> Figures:
    """Return milliseconds a call and their ratio, where each side makes many."""
    own, other = _medians(ours, theirs)
    return {"ours_ms": 1000 * own / calls, "sklearn_ms": 1000 * other / calls, "ratio": other / own}


def _knn(rows: np.ndarray) -> Cases:
    from sklearn.neighbors import NearestNeighbors

    for size, width in ((5_000, 640), (60_000, 512)):
        bank, queries = _projected(rows[:size], width), _projected(rows[60_000:62_000], width)
        ours = KNN.fit(bank, k=NEIGHBOURS)
        theirs = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(bank)
        gap = np.abs(ours.score(queries) - theirs.kneighbors(queries)[0].mean(axis=1)).max()
        for count, calls in ((1, 20), (32, 10), (2_000, 1)):
            yield (
                f"{size} x {width}, queries: {count}",
                _searched(
                    ours, theirs, bank, [queries[start : start + count] for start in range(0, calls * count, count)]
                )
                | {"largest_difference": float(gap)},
            )


def _searched(ours: KNN, theirs: Any, bank: np.ndarray, batches: list[np.ndarray]) -> Figures:
    """Compare searches of batches, with the bare product and the decision."""
    own = ours.bank
    prepared = [own.prepare(batch) for batch in batches]
    count = NEIGHBOURS + 4  # candidates that are proposed for five neighbours
    proposed = [own._exact.nearest(batch, count)[1] for batch in prepared]
    products = np.empty((len(batches[0]), len(bank)), np.float32)
    whole, other, product, decision = _medians(
        lambda: [ours.score(batch) for batch in batches],
        lambda: [theirs.kneighbors(batch) for batch in batches],
        lambda: [np.matmul(batch, bank.T, out=products) for batch in batches],
        lambda: [own._decided(batch, ids, NEIGHBOURS) for batch, ids in zip(prepared, proposed, strict=True)],
    )
    a_call = 1000 / len(batches)
    return {
        "ours_ms": a_call * whole,
        "sklearn_ms": a_call * other,
        "ratio": other / whole,
        "product_ms": a_call * product,
        "speed_of_product": product / whole,
        "decision_share": decision / whole,
    }


def _approximate(rows: np.ndarray) -> Cases:
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
    yield (
        "one query at a time",
        {
            "flat_ms": 100 * slow,
            "graph_ms": 10 * fast,
            "ratio": 10 * slow / fast,
            "recall": float(recall),
            "build_s": built,
        },
    )


def _lof(rows: np.ndarray) -> Cases:
    from sklearn.neighbors import LocalOutlierFactor

    bank, queries = np.ascontiguousarray(rows[:6_000]), np.ascontiguousarray(rows[60_000:61_000])
    ours, theirs = LOF.fit(bank), LocalOutlierFactor(n_neighbors=20, novelty=True).fit(bank)
    gap = float(np.abs(ours.score(queries) + theirs.score_samples(queries)).max())
    few = [queries[row : row + 1] for row in range(20)]
    yield "fit", _paired(lambda: LOF.fit(bank), lambda: theirs.fit(bank))
    batch = _paired(lambda: ours.score(queries), lambda: theirs.score_samples(queries))
    yield "queries: 1000", batch | {"largest_difference": gap}
    one = _paired(
        lambda: [ours.score(query) for query in few], lambda: [theirs.score_samples(query) for query in few], len(few)
    )
    yield "queries: 1", one


def _gmm(rows: np.ndarray) -> Cases:
    from sklearn.mixture import GaussianMixture

    bank, queries = _projected(rows[:10_000], 128), _projected(rows[60_000:70_000], 128)
    for components in (1, 4):
        for covariance in ("full", "tied", "diag", "spherical"):
            ours = GMM.fit(bank, components=components, covariance=covariance)
            theirs, single = (
                GaussianMixture(components, covariance_type=covariance, random_state=0).fit(bank.astype(dtype))
                for dtype in (np.float64, np.float32)
            )
            gap = np.abs(ours.score(queries) + theirs.score_samples(queries.astype(np.float64))).max()
            own, double, least = _medians(
                lambda: ours.score(queries),  # noqa: B023
                lambda: theirs.score_samples(queries.astype(np.float64)),  # noqa: B023
                lambda: single.score_samples(queries),  # noqa: B023
            )
            yield (
                f"{components} x {covariance}",
                {
                    "ours_ms": 1000 * own,
                    "sklearn_ms": 1000 * double,
                    "ratio": double / own,
                    "ratio_to_float32": least / own,
                    "largest_difference": float(gap),
                },
            )


def _mahalanobis(rows: np.ndarray) -> Cases:
    from sklearn.covariance import LedoitWolf

    bank, queries = _projected(rows[:10_000], 512), _projected(rows[60_000:62_000], 512)
    double = bank.astype(np.float64), queries.astype(np.float64)
    ours, theirs = Mahalanobis.fit(bank), LedoitWolf().fit(double[0])
    gap = float(np.abs(ours.score(queries) - np.sqrt(theirs.mahalanobis(double[1]))).max())
    yield "fit", _paired(lambda: Mahalanobis.fit(bank), lambda: LedoitWolf().fit(double[0]))
    scores = _paired(lambda: ours.score(queries), lambda: theirs.mahalanobis(double[1]))
    yield "rows: 2000", scores | {"largest_difference": gap}


def _coreset(rows: np.ndarray) -> Cases:
    bank = _projected(rows[:50_000], 512)
    yield "50000 x 512", {"seconds": _seconds(lambda: KNN.fit(bank, coreset=0.1)), "peak_mb": _peak()}


def _moments(rows: np.ndarray) -> Cases:
    batches = [_projected(rows[start : start + 500], 512) for start in range(0, 60_000, 500)]
    whole = np.concatenate(batches).astype(np.float64)
    other = whole.copy()  # of an array with itself numpy computes but half

    def stream() -> None:
        moments = Moments(512)
        for batch in batches:
            moments.update(batch)

    own, product = _medians(stream, lambda: whole.T @ other)
    yield "60000 x 512", {"ours_s": own, "product_s": product, "share_of_rate": product / own}


def _million(rows: np.ndarray) -> Cases:
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
    steps = {"fit_s": fit, "save_s": save, "load_s": load, "thousand_s": thousand, "one_s": one}
    yield "1000000 x 128", steps | {"peak_mb": _peak()}


PARTS: dict[str, Callable[[np.ndarray], Cases]] = {
    "knn": _knn,
    "lof": _lof,
    "gmm": _gmm,
    "mahalanobis": _mahalanobis,
    "approximate": _approximate,
    "coreset": _coreset,
    "moments": _moments,
    "million": _million,
}
FRESH = ("coreset", "million")
"""Parts that run in a fresh process, since their peak memory is measured."""


if __name__ == "__main__":
    main()
