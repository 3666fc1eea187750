"""Compare int8 with float: time of the backbone, AUROC on test images.

    python scripts/bench/quantize.py DATA [--cases cats,digits,garments,mnist-digits] [--bits 7,8]
                                     [--detectors mahalanobis,knn] [--images 1500] [--test 500] [--threads 1]

DATA holds MNIST and FashionMNIST as torchvision lays them out, cats_dogs, and cifar10.npz. cats (against dogs), digits
(threes against the others) and garments (sneakers against boots) run on the shipped EfficientNet-Lite0 as recipe
`folder` prepares images; mnist-digits on exported/mnist-digits, against 8 and 9, garments and CIFAR-10. Both detectors
are fitted on the same images; the AUROC is that of test images. A lost AUROC has its 95 % interval (paired bootstrap).
Times are the least of runs in turns. Refusals of the gate are told, and the bundle is made all the same.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lit_od import Bundle, Preparation, Scorer
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import read_packaged
from lit_od.bundle.folder import BACKBONE
from lit_od.deploy import Int8Fitting, Int8Report
from lit_od.deploy.int8_report import speed_ratios
from lit_od.detectors.spec import DetectorSpec
from lit_od.evaluation.intervals import paired_bootstrap
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import open_engine
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.images.split import evenly, fit_validation_calibration
from lit_od.training.data.torchvision_sets import open_set

EXPORTED = Path(__file__).parents[2] / "exported" / "mnist-digits"
CASES: dict[str, tuple[str, str, dict[str, str]]] = {
    "cats": ("cats_dogs/train/cats", "cats_dogs/test/cats", {"dogs": "cats_dogs/test/dogs"}),
    "digits": ("mnist:train:3", "mnist:test:3", {"others": "mnist:test:0,1,2,4,5,6,7,8,9"}),
    "garments": ("fashion-mnist:train:7", "fashion-mnist:test:7", {"boots": "fashion-mnist:test:9"}),
    "mnist-digits": (
        "mnist:train:0,1,2,3,4,5,6,7",
        "mnist:test:0,1,2,3,4,5,6,7",
        {"8-9": "mnist:test:8,9", "fashion": "fashion-mnist:test", "cifar10": "cifar10.npz:test_images"},
    ),
}
"""Training inliers, test inliers and test outliers."""

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--bits", default="7,8")
    parser.add_argument("--detectors", default="mahalanobis,knn")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for case in args.cases.split(","):
        for bits in (int(each) for each in args.bits.split(",")):
            for kind in args.detectors.split(","):
                figures[f"{case} {kind} {bits}"] = _case(args, case, bits, kind)
    print(json.dumps({"images": args.images, "test": args.test, "threads": args.threads, "figures": figures}))


def _case(args: argparse.Namespace, case: str, bits: int, kind: str) -> dict[str, Any]:
    if case == "mnist-digits":
        shipped = Bundle.read(EXPORTED)
        model, opset = shipped.files[BACKBONE], shipped.manifest.model.opset
        preparation = shipped.manifest.preparation
        detector = {"kind": kind, "class_conditional": True} if kind == "mahalanobis" else {"kind": kind}
    else:
        model, opset = read_packaged("lit_od:tf_efficientnet_lite0")
        preparation = Preparation(size=(224, 224))
        detector = {"kind": kind, "shrinkage": 0.3} if kind == "mahalanobis" else {"kind": kind}
    train, test, outliers = CASES[case]
    fit, validation, calibration = fit_validation_calibration(_found(args, train, args.images), seed=SEED)
    reports: list[Int8Report] = []
    options = Int8Fitting(weight_bits=8 if bits == 8 else 7, force=True, tell=reports.append)
    with tempfile.TemporaryDirectory() as folder:
        scorers = []
        for name, make in (("float", fit_bundle), ("int8", options.fit_bundle)):
            bundle = make(
                Path(folder) / name,
                open_engine(model, preparation, threads=args.threads),
                GraphFile(model, opset),
                FitImages(fit, calibration, validation),
                DetectorSpec.parse(detector),
                {"rule": "percentile", "q": 99},
                Origin(name=name, seed=SEED),
            )
            scorers.append(Scorer.of(bundle, threads=args.threads))
    report = reports[0]
    sources = _found(args, test, args.test)
    speed = speed_ratios(
        Backbone.load(model, threads=args.threads),
        Backbone.load(report.choice.model, threads=args.threads),
        load(sources[:32], preparation, threads=args.threads),
    )
    found: dict[str, Any] = {
        "feature_error": report.choice.feature_error,
        "kept": list(report.choice.kept),
        "method": report.choice.method,
        "refused": report.gate.refused,
        "gate": {name: [each.value, each.low, each.high] for name, each in report.gate.change.items()},
        "speed": speed,
    }
    inliers = [_scores(scorer, sources) for scorer in scorers]
    for name, path in outliers.items():
        shown = _found(args, path, args.test)
        odd = [_scores(scorer, shown) for scorer in scorers]
        lost = paired_bootstrap((inliers[0], odd[0]), (inliers[1], odd[1]), rng=np.random.default_rng(SEED))
        found[f"lost against {name}"] = [lost.value, lost.low, lost.high]
    told = {name: each for name, each in found.items() if name.startswith("lost")}
    print(
        f"{case:13}{kind:12}{bits} bits: error {found['feature_error']:.1%}, speed {speed}, refused {found['refused']}"
    )
    print(
        "   "
        + ", ".join(f"{name} {v * 100:+.2f} ({a * 100:+.2f} to {b * 100:+.2f})" for name, (v, a, b) in told.items())
    )
    return found


def _scores(scorer: Scorer, sources: list[Source]) -> np.ndarray:
    return np.concatenate([each.score for each in scorer.stream(sources)])


def _found(args: argparse.Namespace, path: str, count: int) -> list[Source]:
    return evenly(find([path], root=args.data, sets=open_set(args.data)), count)


if __name__ == "__main__":
    main()
