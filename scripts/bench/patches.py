"""Measure recipes that say where a defect is: accuracy, time, memory and size.

    python scripts/bench/patches.py DATA [CATEGORY ...] [--recipe defects] [--threads 2] [--runs 7]
        [--anomalib PYTHON [--peer padim:resnet18 ...]]

DATA holds categories in MVTec AD's layout. For each category two detectors are measured: the bundle that `lit-od fit`
ships, with images held out for calibration, and the same detector fitted on all training images. Times are medians:
backbone and detector alone, for one image and for 32, and one file to its verdict, map and regions. Prints a line and a
JSON line for each category, and the means. With --anomalib, the interpreter of an environment that holds anomalib, its
models with random weights run after each category, and the ratios of their figures to these are printed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lit_od import Bundle, Scorer
from lit_od.detectors.base import PixelDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.evaluation.metrics import aupro, auroc, pixel_auroc
from lit_od.fitting.engine import LocalEngine
from lit_od.images.batching import load
from lit_od.images.layouts import read_category
from lit_od.images.sources import Source
from lit_od.runtime.threads import available_threads, limited

FIT = """
import sys
from lit_od.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024)
sys.exit(status)
"""

FIRST = """
import sys
from lit_od import Scorer
import numpy as np
scorer = Scorer.load(sys.argv[1])
pixels = np.zeros((1, *scorer.preparation.shape), np.uint8)
scorer.detector.score_map(scorer.backbone(pixels))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("categories", nargs="*", metavar="CATEGORY")
    parser.add_argument("--recipe", default="defects")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--anomalib", metavar="PYTHON")
    parser.add_argument("--peer", nargs="+", default=["padim:resnet18", "patchcore:resnet18"], metavar="MODEL:BACKBONE")
    args = parser.parse_args()
    found = []
    for name in args.categories or sorted(each.name for each in args.data.iterdir() if (each / "train").is_dir()):
        figures = measure(args.data / name, args.recipe, args.threads, args.runs)
        found.append(figures)
        show(name, figures)
        for peer in args.peer if args.anomalib else ():
            theirs = beside(args.anomalib, peer, args.data / name, args.threads)
            show(f"{name}, anomalib's {peer}", theirs)
            show(f"{name}, anomalib's {peer} to these", {key: theirs[key] / figures[key] for key in theirs})
    show("mean", {key: statistics.mean(each[key] for each in found) for key in found[0]})


def show(name: str, figures: dict[str, float]) -> None:
    """Print the figures of a category, and as a JSON line."""
    print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    print(json.dumps({"category": name, **figures}), flush=True)


def beside(python: str, peer: str, folder: Path, threads: int) -> dict[str, float]:
    """Return the times, memory and size of a model of anomalib.

    Args:
        python: Interpreter of the environment that holds anomalib.
        peer: Model and backbone, as "padim:resnet18".
        folder: The category.
        threads: Threads of all that is measured.
    """
    script = Path(__file__).with_name("anomalib_peer.py")
    words = [python, script, *peer.split(":"), folder, "--threads", threads]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(folder: Path, recipe: str, threads: int, runs: int) -> dict[str, float]:
    """Fit and measure one category.

    Args:
        folder: The category.
        recipe: A recipe's name or file.
        threads: Threads of all that is measured.
        runs: Runs that a median is taken of.
    """
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "bundle"
        seconds, peak = fresh(FIT, "fit", recipe, "--data.root", folder, "--out", out, "--threads", threads)
        bundle, size = Bundle.read(out), sum(file.stat().st_size for file in out.iterdir()) / 1e6
        first = [fresh(FIRST, out) for _ in range(runs)]
        scorer = Scorer.of(bundle, threads=threads)
        assert isinstance(scorer.detector, PixelDetector)
        category = read_category(folder)
        assert category is not None
        tested = test_set(scorer, category)
        shipped = accuracy(scorer.detector, *tested)
        engine = LocalEngine(scorer.extractor)
        with limited(threads, blas=1):  # as a scorer has it
            whole = DetectorSpec(scorer.detector.kind, scorer.detector.options()).fit(engine.outputs(category.train))
            assert isinstance(whole, PixelDetector)
            return {
                **{f"{key} (all images fit)": value for key, value in accuracy(whole, *tested).items()},
                **{f"{key} (as shipped)": value for key, value in shipped.items()},
                "fit s": seconds,
                "fit MB": peak,
                "bundle MB": size,
                "start s": statistics.median(each[0] for each in first),
                "start MB": statistics.median(each[1] for each in first),
                **times(scorer, scorer.detector, category.train[:32], runs),
            }


def test_set(scorer: Scorer, category: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outputs, outlier flags and masks of a category's test images."""
    sources = [*category.good, *(each for images in category.defects.values() for each in images)]
    outputs = LocalEngine(scorer.extractor).outputs(sources)
    height, width, _ = scorer.preparation.shape
    masks = np.zeros((len(sources), height, width), bool)
    for row, source in enumerate(sources[len(category.good) :], len(category.good)):
        masks[row] = np.any([each.pixels for each in category.truth.masks(source, scorer.preparation)], axis=0)
    return outputs, np.arange(len(sources)) >= len(category.good), masks


def accuracy(detector: PixelDetector, outputs: np.ndarray, outlier: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Return AUROC of images and pixels, and AUPRO, in percent.

    Args:
        detector: The detector.
        outputs: Patches of the test images, (n, gh, gw, d).
        outlier: True for defective images, (n,).
        masks: True for defective pixels, (n, h, w).
    """
    scores, maps = detector.score_map(outputs)
    return {
        "image AUROC": 100 * auroc(scores[~outlier], scores[outlier]),
        "pixel AUROC": 100 * pixel_auroc(maps, masks),
        "AUPRO": 100 * aupro(maps, masks),
    }


def times(scorer: Scorer, detector: PixelDetector, sources: list[Source], runs: int) -> dict[str, float]:
    """Return median milliseconds of the model and of a file to its verdict.

    Args:
        scorer: The bundle, loaded.
        detector: Its detector.
        sources: 32 images.
        runs: Runs that a median is taken of.
    """
    images = load(sources, scorer.preparation, threads=scorer.threads)
    names = [source.name for source in sources]
    return {
        "model ms, batch 1": median_ms(lambda: detector.score_map(scorer.backbone(images[:1])), 4 * runs),
        "model ms an image, batch 32": median_ms(lambda: detector.score_map(scorer.backbone(images)), runs)
        / len(images),
        "file to verdict ms": median_ms(lambda: scorer.score(names[:1], maps=True), 4 * runs),
    }


def median_ms(call: Callable[[], Any], runs: int) -> float:
    """Return the median milliseconds of a call."""

    def once() -> float:
        started = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - started)

    once()
    return statistics.median(once() for _ in range(runs))


def fresh(code: str, *words: object) -> tuple[float, float]:
    """Run code in a fresh process, and return its seconds and peak megabytes."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
