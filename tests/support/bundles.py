"""Bundles for tests, made in one call."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_od import Bundle, Preparation
from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import read_patches
from lit_od.backbone.patches import PatchGrid
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.engine import LocalEngine
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import open_engine
from lit_od.images.sources import Source
from lit_od.runtime.processes import ALONE, Group
from tests.support.images import GREY


def make_bundle(
    out: Path,
    *,
    model: bytes,
    fit: Sequence[Source],
    calibration: Sequence[Source],
    detector: Mapping[str, Any],
    rule: Mapping[str, Any],
    origin: Origin,
    preparation: Preparation = GREY,
    outliers: Sequence[Source] = (),
    validation: Sequence[Source] = (),
    opset: int | None = None,
    maps: bytes | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    group: Group = ALONE,
    trust: Collection[str] = (),
) -> Bundle:
    """Fit a bundle in this process, or in a process group."""
    return fit_bundle(
        out,
        open_engine(model, preparation, threads=threads, providers=providers, group=group),
        GraphFile(model, opset, maps),
        FitImages(fit, calibration, validation, outliers),
        DetectorSpec.parse(detector, trust),
        rule,
        origin,
    )


def mapped_bundle(out: Path, digits: Sequence[Source]) -> Bundle:
    """Fit a bundle that gives maps, on digits."""
    model, opset = read_patches("lit_od:tf_efficientnet_lite0", ["blocks.0", "blocks.1"], PatchGrid(8), (32, 32, 3))
    members = [{"kind": "padim", "components": 8, "precision": "fp16"}, {"kind": "patchcore", "coreset": 60}]
    return make_bundle(
        out,
        model=model,
        preparation=Preparation(size=(32, 32), mode="rgb"),
        fit=digits[:60],
        calibration=digits[800:840],
        detector={"kind": "ensemble", "members": members},
        rule={"rule": "percentile", "q": 90},
        origin=Origin(name="mapped", seed=0),
        opset=opset,
        threads=1,
    )


def local_engine(model: bytes, preparation: Preparation = GREY, threads: int | None = 1) -> LocalEngine:
    """The engine of this process over a graph."""
    return LocalEngine(Extractor(Backbone.load(model, threads=threads), preparation, threads))
