"""Fit a bundle over the int8 form of a graph, and judge it beside float.

The int8 graph is chosen by fit and validation images; the detector, the threshold and the golden images are made anew
on what it computes. Both detectors then score the same validation images and outliers, and an int8 graph that may cost
too much is refused.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lit_od.backbone.int8 import FloatGraph
from lit_od.bundle import folder as bundles
from lit_od.bundle.folder import Bundle, golden_arrays
from lit_od.deploy.int8_choice import Int8Choice, choose_int8
from lit_od.deploy.int8_gate import MOST_LOST, Fitted, compare
from lit_od.deploy.int8_report import Int8Report, speed_ratios
from lit_od.detectors.bank.coreset import rank_agreement
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import BackboneError, ConfigError, DataError
from lit_od.evaluation.intervals import exact_binomial
from lit_od.fitting.engine import Engine, fit_detector
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import open_engine
from lit_od.images.sources import Source
from lit_od.images.split import evenly, fit_and_calibration_parts
from lit_od.types import Scores, WeightBits

LEAST_VALIDATION = 10
"""Least validation images: with fewer, no interval is worth its name."""

HALF_IMAGES = 1000
"""Most images of each half by which two float fits are compared."""


def _ignore(report: Int8Report) -> None:
    """Do nothing with a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Fitting:
    """Options of a fit over an int8 graph.

    Attributes:
        weight_bits: 7 for weights that no processor saturates; 8 for processors with VNNI.
        force: Write the bundle even if int8 may lose too much.
        against: Real outliers by name, for the gate; nothing is fitted on them.
        tell: Receives the report, before a refusal too.
    """

    weight_bits: WeightBits = 7
    force: bool = False
    against: Mapping[str, Sequence[Source]] = field(default_factory=dict)
    tell: Callable[[Int8Report], None] = _ignore

    def fit_bundle(
        self,
        out: Path,
        engine: Engine,
        graph: GraphFile,
        images: FitImages,
        spec: DetectorSpec,
        rule: Mapping[str, Any],
        origin: Origin,
    ) -> Bundle:
        """Quantise a graph, and fit, judge and write a bundle over it.

        The arguments are those of `fitting.fit.fit_bundle`.

        Args:
            out: The bundle's folder.
            engine: This process, which has loaded the float graph.
            graph: The float graphs.
            images: The images, by their use; the validation part chooses and judges the int8 graph.
            spec: The detector.
            rule: `rule` and its options.
            origin: Provenance of the bundle.

        Raises:
            BackboneError: If the graph cannot be quantised, or int8 may lose too much.
            ConfigError: If an option is invalid, several processes fit together, or `out` is not free.
            DataError: If the images do not suffice, or one cannot be read.
            MissingExtra: If onnx is not installed.
        """
        require_alone(engine.size)
        if len(images.validation) < LEAST_VALIDATION:
            raise DataError(
                f"int8 is judged by validation images: wanted at least {LEAST_VALIDATION}, got "
                f"{len(images.validation)}. Pass more images, or give data.split.validation a larger share"
            )
        if engine.extractor.preparation.has_tiles:
            raise ConfigError("int8 is chosen and judged by whole images: leave data.tile or int8 out")
        bundles.require_replaceable(out)
        extractor, bits = engine.extractor, self.weight_bits
        choice = choose_int8(
            extractor, FloatGraph.read(graph.model), images.fit, images.validation, weight_bits=bits, maps=graph.maps
        )
        provider = extractor.backbone.provider
        int8 = open_engine(choice.model, extractor.preparation, threads=extractor.threads, providers=[provider])
        with tempfile.TemporaryDirectory(prefix="lit_od-int8-") as folder:
            files = GraphFile(choice.model, graph.opset, choice.maps, bits)
            made = fit_bundle(Path(folder) / "bundle", int8, files, images, spec, rule, origin)
        report = self._report(engine, Fitted(int8, made.detector), made, choice, images, spec)
        self.tell(report)
        if report.gate.refused and not self.force:
            raise BackboneError(
                f"int8 may lose {report.gate.most_lost * 100:.2f} points of AUROC, at most {MOST_LOST * 100:g} are "
                "allowed: take 8-bit weights where processors have VNNI (--target vnni), more images, or --force"
            )
        return _write(out, made, report)

    def _report(
        self, engine: Engine, in_int8: Fitted, made: Bundle, choice: Int8Choice, images: FitImages, spec: DetectorSpec
    ) -> Int8Report:
        seed = made.manifest.provenance.seed or 0
        in_views = spec.with_views(images.views_each)
        in_float = Fitted(engine, fit_detector(engine, in_views, images.fitting(seed))[0])
        gate = compare(in_float, in_int8, images.validation, self.against, seed=seed)
        flagged = made.calibration.is_outlier(gate.normal[1])
        return Int8Report(
            choice=choice,
            gate=gate,
            agreement=_agreement(*gate.normal),
            halves=_halves(engine, spec, images, seed),
            flagged=exact_binomial(int(flagged.sum()), len(flagged)),
            speed=speed_ratios(
                engine.extractor.backbone, in_int8.engine.extractor.backbone, golden_arrays(made)["pixels"]
            ),
        )


def require_alone(processes: int) -> None:
    """Raise ConfigError if several processes fit together."""
    if processes > 1:
        raise ConfigError("int8 is made by one process: fit in float, and then run lit-od quantize")


def _agreement(scores: Scores, others: Scores) -> float | None:
    with suppress(DataError):  # raised where the scores do not vary
        return rank_agreement(scores, others)
    return None


def _halves(engine: Engine, spec: DetectorSpec, images: FitImages, seed: int) -> float | None:
    """Compare ranks of validation images by float fits on disjoint halves."""
    with suppress(DataError, ConfigError):  # raised where half of the images do not suffice
        halves = fit_and_calibration_parts(images.fit, seed=seed, share=0.5)
        detectors = [fit_detector(engine, spec, evenly(half, HALF_IMAGES))[0] for half in halves]
        shown = evenly(images.validation, HALF_IMAGES)
        return rank_agreement(*(engine.score(each, shown, task="scoring by halves") for each in detectors))
    return None


def _write(out: Path, made: Bundle, report: Int8Report) -> Bundle:
    """Write the bundle in its place, with figures of the report."""
    manifest, change = made.manifest, msgspec.structs.replace
    metrics = {**manifest.provenance.metrics, "int8": report.metrics()}
    return bundles.write(
        out,
        change(manifest, provenance=change(manifest.provenance, metrics=metrics)),
        made.detector,
        made.calibration,
        {name: data for name, data in made.files.items() if name in bundles.MADE},
    )
