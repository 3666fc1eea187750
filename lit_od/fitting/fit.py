"""Make a bundle of a backbone and images: the flow of fit, export and refit."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from lit_od.backbone.independence import IMAGES, require_independent
from lit_od.bundle import folder as bundles
from lit_od.bundle import manifest as manifests
from lit_od.bundle.detector_state import sums_bytes
from lit_od.bundle.folder import Bundle
from lit_od.bundle.golden import differences, make, relative_difference
from lit_od.bundle.history import Change
from lit_od.bundle.manifest import (
    SCHEMA_VERSION,
    CalibrationEntry,
    DetectorEntry,
    Manifest,
    ModelEntry,
    Provenance,
    Tolerance,
)
from lit_od.calibration.method import Method, shortfall
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import require_applicable
from lit_od.detectors.bank.detector import BankAccumulator, BankDetector
from lit_od.detectors.base import Detector
from lit_od.detectors.registry import DETECTORS
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.cross import Fit, cross_fit
from lit_od.fitting.engine import Engine, fit_detector
from lit_od.fitting.partial_state import PartialState
from lit_od.fitting.pixels import maps_for_pixels, threshold_for_pixels, with_peaks
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.augment import Augment
from lit_od.images.batching import load
from lit_od.images.identity import fingerprint
from lit_od.images.preparation import counted_pixels
from lit_od.images.sources import Source, tiled
from lit_od.images.split import evenly
from lit_od.images.views import Views, require_views
from lit_od.runtime.onnx_session import run_unoptimised
from lit_od.runtime.threads import limited
from lit_od.types import Arrays, WeightBits
from lit_od.versions import versions

INT8_ROUNDING = 2.0
"""Allowed difference of an int8 graph's outputs, in differences between two ways of running it on one machine."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Provenance that is written into a bundle's manifest and history.

    Attributes:
        name: The bundle's name.
        recipe: The recipe's tree, where there is one.
        seed: Seed of the run.
        metrics: Measured figures.
        data: Further facts on the data.
        keep_sums: Write the sums that `accept` adds images to, where the detector needs any.
        after: The bundle that is replaced, where its history goes on.
        note: Free text for the history.
    """

    name: str
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    keep_sums: bool = False
    after: Bundle | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class GraphFile:
    """The graphs that go into a bundle.

    Attributes:
        model: The backbone's ONNX file.
        opset: Its opset, where it is known.
        maps: The ONNX file of heat maps, where there is one.
        weight_bits: Bits of the weights, where the graphs are int8.
    """

    model: bytes
    opset: int | None = None
    maps: bytes | None = None
    weight_bits: WeightBits | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Return the graphs of a bundle."""
        model, bits = bundle.manifest.model, bundle.manifest.model.weight_bits
        weight_bits = None if isinstance(bits, msgspec.UnsetType) else bits
        return cls(bundle.files[bundles.BACKBONE], model.opset, bundle.files.get(bundles.MAPS), weight_bits)


@dataclass(frozen=True, slots=True)
class FitImages:
    """The images that a bundle is made of.

    No image is in two parts, but for `fit` and `calibration` of method cross, which are the same.

    Attributes:
        fit: Inliers that fit the detector.
        calibration: Inliers that calibrate it, used for nothing else.
        validation: Inliers by which the scores of a smaller bank are compared to the whole bank's, for the
            provenance's metrics.
        outliers: Labelled outliers, for rule max_f1 alone.
        method: With cross all images of `fit` calibrate too, each scored by a detector that was fitted without it.
        augment: Changes that make the views of each image that fit the detector; None fits on the images alone. Images
            of no other part are changed.
    """

    fit: Sequence[Source]
    calibration: Sequence[Source]
    validation: Sequence[Source] = ()
    outliers: Sequence[Source] = ()
    method: Method = "split"
    augment: Augment | None = None

    @property
    def views_each(self) -> int:
        """Number of views of an image that fit the detector."""
        return 1 if self.augment is None else self.augment.count

    def fitting(self, seed: int) -> Sequence[Source]:
        """Return the images that fit the detector, or their views, image by image."""
        return self.fit if self.augment is None else Views.of(self.fit, self.augment, seed=seed)

    def used(self) -> dict[str, Sequence[Source]]:
        """Return the parts that decide scores and threshold, by name."""
        return {"fit": self.fit, "calibration": self.calibration} | (
            {"outliers": self.outliers} if self.outliers else {}
        )


