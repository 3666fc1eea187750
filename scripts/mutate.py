"""Tamper with bundles of all detectors; each must be refused or score.

A refusal is one line.

    python scripts/mutate.py [--cases 10000] [--seed 0] [--index] [--case K]

Cases are numbered; each is made from the seed and its number alone, so `--seed S --case K` makes one again
and shows what it does. `--index` tampers with the bytes of FAISS indexes. The cases run in another process:
whatever it does, crashing and hanging included, is counted, and the next one goes on with the next case.
Prints a table by kind, the failures, and the peak memory; exit status 1 if anything failed.
"""

import argparse
import os
import queue
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PATIENCE = 300.0
"""Seconds without output after which a case counts as hanging; a busy machine may pause for a while."""

FAILED = "failed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="how many (10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all cases (0)")
    parser.add_argument("--index", action="store_true", help="tamper with the bytes of FAISS indexes instead")
    parser.add_argument("--case", type=int, metavar="K", help="one case, here, with what was done to it")
    parser.add_argument("--from", type=int, dest="first", metavar="K", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case is not None:
        return show(args.seed, args.case, args.index)
    if args.first is not None:
        work(args)
        return 0
    return supervise(args)


def work(args: argparse.Namespace) -> None:
    """Run the cases from a number on, printing a line before and one after each."""
    from tests.support.mutations import materials, outcome, tamper

    made = materials(index=args.index)
    for case in range(args.first, args.cases):
        bundle = made[case % len(made)]
        print(f"{case}\t{bundle.kind}", flush=True)
        try:
            tampered = tamper(drawn(args.seed, case), bundle, index=args.index)
            came = outcome(bundle, tampered.manifest, tampered.files)
        except Exception as error:
            came = f"{FAILED}: {type(error).__name__}: {str(error)[:200]!r}"
        print(f"{came}\t{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}", flush=True)


def show(seed: int, case: int, index: bool) -> int:
    """Run one case in this process, and print its messages.

    Args:
        seed: Seed of all cases.
        case: Number of the case.
        index: True tampers with the bytes of FAISS indexes.
    """
    from lit_od.errors import LitODError
    from tests.support.mutations import materials, outcome, read, tamper

    made = materials(index=index)
    bundle = made[case % len(made)]
    tampered = tamper(drawn(seed, case), bundle, index=index)
    print(f"{bundle.kind}: {tampered.what}", flush=True)
    try:
        print(outcome(bundle, tampered.manifest, tampered.files))
        read(tampered)
    except LitODError as error:
        print(error)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def drawn(seed: int, case: int) -> Random:
    """Return the random generator of a case."""
    return Random(f"{seed} {case}")


def supervise(args: argparse.Namespace) -> int:
    """Start workers until all cases are done, and print the results."""
    start = time.perf_counter()
    counts: dict[str, Counter[str]] = {}
    failures: list[str] = []
    peak, case = 0, 0
    while case < args.cases:
        before = case
        words = [sys.executable, __file__, "--seed", str(args.seed), "--cases", str(args.cases), "--from", str(case)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with subprocess.Popen(
            [*words, *(["--index"] if args.index else [])], stdout=subprocess.PIPE, text=True, env=environment
        ) as worker:
            lines = listen(worker.stdout)
            while (head := next_line(lines)) is not None:
                case, kind = int(head.split("\t")[0]), head.split("\t")[1]
                came = next_line(lines)
                what, memory = came.split("\t") if came else (f"{FAILED}: {ending(worker)}", "0")
                peak = max(peak, int(memory))
                counts.setdefault(kind, Counter())[what.split(":")[0]] += 1
                if what.startswith(FAILED):
                    failures.append(f"case {case} ({kind}): {what}")
                case += 1
                if came is None:
                    break
            worker.kill()
        if case == before:
            print(f"the worker stopped before case {case}", file=sys.stderr)
            return 2
    report(counts, failures, args)
    print(f"{args.cases:,} cases in {time.perf_counter() - start:.1f} s, peak memory {peak:,} MB")
    return 1 if failures else 0


def ending(worker: "subprocess.Popen[str]") -> str:
    """Describe the end of a worker that had not finished its case."""
    try:
        return f"crash, exit status {worker.wait(timeout=10)}"
    except subprocess.TimeoutExpired:
        worker.kill()
        return f"no end within {PATIENCE:g} s"


def report(counts: dict[str, Counter[str]], failures: list[str], args: argparse.Namespace) -> None:
    """Print the table of results by kind, and the failures.

    Args:
        counts: Results by kind of detector.
        failures: A line for each failure.
        args: Arguments of the command line.
    """
    from tests.support.mutations import ACCEPTED, REFUSED, UNSCORED

    columns = (REFUSED, UNSCORED, ACCEPTED, FAILED)
    print(f"{'':28}" + "".join(f"{column:>21}" for column in columns))
    for kind, row in [*counts.items(), ("together", sum(counts.values(), Counter()))]:
        print(f"{kind:28}" + "".join(f"{row[column]:>21,}" for column in columns))
    for failure in failures:
        print(failure)
    if failures:
        again = "--index " if args.index else ""
        print(f"again: python scripts/mutate.py {again}--seed {args.seed} --case NUMBER")


def listen(stream: IO[str] | None) -> "queue.Queue[str | None]":
    """Return a queue of a stream's lines, None at its end, read on a thread."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stream or ():
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def next_line(lines: "queue.Queue[str | None]") -> str | None:
    """Return the next line; None at the end, or if none comes in time."""
    try:
        return lines.get(timeout=PATIENCE)
    except queue.Empty:
        return None


if __name__ == "__main__":
    sys.exit(main())
