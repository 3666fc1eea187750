"""Compile a bundle into one ONNX file, for any runtime of ONNX.

The file takes prepared images and gives scores, p-values, verdicts and, where the detector has them, maps. It is
written once it scores the bundle's golden images as the bundle does. lit-od score, verify, inspect, threshold, serve
and bench take it in the place of a bundle. One with a region of interest needs a file that resizes: the mask is laid
on frames before. One with tiles gives a file that takes tiles of one size; who reads it cuts images and joins maps, as
lit-od score and runners/python do.

  lit-od compile BUNDLE --out model.onnx
  lit-od threshold model.onnx --value 12.5
  lit-od compile BUNDLE --out model.onnx --golden golden

--golden writes images with what the file must give for them, to prove it in other runtimes.
"""

import argparse
from pathlib import Path

from lit_od.bundle.model_file import read_model
from lit_od.commands._arguments import add_trust_argument, no_overrides, read_bundle_folder
from lit_od.commands._status import DONE
from lit_od.deploy.golden_set import require_golden_folder, write_golden_set
from lit_od.deploy.one_file import compile_bundle
from lit_od.errors import ConfigError
from lit_od.formats.onnx_parts import take_apart, versions_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--out", metavar="MODEL.onnx", required=True, help="the file; one that is there is replaced")
    parser.add_argument(
        "--resize",
        choices=("graph",),
        help="take frames of any size, though the bundle's images are resized by Pillow: within two levels of 255; "
        "refused where that moves a golden image's score by more than 1 %% of the calibration scores' quartile range",
    )
    parser.add_argument(
        "--golden",
        metavar="DIR",
        type=Path,
        help="folder for images with what the file must give for them; an older one is replaced",
    )
    add_trust_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the model file and describe it.

    Raises:
        ConfigError: If --out has another ending.
    """
    no_overrides(overrides)
    bundle, out = read_bundle_folder(args.bundle, args), Path(args.out)
    if out.suffix != ".onnx":
        raise ConfigError(f"--out {out} must end in .onnx")
    if args.golden is not None:
        require_golden_folder(args.golden)
    data = compile_bundle(bundle, out, resize=args.resize is not None)
    parts, versions = take_apart(data), versions_of(data)
    print(
        f"{out}: {bundle.manifest.detector.kind}, {len(parts.nodes):,} nodes of opset {versions.opset}, "
        f"{len(data) / 2**20:.1f} MiB; golden images score as the bundle's"
    )
    if args.golden is not None:
        images = write_golden_set(bundle, read_model(out).manifest.preparation, args.golden)
        print(f"{args.golden}: {images} golden images with what they must give")
    print(f"Try it: lit-od score {out} IMAGES...")
    return DONE