def fit_bundle(
    out: Path,
    engine: Engine,
    graph: GraphFile,
    images: FitImages,
    spec: DetectorSpec,
    rule: Mapping[str, Any],
    origin: Origin,
) -> Bundle:
    """Fit, calibrate, prove and write a bundle.

    Args:
        out: The bundle's folder.
        engine: The processes that do the work; they have loaded the graph's backbone.
        graph: The graphs.
        images: The images, by their use.
        spec: The detector.
        rule: `rule` and its options.
        origin: Provenance of the bundle.

    Returns:
        The bundle, in every process.

    Raises:
        BackboneError: If the graph's output for an image depends on the other images of its batch.
        ConfigError: If an option is invalid, the detector reads another output, or `out` is not free.
        DataError: If the images do not suffice, or one cannot be read.
    """
    if engine.leads:
        bundles.require_replaceable(out)
    preparation = engine.extractor.preparation
    spec = spec.with_map_size(*preparation.size).with_mask(counted_pixels(preparation)).with_views(images.views_each)
    if preparation.has_tiles:
        spec.require_tiles()
    if not images.calibration:
        raise DataError("no calibration images: give split.calibration a larger share, or pass more images")
    # before the work, not after it
    require_applicable(rule, inliers=len(images.calibration), outliers=len(images.outliers))
    _require_usable(engine, spec, images)
    fitted = _fitted(engine, spec, images, seed=origin.seed or 0)
    detector, gathered = fitted.detector, fitted.gathered
    cost = _bank_cost(engine, detector, gathered, images)
    sums = detector.sums_of(gathered.gathered) if origin.keep_sums and gathered is not None else None
    kept_sums = None if sums is None else sums_bytes(sums)
    del gathered, sums
    outliers = engine.score(detector, images.outliers, task="scoring outliers")
    calibration = Calibration.from_inliers(fitted.scores, rule, outliers=outliers, folds=fitted.folds)
    calibration = with_peaks(calibration, detector, fitted.pixels)
    for_pixels = threshold_for_pixels(detector, calibration, fitted.pixels)
    if not engine.leads:
        return _received(out, engine, detector)
    if line := shortfall(calibration.rule, calibration.scores.size, calibration.folds):
        _LOG.warning("lit-od: %s", line)
    extractor = engine.extractor
    golden = make(images.calibration, extractor.preparation, extractor.backbone, detector)
    if found := differences(golden, extractor.preparation, extractor.backbone, detector, Tolerance()):
        raise DataError(f"the bundle does not score its own golden images as fitted: {found[0]}")
    used = {part: fingerprint(sources) for part, sources in images.used().items()}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=origin.name,
        preparation=extractor.preparation,
        model=ModelEntry(
            input=extractor.backbone.input,
            input_shape=[None, *extractor.preparation.shape],
            output=extractor.backbone.output,
            output_shape=[None, *golden["outputs"].shape[1:]],
            opset=graph.opset,
            weight_bits=graph.weight_bits or msgspec.UNSET,
        ),
        detector=DetectorEntry(
            kind=spec.kind,
            options=detector.options(),
            images=len(images.fit),
            augment=msgspec.UNSET if images.augment is None else images.augment,
        ),
        calibration=CalibrationEntry(
            threshold=calibration.threshold,
            rule=calibration.rule,
            images=calibration.scores.size,
            pixel_threshold=for_pixels,
            method=msgspec.UNSET if fitted.folds is None else "cross",
            folds=msgspec.UNSET if fitted.folds is None else fitted.folds.count,
        ),
        tolerance=_tolerance(engine, graph, golden),
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=origin.recipe,
            data={**origin.data, **used},
            seed=origin.seed,
            versions=versions(),
            metrics={**origin.metrics, **cost},
        ),
        files={},
    )
    files = {bundles.BACKBONE: graph.model, bundles.GOLDEN: bundles.golden_bytes(golden)}
    if preparation.region is not None:
        files[bundles.MASK] = preparation.region[0]
    if graph.maps is not None:
        files[bundles.MAPS] = graph.maps
    if kept_sums is not None:
        files[bundles.ACCUMULATOR] = kept_sums
    change = None if origin.after is None else Change(command="refit", images=used, note=origin.note)
    bundle = bundles.write(out, manifest, detector, calibration, files, after=origin.after, change=change)
    if engine.size > 1:
        sent = {**bundle.files, bundles.MANIFEST: manifests.encode(bundle.manifest)}
        engine.share(safetensors.save({name: np.frombuffer(data, np.uint8) for name, data in sent.items()}))
    return bundle


