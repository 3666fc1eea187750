"""Exported backbone + normal images -> detector, calibration, bundle: what fit, export and refit share."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lit_od import bundle as bundles
from lit_od.backbone import Backbone
from lit_od.bundle import Bundle
from lit_od.calibration import Calibration
from lit_od.detectors import KNN, Accumulator, Detector, accumulator
from lit_od.detectors.knn import KNNAccumulator
from lit_od.errors import DataError
from lit_od.extraction import extract
from lit_od.golden import differences, make
from lit_od.images import Preparation
from lit_od.loading import Batch
from lit_od.manifest import (
    SCHEMA_VERSION,
    CalibrationEntry,
    DetectorEntry,
    Manifest,
    ModelEntry,
    Provenance,
    Tolerance,
)
from lit_od.rules import require_applicable
from lit_od.sources import ImageArray, ImageFile, Source
from lit_od.threads import limited
from lit_od.types import Features, Labels, Scores

VERSIONED = (
    "lit-od",
    "numpy",
    "pillow",
    "faiss-cpu",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "lightning",
    "timm",
)
"""Distributions whose versions a bundle's provenance states, where they are installed."""

_ANY_NAME = "surrogateescape"
"""How names that are not Unicode are hashed: as the bytes they are."""


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
) -> Bundle:
    """Fit, calibrate, prove and write a bundle.

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
        threads: Threads of decoding and of the session; None is one a core.
        providers: Execution providers, as `Backbone.load` takes them.

    Raises:
        ConfigError: If an option is wrong, or `out` is not free.
        DataError: If the images do not suffice, or one cannot be read.
    """
    bundles.require_replaceable(out)
    if not calibration:
        raise DataError("no calibration images: give split.calibration a larger share, or pass more images")
    require_applicable(rule, inliers=len(calibration), outliers=len(outliers))  # before the work, not after it
    backbone = Backbone.load(model, threads=threads, providers=providers)
    gathered = _gathered(backbone, preparation, fit, detector, threads=threads)
    with limited(threads):
        fitted = gathered.finish()
    cost = _bank_cost(gathered, fitted, backbone, preparation, validation, threads=threads)
    del gathered
    scores = score_all(backbone, preparation, fitted, calibration, threads=threads, what="calibrating")
    others = score_all(backbone, preparation, fitted, outliers, threads=threads, what="scoring outliers")
    calibrated = Calibration.from_inliers(scores, rule, outliers=others)
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
            threshold=calibrated.threshold, rule=calibrated.rule, images=calibrated.scores.size
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
    return bundles.write(out, manifest, fitted, calibrated, files)


def fit_detector(
    backbone: Backbone,
    preparation: Preparation,
    sources: Sequence[Source],
    detector: Mapping[str, Any],
    *,
    threads: int | None = None,
) -> Detector:
    """A detector from what the backbone computes of inliers, one batch in memory at a time."""
    gathered = _gathered(backbone, preparation, sources, detector, threads=threads)
    with limited(threads):
        return gathered.finish()


def _gathered(
    backbone: Backbone,
    preparation: Preparation,
    sources: Sequence[Source],
    detector: Mapping[str, Any],
    *,
    threads: int | None,
) -> Accumulator:
    """What the backbone computes of inliers, gathered for a detector."""
    options = dict(detector)
    gathered = accumulator(str(options.pop("kind", None)), options)
    labels = class_numbers(sources) if options.get("class_conditional") else None
    done = 0
    with limited(threads), _progress(len(sources), "fitting") as bar:
        for batch, outputs in extract(backbone, sources, preparation, threads=threads):
            _require_sound(batch, outputs)
            gathered.update(outputs, None if labels is None else labels[done : done + len(outputs)])
            done += len(outputs)
            bar.update(len(outputs))
    return gathered


def _bank_cost(
    gathered: Accumulator,
    fitted: Detector,
    backbone: Backbone,
    preparation: Preparation,
    validation: Sequence[Source],
    *,
    threads: int | None,
) -> dict[str, Any]:
    """Rows, bytes and rank agreement of a bank that is smaller than the rows it was chosen from, as `bank`."""
    if not (isinstance(gathered, KNNAccumulator) and isinstance(fitted, KNN)) or not validation:
        return {}
    if gathered.store.samples or len(fitted.bank.rows) == gathered.store.seen:
        return {}
    rows = []
    for batch, outputs in extract(backbone, validation, preparation, threads=threads):
        _require_sound(batch, outputs)
        rows.append(outputs)
    with limited(threads):
        cost = gathered.cost(fitted, np.concatenate(rows))
    return {"bank": {"rows": cost.rows, "of_rows": cost.of_rows, "bytes": cost.size, "rank_agreement": cost.agreement}}


def score_all(
    backbone: Backbone,
    preparation: Preparation,
    detector: Detector,
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    what: str = "scoring",
) -> Scores:
    """Scores of images that must all be readable, shape (n,)."""
    scores = [np.empty(0)]
    with limited(threads), _progress(len(sources), what) as bar:
        for batch, outputs in extract(backbone, sources, preparation, threads=threads):
            _require_sound(batch, outputs)
            scores.append(detector.score(outputs))
            bar.update(len(outputs))
    return np.concatenate(scores)


def _require_sound(batch: Batch, outputs: Features) -> None:
    """Raise DataError if an image could not be read or the graph made no number of it, naming the first."""
    batch.require_readable()
    sound = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
    if not sound.all():
        raise DataError(
            f"{batch.sources[int(np.argmin(sound))].name}: the backbone gives NaN or infinity for this image. "
            "Take it out, or use another backbone"
        )


def class_numbers(sources: Sequence[Source]) -> Labels:
    """The class of each source as a number, classes in the order of their names, shape (n,).

    Raises:
        DataError: If a source has no label.
    """
    for source in sources:
        if source.label is None:
            raise DataError(
                f"a class-conditional detector needs a class for every image; {source.name} has none. "
                "Give class folders, or a .csv with a label column"
            )
    _, numbers = np.unique(np.array([source.label for source in sources], dtype=str), return_inverse=True)
    return numbers


def fingerprint(sources: Sequence[Source]) -> dict[str, Any]:
    """What a set of images was: how many, and a SHA-256 over names, labels and pixels or file sizes.

    Files are taken by name and size, not read again; images in memory by their pixels.
    """
    digest = hashlib.sha256()
    for source in sources:
        match source:
            case ImageFile():
                digest.update(
                    f"{source.path.name}\0{source.label}\0{source.path.stat().st_size}\n".encode(errors=_ANY_NAME)
                )
            case ImageArray():
                digest.update(f"{source.label}\0{source.pixels.shape}\0".encode(errors=_ANY_NAME))
                digest.update(source.pixels.tobytes())
            case _:
                digest.update(f"{source.name}\0{source.label}\n".encode(errors=_ANY_NAME))
    return {"images": len(sources), "sha256": digest.hexdigest()}


def versions() -> dict[str, str]:
    """Versions of Python and of the distributions that a result may depend on."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _progress(total: int, what: str) -> "tqdm[Any]":
    return tqdm(total=total, desc=what, unit="img", disable=None, leave=False)
