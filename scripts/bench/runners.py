"""Compare the runners of a model file: scores, starts and memory.

Every runner gets the golden set, and is compared with what the bundle gives: max |a - b| / max |a|, and verdicts that
flip. The programs are started in turn on one image: seconds from the start to the end, and peak memory.
The page's time an image is that of preparing and scoring in headless Chromium, on one thread.

    lit-od compile BUNDLE --out model.onnx --golden golden
    python scripts/bench/runners.py model.onnx golden --c PROGRAM [--runs 15]

Prints medians, and a JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNNERS = Path(__file__).resolve().parents[2] / "runners"


def once(words: list[str]) -> tuple[float, float]:
    """Run a program, and return its seconds and peak megabytes.

    Raises:
        SystemExit: If it fails.
    """
    started = time.perf_counter()
    # This process is small: a program's peak, which begins with that of its parent, is its own.
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words[0]} ended with status {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("golden", type=Path)
    parser.add_argument("--c", metavar="PROGRAM", default=str(RUNNERS / "c" / "build" / "lit-od-score"))
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    words = [sys.executable, str(RUNNERS / "conformance"), args.model, str(args.golden), "--c", args.c, "--json"]
    figures = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    for name, found in figures.items():
        print(f"{name}: {found}")
    starts = {
        "c": [args.c],
        "python": [sys.executable, str(RUNNERS / "python" / "score.py")],
        "node": ["node", str(RUNNERS / "node" / "score.js")],
    }
    sides = {name: [*start, args.model, str(args.golden / "0.png")] for name, start in starts.items()}
    runs = [{name: once(side) for name, side in sides.items()} for _ in range(args.runs + 1)][1:]  # the first warms up
    for name in sides:
        seconds, megabytes = (statistics.median(run[name][at] for run in runs) for at in (0, 1))
        figures[name] = {"golden": figures[name], "seconds": seconds, "megabytes": megabytes}
        print(f"{name}: {seconds:.3f} s from its start to its end with one image, {megabytes:.0f} MB at most")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
