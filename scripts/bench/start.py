"""Compare the scorer's start with that of bare ONNX Runtime on the same graph.

Measured are the seconds to the first score in a fresh process, and its peak memory.

    python scripts/bench/start.py BUNDLE [--runs 9]

Prints the medians of interleaved runs, their ratio, and a JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

SCORER = """
import sys
from lit_od import Scorer
import numpy as np
scorer = Scorer.load(sys.argv[1])
height, width, channels = scorer.preparation.shape
print(float(scorer.score(np.zeros((1, height, width, channels), np.uint8)).score[0]), file=sys.stderr)
"""
BARE = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + "/backbone.onnx", providers=["CPUExecutionProvider"])
shape = [1, *session.get_inputs()[0].shape[1:]]
print(session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.uint8)})[0].shape, file=sys.stderr)
"""
# A process started from a large one inherits its peak resident size until it allocates more itself, so
# the peak is read from /proc of the child, which counts from its exec.
PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(int(line.split()[1]) / 1024)
"""


def once(code: str, bundle: str) -> tuple[float, float]:
    """Run code in a fresh process; return its seconds and peak megabytes."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code + PEAK, bundle], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    once(SCORER, args.bundle), once(BARE, args.bundle)  # the first start reads from disk
    runs = [(once(SCORER, args.bundle), once(BARE, args.bundle)) for _ in range(args.runs)]
    scorer_s, bare_s = (statistics.median(run[side][0] for run in runs) for side in (0, 1))
    scorer_mb, bare_mb = (statistics.median(run[side][1] for run in runs) for side in (0, 1))
    print(
        f"start to first score: {scorer_s:.2f} s and {scorer_mb:.0f} MB; bare ONNX Runtime {bare_s:.2f} s and "
        f"{bare_mb:.0f} MB; ratio {scorer_s / bare_s:.2f}"
    )
    print(json.dumps({"seconds": scorer_s, "megabytes": scorer_mb, "bare_seconds": bare_s, "bare_megabytes": bare_mb}))


if __name__ == "__main__":
    main()
