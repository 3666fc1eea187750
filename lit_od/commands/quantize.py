"""Bring a bundle's backbone to int8, and fit the rest anew, without torch.

The normal images are divided into fit (60 %), validation (20 %) and calibration parts, by seed. The fit part gives the
ranges of activations and the detector's statistics; the validation part chooses the ranges (min-max, entropy,
percentile) and the layers that stay in float; the calibration part gives the threshold, by the bundle's rule.

Float and int8 score the validation images and outliers made of them (a part pasted elsewhere, blur, noise), and real
ones with --outliers. If the 95 % interval of the change of AUROC reaches below -0.3 points, nothing is written
(--force writes all the same).

Weights have 7 bits, with which every processor computes the same sums. With --target vnni they have 8: closer to
float, and as fast where processors have VNNI. Int8 needs the package onnx: pip install "lit-od[quantize,cpu]".

  lit-od quantize BUNDLE NORMAL_IMAGES --out SMALL
  lit-od quantize BUNDLE NORMAL_IMAGES --out SMALL --outliers scratch=scratches/ --target vnni
"""

import argparse
import sys
import time
from pathlib import Path

from lit_od.checks import check_seed
from lit_od.commands._arguments import add_session_arguments, no_overrides, read_bundle_folder, session_options
from lit_od.commands._evaluation_sets import by_name
from lit_od.commands._new_images import add_new_image_arguments, new_inliers, require_labels
from lit_od.commands._status import DONE, written
from lit_od.deploy.int8_bundle import quantize
from lit_od.deploy.int8_fitting import Int8Fitting
from lit_od.deploy.int8_report import Int8Report
from lit_od.detectors.spec import DetectorSpec
from lit_od.images.find_local import find
from lit_od.images.normal_folders import find_all_normal
from lit_od.runtime.onnx_session import onnx_quantization


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the float bundle")
    parser.add_argument(
        "--out", metavar="BUNDLE2", required=True, help="folder of the int8 bundle; a bundle is replaced"
    )
    add_new_image_arguments(parser)
    parser.add_argument(
        "--outliers",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="real outliers for the gate; may be repeated",
    )
    parser.add_argument("--target", choices=("any", "vnni"), default="any", help="processors that score (any)")
    parser.add_argument("--force", action="store_true", help="write the bundle even if int8 may lose too much")
    add_session_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the int8 bundle, and print what it costs and gains."""
    no_overrides(overrides)
    check_seed(args.seed)
    onnx_quantization()  # before any image is read
    started = time.perf_counter()
    bundle = read_bundle_folder(args.bundle, args)
    entry = bundle.manifest.detector
    require_labels(DetectorSpec(entry.kind, entry.options, args.trust), args.labels)
    new = quantize(
        bundle,
        new_inliers(args, find_all_normal),
        Path(args.out),
        seed=args.seed,
        options=Int8Fitting(
            weight_bits=8 if args.target == "vnni" else 7,
            force=args.force,
            against={name: find(paths) for name, paths in by_name(args.outliers).items()},
            tell=_tell,
        ),
        **session_options(args),
    )
    print(written(new, time.perf_counter() - started))
    return DONE


def _tell(report: Int8Report) -> None:
    """Print a report, and a warning where int8 is not faster on standard error."""
    print(report.text())
    if report.slow is not None:
        print(f"lit-od: {report.slow}", file=sys.stderr)
