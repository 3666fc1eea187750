"""Exported backbone + normal images -> detector, calibration, bundle: what fit, export and refit share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lit_od.backbone.extractor import extract
from lit_od.backbone.model import Backbone
from lit_od.bundle import folder as bundles
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import Bundle
from lit_od.bundle.golden import differences, make
from lit_od.bundle.manifest import (
    SCHEMA_VERSION,
    CalibrationEntry,
    DetectorEntry,
    Manifest,
    ModelEntry,
    Provenance,
    Tolerance,
)
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import require_applicable
from lit_od.detectors import Detector, Reconstruction
from lit_od.detectors.reconstruction import PIXEL_PERCENT, pixel_scores, pixel_threshold
from lit_od.errors import DataError
from lit_od.fitting.engine import bank_cost, finish, fit_detector, gather, partial_fit, score_all
from lit_od.fitting.shards import own_threads
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.identity import fingerprint
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source, class_numbers
from lit_od.runtime.processes import ALONE, Group
from lit_od.versions import VERSIONED, versions

__all__ = [
    "VERSIONED",
    "Origin",
    "class_numbers",
    "fingerprint",
    "fit_bundle",
    "fit_detector",
    "partial_fit",
    "score_all",
    "versions",
]


PIXELS = 2**24
"""Pixels of calibration images that the threshold for pixels is taken from, at most: 128 MiB of scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a bundle says of where it comes from.

    Attributes:
        name: The bundle's name.
        recipe: The recipe's tree, where there is one.
        seed: Seed of the run.
        metrics: Figures measured on the way.
        data: Further facts on the data.
    """

    name: str
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def fit_bundle(
    out: Path,
    *,
    model: bytes,
    preparation: Preparation,
    fit: Sequence[Source],
    calibration: Sequence[Source],
    detector: Mapping[str, Any],
    rule: Mapping[str, Any],
    origin: Origin,
    outliers: Sequence[Source] = (),
    validation: Sequence[Source] = (),
    opset: int | None = None,
    maps: bytes | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    group: Group = ALONE,
) -> Bundle:
    """Fit, calibrate, prove and write a bundle.

    Of several processes each runs the graph over its share of the images and scores its share; the first
    one merges what they have gathered, fits, proves and writes. All return the bundle.

    Args:
        out: The bundle's folder.
        model: The backbone's ONNX file.
        preparation: How every image is prepared.
        fit: Inliers that fit the detector.
        calibration: Inliers that calibrate it, used for nothing else.
        detector: `kind` and options.
        rule: `rule` and options.
        origin: What the bundle says of where it comes from.
        outliers: Labelled outliers, which rule max_f1 needs and no other takes.
        validation: Inliers that neither fit nor calibrate; they tell what a smaller bank of KNN costs, which the
            provenance's metrics then state.
        opset: The graph's opset, where it is known.
        maps: The ONNX file of heat maps, where there is one.
        threads: Threads of decoding and of the session; None is one a core, or a process' part of the cores.
        providers: Execution providers, as `Backbone.load` takes them; each process has a GPU of its own.
        group: The processes that do this together, all with the same arguments.

    Raises:
        ConfigError: If an option is wrong, or `out` is not free.
        DataError: If the images do not suffice, or one cannot be read.
    """
    if group.rank == 0:
        bundles.require_replaceable(out)
    if not calibration:
        raise DataError("no calibration images: give split.calibration a larger share, or pass more images")
    require_applicable(rule, inliers=len(calibration), outliers=len(outliers))  # before the work, not after it
    threads = own_threads(threads, group)
    backbone = Backbone.load(model, threads=threads, providers=providers, device=group.device)
    gathered = gather(backbone, preparation, fit, detector, threads=threads, group=group)
    fitted = finish(gathered, detector, threads=threads, group=group)
    cost = bank_cost(gathered, fitted, backbone, preparation, fit, validation, threads=threads, group=group)
    del gathered
    scores = score_all(backbone, preparation, fitted, calibration, threads=threads, what="calibrating", group=group)
    others = score_all(backbone, preparation, fitted, outliers, threads=threads, what="scoring outliers", group=group)
    calibrated = Calibration.from_inliers(scores, rule, outliers=others)
    if group.rank > 0:
        return _received(out, group)
    golden = make(calibration, preparation, backbone, fitted)
    if found := differences(golden, preparation, backbone, fitted, Tolerance()):
        raise DataError(f"the bundle does not score its own golden images as fitted: {found[0]}")
    used = {"fit": fit, "calibration": calibration, **({"outliers": outliers} if outliers else {})}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=origin.name,
        preparation=preparation,
        model=ModelEntry(
            input=backbone.input,
            input_shape=[None, *preparation.shape],
            output=backbone.output,
            output_shape=[None, *golden["outputs"].shape[1:]],
            opset=opset,
        ),
        detector=DetectorEntry(kind=fitted.kind, options=fitted.options(), images=len(fit)),
        calibration=CalibrationEntry(
            threshold=calibrated.threshold,
            rule=calibrated.rule,
            images=calibrated.scores.size,
            pixel_threshold=_pixel_threshold(backbone, preparation, fitted, calibration, threads),
        ),
        tolerance=Tolerance(),
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=origin.recipe,
            data={**origin.data, **{part: fingerprint(sources) for part, sources in used.items()}},
            seed=origin.seed,
            versions=versions(),
            metrics={**origin.metrics, **cost},
        ),
        files={},
    )
    files = {bundles.BACKBONE: model, bundles.GOLDEN: bundles.golden_bytes(golden)}
    if maps is not None:
        files[bundles.MAPS] = maps
    bundle = bundles.write(out, manifest, fitted, calibrated, files)
    if group.size > 1:
        sent = {**bundle.files, bundles.MANIFEST: manifests.encode(bundle.manifest)}
        group.broadcast(safetensors.save({name: np.frombuffer(data, np.uint8) for name, data in sent.items()}))
    return bundle


def _pixel_threshold(
    backbone: Backbone, preparation: Preparation, fitted: Detector, calibration: Sequence[Source], threads: int | None
) -> float | None:
    """What 99 % of the calibration inliers' pixels do not exceed, of as many images, evenly drawn, as fit in memory."""
    if not isinstance(fitted, Reconstruction):
        return None
    most = max(1, PIXELS // (preparation.shape[0] * preparation.shape[1]))
    rows = np.unique(np.linspace(0, len(calibration) - 1, min(most, len(calibration))).astype(int))
    pixels = extract(backbone, [calibration[row] for row in rows], preparation, threads=threads)
    return pixel_threshold(np.concatenate([pixel_scores(errors) for _, errors in pixels]), q=PIXEL_PERCENT)


def _received(out: Path, group: Group) -> Bundle:
    """The bundle that the first process has written."""
    files = {name: data.tobytes() for name, data in safetensors.load(group.broadcast(b"")).items()}
    manifest = manifests.decode(files.pop(bundles.MANIFEST))
    return Bundle.of_files(out, manifest, files)
