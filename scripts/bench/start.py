"""Compare the scorer's start with that of bare ONNX Runtime on the same graph.

Measured are the seconds to the first score in a fresh process, and its peak memory.

    python scripts/bench/start.py BUNDLE [--runs 9] [--against CHECKOUT]

Prints the medians of interleaved runs, their ratio, and a JSON line. Another checkout of lit_od, of an earlier version
for instance, is measured in the same run.
"""

import argparse
import json
import os
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
import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
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


def once(code: str, bundle: str, checkout: str | None = None) -> tuple[float, float]:
    """Run code in a fresh process, and return its seconds and peak megabytes.

    Args:
        code: The program.
        bundle: Its argument.
        checkout: Root of the lit_od that it imports; None is the installed one.
    """
    environment = os.environ | ({"PYTHONPATH": checkout} if checkout else {})
    words = [sys.executable, "-c", code + PEAK, bundle]
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return time.perf_counter() - started, float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--against", metavar="CHECKOUT", help="root of another checkout, measured in the same run")
    args = parser.parse_args()
    sides: dict[str, tuple[str, str | None]] = {"scorer": (SCORER, None), "bare": (BARE, None)}
    if args.against:
        sides["against"] = (SCORER, args.against)
    for code, checkout in sides.values():  # the first start reads from disk
        once(code, args.bundle, checkout)
    runs = [[once(code, args.bundle, checkout) for code, checkout in sides.values()] for _ in range(args.runs)]
    figures = {
        name: {
            "seconds": statistics.median(run[side][0] for run in runs),
            "megabytes": statistics.median(run[side][1] for run in runs),
        }
        for side, name in enumerate(sides)
    }
    names = {"scorer": "start to first score", "bare": "bare ONNX Runtime", "against": f"the scorer of {args.against}"}
    for name, figure in figures.items():
        ratio = figures["scorer"]["seconds"] / figure["seconds"]
        print(f"{names[name]}: {figure['seconds']:.2f} s, {figure['megabytes']:.0f} MB; ratio {ratio:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
