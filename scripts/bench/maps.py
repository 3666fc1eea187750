"""Test that heat maps point at the cause of an outlier's score.

    python scripts/bench/maps.py DATA --weights LITE0.safetensors [--cases boots,digits,cats,garments]
                                 [--outliers 200] [--normal 400] [--threads 1] [--checkpoint BEST.ckpt]

DATA holds MNIST and FashionMNIST as torchvision lays them out, and cats_dogs; WEIGHTS are timm's
tf_efficientnet_lite0, the network whose export ships with the package. All images are training images.
boots (against sneakers), digits (against threes) and cats (dogs against cats): the first normal images
fit the detectors of recipe `folder` on the shipped backbone. garments: against the digits of
exported/mnist-digits; its gradient maps need the CHECKPOINT of the same classifier.

The hottest tenth of each outlier's map is replaced by the pixels of the normal image that is nearest in
feature space, and so is the same mask moved elsewhere; printed are the mean falls of the outlier score,
their difference with its 95 % interval (paired bootstrap), seconds an image, and a JSON line.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lit_od import Scorer
from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import KNN, Detector, Mahalanobis
from lit_od.evaluation.deletion import pointing
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.images.split import fit_and_calibration
from lit_od.scoring.maps import heat_maps
from lit_od.scoring.similar_images import nearest_rows
from lit_od.training.data.torchvision_sets import open_set
from lit_od.training.explain.gradients import gradient_maps
from lit_od.training.frozen import FrozenBackbone
from lit_od.training.loop.checkpoints import load_module
from lit_od.types import Features, Images

EXPORTED = Path(__file__).parents[2] / "exported" / "mnist-digits"
CASES: dict[str, tuple[int, str, str]] = {
    "boots": (96, "fashion-mnist:train:7", "fashion-mnist:train:9"),
    "digits": (96, "mnist:train:3", "mnist:train:0,1,2,4,5,6,7,8,9"),
    "cats": (128, "cats_dogs/train/cats", "cats_dogs/train/dogs"),
}
SEED = 0


@dataclass(frozen=True)
class Case:
    """Outliers to explain, and the normal images whose pixels replace theirs."""

    name: str
    outliers: Images
    normal: Images
    scorers: dict[str, Scorer]
    module: torch.nn.Module | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cases", default="boots,digits,cats,garments")
    parser.add_argument("--outliers", type=int, default=200)
    parser.add_argument("--normal", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = {}
    for name in args.cases.split(","):
        case = _garments(args) if name == "garments" else _lite0(args, name)
        for detector, scorer in case.scorers.items():
            for kind, found in _measured(case, scorer).items():
                figures[f"{name} {detector} {kind}"] = found
    print(json.dumps({"outliers": args.outliers, "normal": args.normal, "share": 0.1, "figures": figures}))


def _measured(case: Case, scorer: Scorer) -> dict[str, dict[str, float]]:
    def features(images: Images) -> Features:
        return np.concatenate([scorer.backbone(images[start : start + 16]) for start in range(0, len(images), 16)])

    nearest, _ = nearest_rows(features(case.outliers), features(case.normal), 1)
    lent = case.normal[nearest[:, 0]]
    kinds: dict[str, Callable[[], np.ndarray]] = {"occlusion": lambda: heat_maps(scorer, case.outliers)}
    if case.module is not None:
        module = case.module
        kinds["gradient"] = lambda: gradient_maps(module, scorer.detector, case.outliers)
    figures = {}
    for kind, make in kinds.items():
        start = time.perf_counter()
        maps = make()
        seconds = (time.perf_counter() - start) / len(maps)
        found = pointing(
            lambda images: scorer.detector.score(features(images)),
            case.outliers,
            maps,
            lent,
            rng=np.random.default_rng(SEED),
        )
        print(f"{case.name:9}{scorer.detector.kind:12}{kind:10} {found.line()}, {seconds:.3f} s an image", flush=True)
        figures[kind] = {
            "top": float(found.top.mean()),
            "elsewhere": float(found.elsewhere.mean()),
            "difference": found.difference.value,
            "low": found.difference.low,
            "high": found.difference.high,
            "seconds": seconds,
        }
    return figures


def _lite0(args: argparse.Namespace, name: str) -> Case:
    side, inliers, outliers = CASES[name]
    preparation = Preparation(size=(side, side))
    normal, odd = _images(args, inliers, args.normal, preparation), _images(args, outliers, args.outliers, preparation)
    backbone = Backbone.load(backbone_file("lit_od:tf_efficientnet_lite0"), threads=args.threads)
    rows = np.concatenate([backbone(normal[start : start + 16]) for start in range(0, len(normal), 16)])
    fit, rest = fit_and_calibration(range(len(normal)), seed=SEED, share=0.2)
    detectors: dict[str, Detector] = {
        "mahalanobis": Mahalanobis.fit(rows[fit], shrinkage=0.3),
        "knn": KNN.fit(rows[fit], k=5),
    }
    scorers = {
        kind: Scorer(
            Extractor(backbone, preparation, args.threads),
            detector,
            Calibration.from_inliers(detector.score(rows[rest]), {"rule": "percentile", "q": 99}),
        )
        for kind, detector in detectors.items()
    }
    module = FrozenBackbone(
        network="tf_efficientnet_lite0",
        layers=["bn2"],
        unit_length=True,
        checkpoint_path=args.weights,
        image_size=(side, side),
    )
    return Case(name, odd, normal[fit], scorers, module)


def _garments(args: argparse.Namespace) -> Case:
    scorer = Scorer.load(EXPORTED, threads=args.threads)
    normal = _images(args, "mnist:train:0,1,2,3,4,5,6,7", 10 * args.normal, scorer.preparation)
    odd = _images(args, "fashion-mnist:train", args.outliers, scorer.preparation)
    module = load_module(args.checkpoint) if args.checkpoint else None
    if module is not None:
        with torch.no_grad():
            gap = np.abs(module.eval().backbone()(torch.from_numpy(odd)).numpy() - scorer.backbone(odd)).max()
        if gap > 1e-4:
            raise SystemExit(f"{args.checkpoint} is not the classifier of {EXPORTED}: features differ by {gap:.2g}")
    return Case("garments", odd, normal, {"mahalanobis": scorer}, module)


def _images(args: argparse.Namespace, path: str, count: int, preparation: Preparation) -> Images:
    return load(find([path], root=args.data, sets=open_set(args.data))[:count], preparation, threads=args.threads)


if __name__ == "__main__":
    main()
