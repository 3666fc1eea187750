"""Compare model files with the bundles that they were compiled from.

    python scripts/bench/compile.py [DATA] [--bundles digits,photos,patches,errors] [--detectors KIND,...] [--test 500]
                                    [--fit 400] [--seconds 4] [--threads 1] [--cpu-time]

DATA, else LIT_OD_DATA, holds cats_dogs. digits: the packaged digits 0 to 7 on the backbone of exported/mnist-digits;
photos: cats on features of the shipped EfficientNet-Lite0; patches: its patches at 224 pixels; errors:
exported/cats-autoencoder, unchanged. Each detector is fitted on --fit images (digits on five times as many), calibrated
on 100 others, compiled, and gets the same prepared pixels of --test images as `Scorer` does, half of them outliers.

A line a detector: the largest difference of scores, max |a - b| / max |a|; verdicts that differ further from the
threshold than that allows, and p-values outside of those of score +- the tolerance; images a second of the file in bare
ONNX Runtime and of `Scorer` at batches of 1 and 32, medians of runs in turns on the same threads, and their ratio; the
file's size. Then a JSON line. --cpu-time counts seconds of the processor, for machines that do other work besides.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lit_od import Bundle, Preparation, Scorer
from lit_od.backbone.packaged import read_packaged, read_patches
from lit_od.backbone.patches import PatchGrid
from lit_od.bundle.folder import BACKBONE
from lit_od.bundle.model_file import TOLERANCE
from lit_od.calibration.p_values import Calibration
from lit_od.deploy.one_file import compile_bundle
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import open_engine
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.types import Images

EXPORTED = Path(__file__).parents[2] / "exported"
ASSETS = Path(__file__).parents[2] / "lit_od" / "assets"
LITE0 = "lit_od:tf_efficientnet_lite0"
RULE = {"rule": "percentile", "q": 95}
CALIBRATION = 100
BATCHES = (1, 32)

FEATURES: dict[str, dict[str, Any]] = {
    "mahalanobis": {"kind": "mahalanobis", "shrinkage": 0.3},
    "knn": {"kind": "knn"},
    "knn-fp16-cosine": {"kind": "knn", "metric": "cosine", "precision": "fp16"},
    "lof": {"kind": "lof"},
    "gmm": {"kind": "gmm"},
    "gmm-3": {"kind": "gmm", "components": 3, "covariance": "diag"},
    "pca_residual": {"kind": "pca_residual", "components": 0.9},
    "local_residual": {"kind": "local_residual"},
    "ensemble": {"kind": "ensemble", "members": [{"kind": "mahalanobis", "shrinkage": 0.3}, {"kind": "knn"}]},
}
PATCHES: dict[str, dict[str, Any]] = {
    "padim": {"kind": "padim"},
    "padim-fp16": {"kind": "padim", "precision": "fp16"},
    "patchcore": {"kind": "patchcore", "coreset": 2000},
    "patchcore-whiten": {"kind": "patchcore", "coreset": 2000, "whiten": True},
    "patchcore-reweight": {"kind": "patchcore", "coreset": 2000, "reweight": True},
    "mahalanobis": {"kind": "mahalanobis", "shrinkage": 0.3, "over": "patches"},
    "gmm": {"kind": "gmm", "over": "patches"},
    "pca_residual": {"kind": "pca_residual", "components": 0.9, "over": "patches"},
    "knn": {"kind": "knn", "coreset": 2000, "over": "patches"},
    "lof": {"kind": "lof", "coreset": 2000, "over": "patches"},
    "local_residual": {"kind": "local_residual", "coreset": 2000, "over": "patches"},
    "ensemble": {
        "kind": "ensemble",
        "members": [
            {"kind": "padim", "precision": "fp16"},
            {"kind": "patchcore", "coreset": 2000},
            {"kind": "patchcore", "coreset": 2000, "whiten": True},
        ],
    },
}


@dataclass(frozen=True)
class Case:
    """A backbone, its images, and the detectors that read it."""

    graph: GraphFile
    preparation: Preparation
    normal: Sequence[Source]
    test: Sequence[Source]
    detectors: dict[str, dict[str, Any]]

    def bundle(self, out: Path, detector: dict[str, Any], threads: int) -> Bundle:
        """Fit a detector, and calibrate it on the last of the normal images.

        Args:
            out: The bundle's folder.
            detector: Kind and options.
            threads: Threads of the backbone.
        """
        fit, calibration = self.normal[:-CALIBRATION], self.normal[-CALIBRATION:]
        engine = open_engine(self.graph.model, self.preparation, threads=threads)
        images = FitImages(fit, calibration)
        return fit_bundle(out, engine, self.graph, images, DetectorSpec.parse(detector), RULE, Origin(name=out.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("LIT_OD_DATA"))
    parser.add_argument("--bundles", default="digits,photos,patches,errors")
    parser.add_argument("--detectors", help="kinds by the names that the table has")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--fit", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    print(f"{'bundle':8} {'detector':19} {'difference':>10} flips p-values {'batch 1':>18} {'batch 32':>18}     MB")
    figures = {}
    for name in args.bundles.split(","):
        for detector, found in _measured(name, args):
            figures[f"{name} {detector}"] = found
    options = {name: getattr(args, name) for name in ("test", "fit", "threads", "cpu_time")}
    options["load"] = os.getloadavg()[0]
    print(json.dumps({**options, "onnxruntime": onnxruntime.__version__, "figures": figures}))


def _measured(name: str, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each detector of a bundle with its figures."""
    if name == "errors":
        bundle = Bundle.read(EXPORTED / "cats-autoencoder")
        test = _photographs(Path(args.data), "test", args.test)
        yield "reconstruction", _figures(name, "reconstruction", bundle, test, args)
        return
    case = _case(name, args)
    chosen = args.detectors.split(",") if args.detectors else list(case.detectors)
    for detector in chosen:
        if detector in case.detectors:
            with tempfile.TemporaryDirectory() as folder:
                bundle = case.bundle(Path(folder) / "bundle", case.detectors[detector], args.threads)
                yield detector, _figures(name, detector, bundle, case.test, args)


