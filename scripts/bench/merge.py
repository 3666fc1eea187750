"""Measure time and memory of merging partial states, as in a fit.

By default 1,000 states of 512 features each are merged, as in the first process of a fit.

    python scripts/bench/merge.py [SHARES] [FEATURES]

The states arrive as bytes, one after the other; a share is 64 rows of random features. The clock's seconds, and
those of cores, which other work on the machine hardly changes. Prints a JSON line at last.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from lit_od.detectors.registry import accumulator
from lit_od.fitting.partial_state import PartialState, merged
from lit_od.runtime.threads import limited

ROWS = 64
REPEATS = 7


def states(shares: int, width: int) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield each share's state, and the seconds of making it, of clock and cores."""
    rng = np.random.default_rng(0)
    for share in range(shares):
        start = now()
        gathered = accumulator("mahalanobis", {}, first_row=share * ROWS)
        gathered.update(rng.standard_normal((ROWS, width), dtype=np.float32))
        data = PartialState("mahalanobis", gathered, share * ROWS, ROWS).to_bytes()
        yield data, now() - start


def now() -> np.ndarray:
    """Return the seconds so far, of the clock and of this process' cores."""
    return np.array([time.perf_counter(), time.process_time()])


def merge_all(shares: int, width: int) -> tuple[np.ndarray, int]:
    """Return the seconds of merging alone, of clock and cores, and the rows."""
    making = np.zeros(2)

    def stream() -> Iterator[bytes]:
        nonlocal making
        for data, seconds in states(shares, width):
            making += seconds
            yield data

    start = now()
    whole = merged(stream())
    return now() - start - making, whole.images


def peak() -> float:
    """Return the largest resident size so far, MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    shares, width = (int(word) for word in (sys.argv[1:] or ["1000", "512"]))
    with limited(2):
        merge_all(shares // 10, width)
        tenth = peak()
        found = [merge_all(shares, width) for _ in range(REPEATS)]
    assert all(rows == shares * ROWS for _, rows in found)
    clock, cores = np.median([seconds for seconds, _ in found], axis=0)
    each = 1e3 * clock / shares
    print(
        f"{shares:,} shares of {width} features: {clock:.2f} s, {cores:.2f} s of cores, "
        f"medians of {REPEATS} ({each:.2f} ms a share)"
    )
    print(f"peak memory {tenth:.0f} MiB after {shares // 10:,} shares, {peak():.0f} MiB after {shares:,}")
    figures = {"shares": shares, "features": width, "seconds": clock, "cores_s": cores, "ms_share": each}
    print(json.dumps({**figures, "peak_tenth_mib": tenth, "peak_mib": peak()}))


if __name__ == "__main__":
    main()