def _fitted(engine: Engine, spec: DetectorSpec, images: FitImages, *, seed: int) -> Fit:
    """Fit the detector, and score the calibration inliers."""
    if images.method == "cross":
        return cross_fit(engine, spec, images.fitting(seed), seed=seed, views=images.views_each)
    detector, gathered = fit_detector(engine, spec, images.fitting(seed))
    scores = engine.score(detector, images.calibration, task="calibrating")
    return Fit(detector, gathered, scores, maps_for_pixels(engine, detector, images.calibration))


def _require_usable(engine: Engine, spec: DetectorSpec, images: FitImages) -> None:
    """Raise unless the detector can use the graph, and the images have their views.

    ConfigError or BackboneError says why.
    """
    extractor = engine.extractor
    gives, reads = extractor.backbone.output, spec.reads()
    if gives != reads:
        fitting = ", ".join(sorted(name for name, each in DETECTORS.items() if each.reads == gives))
        raise ConfigError(f"the graph gives {gives}, and detector {spec.kind} reads {reads}: choose {fitting}")
    if images.augment is not None:
        require_views(images.augment, extractor.preparation)
        if reads == "errors":
            raise ConfigError(f"detector {spec.kind} learns nothing from images: leave data.augment out")
    if engine.leads:
        chosen = tiled(evenly(images.calibration, min(IMAGES, len(images.calibration))), extractor.preparation)
        shown = load(evenly(chosen, min(IMAGES, len(chosen))), extractor.preparation, threads=extractor.threads)
        require_independent(extractor.backbone, shown)


def _tolerance(engine: Engine, graph: GraphFile, golden: Arrays) -> Tolerance:
    """Return the differences that golden images may show on other machines.

    Outputs of an int8 graph get room for rounding: a last bit that is rounded otherwise moves an activation by one of
    its 256 steps, and this moves others. How far that takes the outputs is seen by running the operators one by one.
    """
    if graph.weight_bits is None:
        return Tolerance()
    backbone = engine.extractor.backbone
    plain = run_unoptimised(graph.model, backbone.output, {backbone.input: golden["pixels"]})
    gap = INT8_ROUNDING * relative_difference(golden["outputs"], plain)
    return Tolerance(outputs=min(1.0, max(Tolerance().outputs, gap)))


def _bank_cost(engine: Engine, detector: Detector, gathered: PartialState | None, images: FitImages) -> dict[str, Any]:
    """Measure a bank that is smaller than the rows it was chosen from.

    Returns:
        Rows, bytes and rank agreement under `bank`; nothing for other banks and detectors, nor where validation images
        are too few or too alike to be ranked.
    """
    if not isinstance(detector, BankDetector) or not images.validation:
        return {}
    if detector.settings.method_of() == "sample" or len(detector.bank.rows) == len(images.fit) * images.views_each:
        return {}
    outputs = engine.outputs(images.validation)
    if gathered is None or not isinstance(gathered.gathered, BankAccumulator):
        return {}
    with limited(engine.extractor.threads), suppress(DataError):  # raised where the scores do not vary
        cost = gathered.gathered.cost(detector, outputs)
        figures = {"rows": cost.rows, "of_rows": cost.of_rows, "bytes": cost.size, "rank_agreement": cost.agreement}
        return {"bank": figures}
    return {}


def _received(out: Path, engine: Engine, detector: Detector) -> Bundle:
    """Return the bundle that the leading process has written."""
    files = {name: data.tobytes() for name, data in safetensors.load(engine.share(b"")).items()}
    manifest = manifests.decode(files.pop(bundles.MANIFEST))
    return Bundle.of_files(out, manifest, files, trust=(detector.kind,))