def _case(name: str, args: argparse.Namespace) -> Case:
    if name == "digits":
        shipped = Bundle.read(EXPORTED / "mnist-digits")
        graph = GraphFile(shipped.files[BACKBONE], shipped.manifest.model.opset)
        normal = find([f"{ASSETS}/digits.npz:train_images:0,1,2,3,4,5,6,7"])
        digits = evenly(find([f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7"]), args.test - args.test // 2)
        test = [*digits, *evenly(find([f"{ASSETS}/garments.npz:images"]), args.test // 2)]
        many = evenly(normal, 5 * args.fit + CALIBRATION)
        return Case(graph, shipped.manifest.preparation, many, test, FEATURES)
    data, preparation = Path(args.data), Preparation(size=(224, 224))
    normal = evenly(find([str(data / "cats_dogs" / "train" / "cats")]), args.fit + CALIBRATION)
    model, opset = read_packaged(LITE0)
    if name == "patches":
        layers = ["blocks.1", "blocks.2", "blocks.4"]
        model, opset = read_patches(LITE0, layers, PatchGrid(), preparation.shape)
    of_patches = PATCHES if name == "patches" else FEATURES
    return Case(GraphFile(model, opset), preparation, normal, _photographs(data, "test", args.test), of_patches)


def _photographs(data: Path, part: str, count: int) -> list[Source]:
    """Return cats and dogs, half of each."""
    kinds = [find([str(data / "cats_dogs" / part / kind)]) for kind in ("cats", "dogs")]
    return [*evenly(kinds[0], count - count // 2), *evenly(kinds[1], count // 2)]


def _figures(
    name: str, detector: str, bundle: Bundle, test: Sequence[Source], args: argparse.Namespace
) -> dict[str, Any]:
    """Compile a bundle, compare and time it, and print its line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        size = len(compile_bundle(bundle, file)) / 1e6
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    scorer = Scorer.of(bundle, threads=args.threads, providers=["cpu"])
    pixels = load(test, bundle.manifest.preparation, threads=args.threads)
    wanted = scorer.score(pixels)
    parts = [session.run(None, {"image": pixels[start : start + 32]}) for start in range(0, len(pixels), 32)]
    score, p_value, is_outlier = (np.concatenate([part[at] for part in parts]) for at in range(3))
    room = TOLERANCE * float(np.abs(wanted.score).max())
    sure = np.abs(wanted.score - bundle.calibration.threshold) > room
    found: dict[str, Any] = {
        "difference": float(np.abs(score - wanted.score).max() / np.abs(wanted.score).max()),
        "flips": int((is_outlier != wanted.is_outlier)[sure].sum()),
        "p_values": _outside(p_value, wanted.score, room, bundle.calibration),
        "outliers": int(is_outlier.sum()),
        "megabytes": size,
    }
    columns = []
    for batch in BATCHES:
        rates = _rates(session, scorer, pixels, batch, args)
        found[f"file_{batch}"], found[f"scorer_{batch}"], found[f"ratio_{batch}"] = rates
        columns.append(f"{rates[0]:7.1f}/{rates[1]:<6.1f} {rates[2]:.2f}")
    print(
        f"{name:8} {detector:19} {found['difference']:10.2g} {found['flips']:5} {found['p_values']:8} "
        f"{columns[0]:>18} {columns[1]:>18} {size:6.1f}",
        flush=True,
    )
    return found


def _outside(p_values: np.ndarray, scores: np.ndarray, room: float, calibration: Calibration) -> int:
    """Count p-values outside of those of score +- room."""
    low, high = calibration.p_values(scores + room), calibration.p_values(scores - room)
    return int(((p_values < low) | (p_values > high)).sum())


def _rates(
    session: Any, scorer: Scorer, pixels: Images, batch: int, args: argparse.Namespace
) -> tuple[float, float, float]:
    """Measure images a second of file and scorer in turns, and their median ratio."""
    calls: tuple[Callable[[Images], object], ...] = (lambda some: session.run(None, {"image": some}), scorer.score)
    taken: list[list[float]] = [[], []]
    clock = time.process_time if args.cpu_time else time.perf_counter
    end, turn = clock() + 2 * args.seconds, 0
    while clock() < end or turn < 6:
        start = batch * turn % max(1, len(pixels) - batch)
        for at in (0, 1) if turn % 2 else (1, 0):
            began = clock()
            calls[at](pixels[start : start + batch])
            taken[at].append(clock() - began)
        turn += 1
    file, own = (batch / statistics.median(each[1:]) for each in taken)  # the first turn warms up
    return file, own, statistics.median(b / a for a, b in zip(taken[0][1:], taken[1][1:], strict=True))


if __name__ == "__main__":
    main()
