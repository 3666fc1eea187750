"""Check training on a CUDA GPU in under six minutes, without a network.

    scripts/gpu_check --wheels DIR [--python 3.12]      # where there is a network: gathers what the check imports
    scripts/gpu_check [--install DIR] [--seconds 330]   # on the GPU: installs what is missing from DIR, and checks

PYTHON names the interpreter that holds torch (2.11 or later), python3 by default. What --install installs lies in a
temporary folder of this run; nothing else of the machine changes.

LitClassifier, LitAutoencoder and LitDOC are trained on the packaged images by the function behind `lit-od train`:
in 32-true, bf16-mixed and 16-mixed, as they are and compiled, and as one process joined by nccl. Each training is
compared with the same one on the CPU in 32-true, by its first 50 losses, and with the module's own step in a plain
loop over tensors that lie on the device, in the same precision, by its images a second. ONNX Runtime's CUDA provider
is compared with the CPU on features, where it is installed. Without a GPU the same is run on the CPU, in short.

Prints a row a training and a line of JSON. Exit status: 0 if all agree; 1 if something differs, failed or found no
time; 2 if the check cannot be run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from wheels import gather, install, missing  # noqa: E402  # a file beside this one

OLDEST_TORCH = (2, 11)
RESERVE = 10
"""Seconds that no training is begun in, at the end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="gather wheels there, and check nothing")
    python = ".".join(map(str, sys.version_info[:2]))
    parser.add_argument("--python", default=python, help="version that the wheels are for; default %(default)s")
    parser.add_argument("--install", type=Path, metavar="DIR", help="install what is missing from these wheels")
    parser.add_argument("--seconds", type=int, default=330, help="time of the whole check; default %(default)s")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out, which takes minutes on a CPU")
    args = parser.parse_args()
    if args.wheels:
        print(f"{gather(ROOT, args.wheels, args.python) / 1e6:.0f} MB of wheels in {args.wheels}")
        return 0
    if (lacking := missing(ROOT)) and args.install:
        with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
            install(lacking, args.install, Path(folder))
            words = [__file__, f"--seconds={args.seconds}", *(["--eager"] if args.eager else [])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
            return subprocess.run([sys.executable, *words], env=environment, check=False).returncode
    if lacking:
        parser.error(f"wanted {', '.join(lacking)}: gather them with --wheels DIR, and give --install DIR")
    try:
        import torch
    except ImportError:
        parser.error(f"{sys.executable} has no torch: name one that has by PYTHON")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        parser.error(f"wanted torch {'.'.join(map(str, OLDEST_TORCH))} or later, got {torch.__version__}")
    try:
        return check(args.seconds, compiled=not args.eager)
    except TimeIsUpError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 1


def check(seconds: int, *, compiled: bool) -> int:
    """Run all trainings and print the figures.

    Args:
        seconds: Time of the whole check.
        compiled: False leaves out what runs torch.compile.
    """
    from features import compare_features
    from trainings import Result, describe, header, measure, reference_losses, trainings

    started = time.monotonic()
    signal.signal(signal.SIGALRM, _time_is_up)
    signal.alarm(seconds)
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
        references = reference_losses(Path(folder))
        print(header(), flush=True)
        for number, training in enumerate(trainings(compiled=compiled)):
            if time.monotonic() - started > seconds - RESERVE:
                results.append(Result(training, error="no time was left"))
            else:
                results.append(measure(training, references[training.module], Path(folder) / str(number)))
            print(results[-1].row(), flush=True)
    features = compare_features()
    signal.alarm(0)
    print("features:", ", ".join(f"{name} {value}" for name, value in features.items()))
    took = time.monotonic() - started
    agrees = all(result.agrees for result in results) and features.get("agrees", True)
    print(f"{'all agree' if agrees else 'NOT all agree'}, {took:.0f} s")
    figures = {"trainings": [result.figures() for result in results], "features": features}
    print(json.dumps({"machine": machine, **figures, "seconds": round(took), "agrees": agrees}))
    return 0 if agrees else 1


class TimeIsUpError(RuntimeError):
    """The end of a training that the time does not suffice for."""


def _time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUpError("stopped, the time is up")


if __name__ == "__main__":
    sys.exit(main())
