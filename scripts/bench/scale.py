"""Estimate the time of a run over a billion images on N nodes.

    python scripts/bench/scale.py BUNDLE IMAGES [--images 1e9] [--nodes 100] [--cores 64] [--width 512]

Measured on this machine, in seconds of a core, which other work on it hardly changes: the map (images and bytes);
the driver's work for every image (listing it, telling a worker where it lies, taking its verdict, writing its
row; of a fit the split, telling of its part and the fingerprint) and for every item (workers of a local cluster that
do nothing; the clock's time too); the time to merge a partial state, against their number. Arithmetic: all that is
said of N nodes. It assumes that storage and network keep up, and says how much they must give. Prints a
JSON line at last.
"""

import argparse
import json
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import merge
import numpy as np

from lit_od import Scorer
from lit_od.cluster.connect import cluster
from lit_od.cluster.scoring import decoded, encoded
from lit_od.cluster.work_items import item_count, items
from lit_od.images.find_local import find
from lit_od.images.find_remote import ImageList
from lit_od.images.identity import fingerprint
from lit_od.images.parquet import RowGroup
from lit_od.images.sources import ImageFile, Source
from lit_od.images.split import fit_and_calibration_parts
from lit_od.runtime.threads import limited
from lit_od.scoring.result import Result
from lit_od.scoring.rows import rows_to

T = TypeVar("T")

