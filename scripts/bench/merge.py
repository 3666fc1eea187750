"""Merge the states of 1,000 shares, 512 features each, as the first process of a fit does: seconds, and its memory.

    python scripts/bench/merge.py [SHARES] [FEATURES]

The states arrive as bytes, one after the other; a share is 64 rows of random features.
"""

import resource
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np

from lit_od.detectors import accumulator
from lit_od.partial import PartialState, merged
from lit_od.threads import limited

ROWS = 64
REPEATS = 7


def states(shares: int, width: int) -> Iterator[tuple[bytes, float]]:
    """A share's state, and the seconds that it took to make."""
    rng = np.random.default_rng(0)
    for share in range(shares):
        start = time.perf_counter()
        gathered = accumulator("mahalanobis", {}, first_row=share * ROWS)
        gathered.update(rng.standard_normal((ROWS, width), dtype=np.float32))
        data = PartialState("mahalanobis", gathered, share * ROWS, ROWS).to_bytes()
        yield data, time.perf_counter() - start


def merge_all(shares: int, width: int) -> tuple[float, int]:
    """Seconds of the merging alone, and rows."""
    making = 0.0

    def stream() -> Iterator[bytes]:
        nonlocal making
        for data, seconds in states(shares, width):
            making += seconds
            yield data

    start = time.perf_counter()
    whole = merged(stream())
    return time.perf_counter() - start - making, whole.images


def peak() -> float:
    """Largest resident size so far, MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    shares, width = (int(word) for word in (sys.argv[1:] or ["1000", "512"]))
    with limited(2):
        merge_all(shares // 10, width)
        tenth = peak()
        found = [merge_all(shares, width) for _ in range(REPEATS)]
    seconds = statistics.median(each for each, _ in found)
    assert all(rows == shares * ROWS for _, rows in found)
    each = 1e3 * seconds / shares
    print(f"{shares:,} shares of {width} features: {seconds:.2f} s, median of {REPEATS} ({each:.2f} ms a share)")
    print(f"peak memory {tenth:.0f} MiB after {shares // 10:,} shares, {peak():.0f} MiB after {shares:,}")


if __name__ == "__main__":
    main()
