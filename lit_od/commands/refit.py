"""Fit the statistics of a bundle anew on new normal images, without torch.

The images are split into a part that fits (80 %) and one that calibrates (20 %), by seed; where a fifth of them is too
few for the rule's rate, or with --calibration.method cross, all of them fit, and calibrate as scored by detectors that
were fitted without them. The bundle's threshold rule is applied anew (max_f1 with --outliers) and its golden images are
renewed. Options of the detector and of the calibration: --detector.k 5, --calibration.rule percentile --calibration.q
99.5 ... Another rule begins with its own defaults, the bundle's own rule keeps its options. Views of the images fit as
they did, or as --data.augment.turns true, --data.augment.views 4 ... say; --data.augment null takes the images alone.

Where --out names BUNDLE itself, its history goes on: lit-od history and rollback.

--engine ray runs the graph on a Ray cluster and merges its workers' statistics; PATHs as in lit-od score.

  lit-od refit BUNDLE images/ --out NEW
  lit-od refit BUNDLE images/ --detector knn --detector.k 3 --out NEW
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import ACCUMULATOR, BACKBONE, Bundle
from lit_od.calibration.method import CalibrationOptions
from lit_od.checks import check_seed
from lit_od.cluster.engine import RayEngine
from lit_od.commands._arguments import (
    add_engine_arguments,
    add_note_argument,
    add_outliers_argument,
    add_session_arguments,
    no_overrides,
    open_cluster,
    read_bundle_folder,
    require_engine,
    say_imported,
    session_options,
)
from lit_od.commands._new_images import add_new_image_arguments, new_inliers, require_labels
from lit_od.commands._status import DONE, written
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.fitting.engine import Engine
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import open_engine
from lit_od.images.augment import Augment
from lit_od.images.find_local import find
from lit_od.images.find_remote import find_with_urls, require_listed_once, require_parts_apart
from lit_od.images.identity import require_apart, require_once
from lit_od.images.normal_folders import find_all_normal
from lit_od.images.sources import Source
from lit_od.images.split import fit_and_calibration_parts, held_out_images
from lit_od.recipes.load import read_augment
from lit_od.recipes.overrides import apply, parse_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of the bundle whose backbone is used")
    parser.add_argument(
        "--out", metavar="BUNDLE2", required=True, help="folder of the new bundle; a bundle is replaced"
    )
    parser.add_argument("--detector", metavar="KIND", help="another detector than the bundle's, with its defaults")
    add_new_image_arguments(parser)
    add_outliers_argument(parser)
    add_note_argument(parser)
    add_session_arguments(parser)
    add_engine_arguments(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the new bundle and describe it."""
    out = Path(args.out)
    check_seed(args.seed)
    require_engine(args, "address", "workers")
    started = time.perf_counter()
    bundle = read_bundle_folder(args.bundle, args)
    spec, wanted, augment = _options(bundle, args, overrides)
    spec.check()  # options and installed packages, before any image is read
    if spec.kind != bundle.detector.kind:
        say_imported(args, spec.kind)
    require_labels(spec, args.labels, ", or --detector.class_conditional false")
    cluster = args.engine == "ray"
    inliers = new_inliers(args, partial(find_with_urls, local=find_all_normal) if cluster else find_all_normal)
    images = _divided(inliers, args, wanted)
    find_outliers = find_with_urls if cluster else find
    outliers = find_outliers(wanted.outliers) if wanted.outliers else []
    images = replace(images, outliers=outliers, augment=augment)
    model, old = bundle.files[BACKBONE], bundle.manifest
    with ExitStack() as stack:
        engine: Engine
        if cluster:
            pool = stack.enter_context(open_cluster(args))
            # this process runs a few golden images: the GPUs are the workers'
            backbone = Backbone.load(model, threads=args.threads, providers=["cpu"])
            engine = RayEngine(Extractor(backbone, old.preparation, args.threads), pool)
        else:
            engine = open_engine(model, old.preparation, **session_options(args))
        new = fit_bundle(
            out,
            engine,
            GraphFile.of(bundle),
            images,
            spec,
            wanted.rule,
            Origin(
                name=out.name,
                seed=args.seed,
                data={"refit_of": old.name},
                keep_sums=ACCUMULATOR in old.files,
                after=bundle if out.resolve() == bundle.path.resolve() else None,
                note=args.note,
            ),
        )
    print(written(new, time.perf_counter() - started))
    return DONE


def _divided(images: Sequence[Source], args: argparse.Namespace, wanted: CalibrationOptions) -> FitImages:
    """Divide images by the method of calibration; none is named twice."""
    cluster = args.engine == "ray"
    if wanted.method_for(held_out_images(len(images))) == "cross":
        (require_listed_once if cluster else require_once)(images)
        return FitImages(images, images, method="cross")
    fit, calibration = fit_and_calibration_parts(images, seed=args.seed)
    (require_parts_apart if cluster else require_apart)(fit, calibration, "fit and calibration image")
    return FitImages(fit, calibration)


def _options(
    bundle: Bundle, args: argparse.Namespace, overrides: list[str]
) -> tuple[DetectorSpec, CalibrationOptions, Augment | None]:
    """Return detector, options of calibration and views that arguments name."""
    entry, kind = bundle.manifest.detector, args.detector
    options = {key: value for key, value in entry.options.items() if key != "views"}
    tree: dict[str, Any] = {
        "detector": {"kind": entry.kind, **options} if kind is None else {"kind": kind},
        "calibration": {key: value for key, value in bundle.calibration.rule.items() if key != "outliers"},  # a number
        "data": {"augment": msgspec.to_builtins(entry.augment) if isinstance(entry.augment, Augment) else None},
    }
    for path, _ in parse_overrides(overrides):
        part, _, key = path.partition(".")
        if (
            part not in tree
            or not key
            or path == "detector.kind"
            or (part == "data" and key.split(".")[0] != "augment")
        ):
            no_overrides([f"--{path}"])
    apply(tree, overrides)
    rule = tree["calibration"]
    if rule["rule"] == "value":
        raise ConfigError(
            "the bundle's threshold was set by hand and cannot be applied anew: give --calibration.rule, percentile "
            "for one"
        )
    if args.outliers:
        rule["outliers"] = args.outliers
    augment = read_augment(tree["data"]["augment"])
    return DetectorSpec.parse(tree["detector"], trust=args.trust), CalibrationOptions.parse(rule), augment