MAPPED = 1500
LISTED = 100_000
SPLIT = 20_000_000  # so many that they are in no cache, as a billion are not
ITEMS = 1000
SHARES = (64, 256, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("images_path", metavar="IMAGES")
    parser.add_argument("--images", type=float, default=1e9)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--width", type=int, default=512)
    args = parser.parse_args()
    found = {
        **_map(args.bundle, args.images_path),
        **_driver(),
        **_items(),
        **_merging(args.width),
        **_driver_of_a_fit(args.images_path),
    }
    print("measured here")
    for name, value in found.items():
        print(f"  {name:26} {value:,.4g}")
    print(json.dumps({**found, **_arithmetic(found, args)}))


def _map(bundle: str, images: str) -> dict[str, float]:
    """Measure one thread from file to verdict."""
    scorer = Scorer.load(bundle, threads=1)
    files = [source for source in find([images]) if isinstance(source, ImageFile)]
    sources = [files[row % len(files)] for row in range(MAPPED)]
    list(scorer.stream(sources[:64]))
    seconds, _ = _timed(lambda: sum(len(result) for result in scorer.stream(sources)))
    size = sum(source.path.stat().st_size for source in sources) / MAPPED
    return {"map_images_s_core": MAPPED / seconds, "image_bytes": size, "map_bytes_s_core": size * MAPPED / seconds}


def _driver() -> dict[str, float]:
    """Measure the driver's work for each image, on its one core."""
    tracemalloc.start()
    listed: list[Source] = [
        ImageFile(Path(f"/images/{row % 1000:03}/{row:012}.jpg"), f"/images/{row % 1000:03}/{row:012}.jpg")
        for row in range(LISTED)
    ]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    telling, messages = _timed(lambda: list(items(listed, workers=64)))
    telling_rows, row_messages = _timed(lambda: list(items(_table(), workers=1)))
    verdicts = [_verdicts([source.name for source in listed[start : start + 1000]]) for start in range(0, LISTED, 1000)]
    taking, results = _timed(lambda: [decoded(each) for each in verdicts])
    with tempfile.TemporaryDirectory() as folder:
        _write(results[:1], f"{folder}/first.parquet", "parquet")  # loads what writes it
        csv, _ = _timed(lambda: _write(results, f"{folder}/rows.csv", "csv"))
        columns, _ = _timed(lambda: _write(results, f"{folder}/rows.parquet", "parquet"))
    each = 1e6 / LISTED
    return {
        "list_bytes_image": kept / LISTED,
        "tell_file_us_image": telling * each,
        "tell_file_bytes_image": sum(map(len, messages)) / LISTED,
        "tell_row_us_image": telling_rows * each,
        "tell_row_bytes_image": sum(map(len, row_messages)) / LISTED,
        "verdict_us_image": taking * each,
        "verdict_bytes_image": sum(map(len, verdicts)) / LISTED,
        "csv_us_image": csv * each,
        "parquet_us_image": columns * each,
    }


def _driver_of_a_fit(images: str) -> dict[str, float]:
    """Measure the driver's work of `refit --engine ray` for each image.

    The driver has one core; listing is not included.
    """
    splitting, _ = _timed(lambda: fit_and_calibration_parts(range(SPLIT), seed=0))
    tracemalloc.start()
    fit, calibration = fit_and_calibration_parts(_table(), seed=0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    telling, messages = _timed(lambda: [*items(fit, workers=1), *items(calibration, workers=1)])
    rows, _ = _timed(lambda: (fingerprint(fit), fingerprint(calibration)))
    local = find([images])
    files, _ = _timed(lambda: fingerprint(local))  # each file's size is asked for: here of a local disk
    each = 1e6 / LISTED
    return {
        "split_us_image": 1e6 * splitting / SPLIT,
        "split_bytes_image": most / LISTED,
        "tell_part_us_image": telling * each,
        "tell_part_bytes_image": sum(map(len, messages)) / LISTED,
        "fingerprint_row_us_image": rows * each,
        "fingerprint_file_us_image": 1e6 * files / len(local),
    }


def _table() -> ImageList:
    """Return a Parquet file in an object store, which nobody opens."""
    return ImageList(
        [RowGroup("s3://bucket/table.parquet", group, 1000 * group, 1000) for group in range(LISTED // 1000)]
    )


def _items() -> dict[str, float]:
    """Measure Ray's time for an item without work, between first and last answer."""
    with cluster() as pool:
        answers = pool.map(_idle, (), (b"%d" % number for number in range(ITEMS + pool.workers)))
        for _ in range(pool.workers):
            next(answers)
        started = time.perf_counter()
        seconds, came = _timed(lambda: len(list(answers)))
        clock = time.perf_counter() - started
    return {"ray_ms_item": 1e3 * seconds / came, "ray_clock_ms_item": 1e3 * clock / came}


def _idle() -> Callable[[bytes], bytes]:
    return lambda item: item


def _merging(width: int) -> dict[str, float]:
    found = {}
    with limited(1):
        merge.merge_all(SHARES[0], width)
        for shares in SHARES:
            (_, cores), _ = merge.merge_all(shares, width)
            found[f"merge_ms_state_of_{shares}"] = 1e3 * cores / shares
    found["state_bytes"] = len(next(iter(merge.states(1, width)))[0])
    found["driver_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return found


def _arithmetic(found: dict[str, float], args: argparse.Namespace) -> dict[str, float]:
    images, workers = args.images, args.nodes * args.cores
    count = item_count(workers)
    cores = images / found["map_images_s_core"]
    scheduling = 1e-3 * found["ray_ms_item"] * count
    merging = 1e-3 * found[f"merge_ms_state_of_{SHARES[-1]}"] * count
    print(f"arithmetic for {images:,.0f} images on {args.nodes} nodes of {args.cores} cores ({workers:,} workers)")
    print(
        f"  map: {cores / workers / 60:,.1f} min; storage gives {workers * found['map_bytes_s_core'] / 1e9:,.1f} GB/s"
    )
    runs = {"map_s": cores / workers, "scheduling_s": scheduling, "merge_s": merging}
    for kind, tell, form in (
        ("files", "file", "csv"),
        ("files", "file", "parquet"),
        ("rows of Parquet", "row", "parquet"),
    ):
        before = 1e-6 * images * found[f"tell_{tell}_us_image"]
        listed = found["list_bytes_image"] if tell == "file" else 0.0
        memory = images * (listed + found[f"tell_{tell}_bytes_image"]) / 1e9
        during = 1e-6 * images * (found["verdict_us_image"] + found[f"{form}_us_image"]) + scheduling
        total = before + max(cores / workers, during)
        runs[f"{tell}_to_{form}_s"] = total
        print(
            f"  {kind} to {form}: {total / 60:,.0f} min. Before the map the driver tells where the images lie, "
            f"{before / 60:,.0f} min and {memory:,.1f} GB; during it it is busy for {during / 60:,.0f} min, so that "
            f"more than {cores / during:,.0f} workers gain nothing"
        )
    print(f"    of that {count:,} items through Ray: {scheduling / 60:,.1f} min")
    for name, kind in (("files", "file"), ("rows of Parquet", "row")):
        tell = "tell_file" if kind == "file" else "tell_part"
        listed = found["list_bytes_image"] if kind == "file" else 0.0
        parts = {
            "splits": 1e-6 * images * found["split_us_image"],
            "tells where they lie": 1e-6 * images * found[f"{tell}_us_image"],
            "hands out items": scheduling,
            "merges": merging,
            "fingerprints": 1e-6 * images * found[f"fingerprint_{kind}_us_image"],
        }
        memory = images * (listed + found["split_bytes_image"] + found[f"{tell}_bytes_image"]) / 1e9
        alone = parts["splits"] + parts["tells where they lie"] + parts["fingerprints"]  # no worker works meanwhile
        total = alone + max(cores / workers, scheduling + merging)
        worst = max(parts, key=parts.__getitem__)
        runs |= {f"fit_{kind}_s": total, f"fit_{kind}_gb": memory}
        print(
            f"  a fit of {name}: {total / 60:,.0f} min, {memory:,.1f} GB at the driver, whose core works alone for "
            f"{alone / 60:,.0f} min. It " + ", ".join(f"{part} {each / 60:,.1f} min" for part, each in parts.items())
        )
        wall = f"the memory, {images * listed / 1e9:,.0f} GB of paths, then " if listed else ""
        print(
            f"    first wall: {wall}the core that {worst}: beyond {cores / parts[worst]:,.0f} workers it takes longer"
        )
    print(
        f"  a fit merges {count:,} states of {found['state_bytes'] / 1e6:.2f} MB, "
        f"{count * found['state_bytes'] / 1e9:,.1f} GB through the driver's network, one in its memory at a time"
    )
    gigabytes = images * found["list_bytes_image"] / 1e9
    print(
        f"first wall of scoring: the driver. Of a list of files its memory, {gigabytes:,.0f} GB of paths before any "
        "work begins; of Parquet files its one core, which writes the rows: several jobs, each with a part of the files"
    )
    return {**runs, "list_gb": gigabytes}


def _verdicts(names: list[str]) -> bytes:
    """Return a worker's answer."""
    scores = np.random.default_rng(0).random(len(names))
    return encoded(Result(names, scores, scores, scores > 0.9, [None] * len(names)))


def _write(results: list[Result], file: str, form: str) -> None:
    with rows_to(file, form) as write:
        for result in results:
            write(result)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Run work; return the seconds of cores for this process, and its result."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


if __name__ == "__main__":
    main()
