"""Compare scoring by a local Ray cluster with scoring by one process.

Both use the same cores; at last a worker is killed.

    python scripts/bench/cluster.py BUNDLE IMAGES [--seconds 180] [--workers 2]

The images are repeated until one process needs about that many seconds, and are one job of the cluster. Every ten
seconds its workers are halted, and one process scores a part of the images for as long: both sides see the same
machine. Start-up is not counted (of the cluster: until each worker has answered once). Then all once more, and
one worker is killed half way: every row must come, none twice, with the same scores. Prints the ratios of the
seconds and of the cores' seconds an image, the machine's load, and a JSON line.
"""

import argparse
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_od import Scorer
from lit_od.bundle.folder import Bundle
from lit_od.cluster.connect import cluster
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.scoring import score_images
from lit_od.images.find_local import find
from lit_od.images.sources import ImageFile
from lit_od.scoring.result import Result

PROBE = 640
SLICE = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("images")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    bundle = Bundle.read(args.bundle)
    scorer = Scorer.of(bundle, threads=args.workers)
    files = [source for source in find([args.images]) if isinstance(source, ImageFile)]
    probe = _Side()
    probe.take(scorer.stream(_numbered(files, PROBE)))
    sources = _numbered(files, round(args.seconds * PROBE / probe.seconds))
    part = round(SLICE * PROBE / probe.seconds)
    parts = itertools.cycle(sources[start : start + part] for start in range(0, len(sources) - part + 1, part))
    clustered, alone, load = _Side(), _Side(), []
    with cluster(workers=args.workers) as pool:
        job = score_images(pool, bundle, sources)
        rows = list(itertools.islice(job, args.workers))  # each worker is at work from here on
        while len(more := clustered.take(job, SLICE)):
            rows += more
            with _halted():
                alone.take(scorer.stream(next(parts)))
            load.append(os.getloadavg()[0])
        again, killed_at = _with_a_death(pool, bundle, sources)
    names = [source.name for source in sources]
    want = list(scorer.stream(sources[:part]))
    assert _names(rows) == names, "a row is missing, or there twice"
    assert _names(again) == names, "a row is missing, or there twice, after a worker was killed"
    assert _scores(again) == _scores(rows), "the scores after a death differ"
    assert _scores(rows)[:part] == _scores(want), "the scores are not those of one process"
    ratio = clustered.each / alone.each
    cores = clustered.cores / clustered.images / (alone.cores / alone.images)
    print(
        f"{len(sources):,} images, {args.workers} cores: one process {1e3 * alone.each:.3f} ms an image "
        f"({alone.seconds:.0f} s, {alone.images:,} images), cluster {1e3 * clustered.each:.3f} ms "
        f"({clustered.seconds:.0f} s, {clustered.images:,} images): {ratio:.3f} of the time, "
        f"{cores:.3f} of the cores' time"
    )
    print(f"a worker killed after {killed_at:,} rows: {len(again_names := _names(again)):,} rows, each once, in order")
    print(f"load of the machine meanwhile: {min(load):.1f} to {max(load):.1f} on {os.cpu_count()} cores")
    figures = {"images": len(again_names), "alone_ms": 1e3 * alone.each, "cluster_ms": 1e3 * clustered.each}
    figures |= {"ratio": ratio, "cores_ratio": cores, "job_s": clustered.seconds, "load": sum(load) / len(load)}
    print(json.dumps({**figures, "killed_after_rows": killed_at}))


@dataclass
class _Side:
    """Images that one of the two has scored, in seconds of the clock and of cores."""

    images: int = 0
    seconds: float = 0.0
    cores: float = 0.0

    @property
    def each(self) -> float:
        return self.seconds / self.images

    def take(self, results: Iterator[Result], seconds: float = float("inf")) -> list[Result]:
        """Take results for some seconds, or until there are no more."""
        found: list[Result] = []
        before, started = _core_seconds(), time.perf_counter()
        for result in results:
            found.append(result)
            if time.perf_counter() - started > seconds:
                break
        self.seconds += time.perf_counter() - started
        self.cores += _core_seconds() - before
        self.images += sum(len(result) for result in found)
        return found


def _numbered(files: Sequence[ImageFile], count: int) -> list[ImageFile]:
    """Repeat the files, each time under another name."""
    repeated = itertools.islice(itertools.cycle(files), count)
    return [ImageFile(file.path, f"{row}:{file.name}") for row, file in enumerate(repeated)]


def _with_a_death(pool: Pool, bundle: Bundle, sources: Sequence[ImageFile]) -> tuple[list[Result], int]:
    found: list[Result] = []
    rows = killed_at = 0
    for result in score_images(pool, bundle, sources):
        found.append(result)
        rows += len(result)
        if not killed_at and rows >= len(sources) / 2:
            os.kill(_workers()[0], signal.SIGKILL)
            killed_at = rows
    return found, killed_at


@contextmanager
def _halted() -> Iterator[None]:
    workers = _workers()
    try:
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        yield
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)


def _workers() -> list[int]:
    """Find Ray's actors among the processes that this one has started."""
    return [process for process, (_, name) in _descendants().items() if name.startswith(b"ray::") and b"Map" in name]


def _core_seconds() -> float:
    """Return the seconds that cores have worked for this process and its descendants."""
    return sum(ticks for ticks, _ in _descendants().values()) / os.sysconf("SC_CLK_TCK")


def _descendants() -> dict[int, tuple[int, bytes]]:
    """Return ticks of cores and the command line of this process and all below it."""
    found, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = int(status[11]) + int(status[12]), (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int(status[1])
        except (OSError, IndexError):  # it has ended meanwhile
            continue

    def ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return {process: shown for process, shown in found.items() if ours(process)}


def _names(results: Sequence[Result]) -> list[str]:
    return [name for result in results for name in result.name]


def _scores(results: Sequence[Result]) -> list[float]:
    return [float(score) for result in results for score in result.score]


if __name__ == "__main__":
    main()
