"""Measure anomalib's PatchCore or PaDiM with random weights.

Called by patches.py, in anomalib's own environment.

    python scripts/bench/anomalib_peer.py patchcore resnet18 CATEGORY [--threads 2] [--runs 7]

Times and memory do not depend on the weights; its accuracy does, and is not measured. Prints a JSON line.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

FIRST = """
import sys, torch
from anomalib.deploy import TorchInferencer
torch.set_num_threads(int(sys.argv[2]))
TorchInferencer(path=sys.argv[1], device="cpu").predict(torch.zeros(3, 256, 256))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("patchcore", "padim"))
    parser.add_argument("backbone")
    parser.add_argument("category", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Padim, Patchcore

    torch.set_num_threads(args.threads)
    model = (Patchcore if args.model == "patchcore" else Padim)(backbone=args.backbone, pre_trained=False)
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        data = Folder(
            name=args.category.name,
            root=args.category,
            normal_dir="train/good",
            num_workers=0,
            test_split_mode="none",
            val_split_mode="none",
        )
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "limit_val_batches": 0}
        engine = Engine(accelerator="cpu", devices=1, default_root_dir=place, **quiet)
        engine.fit(model=model, datamodule=data)
        seconds, peak = time.perf_counter() - started, high_water()
        exported = engine.export(model=model, export_type="torch", export_root=place)
        size = Path(exported).stat().st_size / 1e6
        model.eval()
        with torch.inference_mode():
            alone, many = (median_ms(model, torch.rand(n, 3, 256, 256), args.runs) / n for n in (1, 32))
        os.environ["TRUST_REMOTE_CODE"] = "1"  # its own file, which it loads as a pickle
        first = []
        for _ in range(3):
            started = time.perf_counter()
            words = [sys.executable, "-c", FIRST, str(exported), str(args.threads)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            first.append((time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024))
    print(
        json.dumps(
            {
                "fit s": seconds,
                "fit MB": peak,
                "bundle MB": size,
                "start s": statistics.median(each[0] for each in first),
                "start MB": statistics.median(each[1] for each in first),
                "model ms, batch 1": alone,
                "model ms an image, batch 32": many,
            }
        )
    )


def high_water() -> float:
    """Return the peak of this process' memory in megabytes."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def median_ms(model: Any, images: Any, runs: int) -> float:
    """Return the median milliseconds of a model on images.

    Args:
        model: A module of torch.
        images: Its input.
        runs: Runs that the median is taken of.
    """
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        model(images)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
