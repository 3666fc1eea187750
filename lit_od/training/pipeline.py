"""The whole job from a recipe: train, export, and all that follows without torch."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from lit_od.bundle import Bundle, require_replaceable
from lit_od.calibration import check_rule
from lit_od.detectors import accumulator
from lit_od.errors import ConfigError, DataError
from lit_od.fit import Origin, fit_bundle
from lit_od.loading import load
from lit_od.recipe import PACKAGED_DATA, Recipe, to_tree
from lit_od.training.data import ImageData
from lit_od.training.export import export_backbone
from lit_od.training.train import train

PARITY_IMAGES = 64
"""Real images on which an exported graph must agree with its module."""


def fit(recipe: Recipe, out: Path, *, run: Path | None = None, threads: int | None = None) -> Bundle:
    """Train the recipe's model, export it, fit the detector, calibrate, prove and write the bundle.

    Args:
        recipe: What to do.
        out: The bundle's folder; free, empty, or a bundle to replace.
        run: Folder that keeps checkpoint, log and curves. None throws them away.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.

    Raises:
        ConfigError: If the recipe cannot be carried out, or `out` is not free.
        DataError: If the images do not suffice.
        ExportError: If the exported graph does not compute what the module computes.
    """
    require_replaceable(out)
    check_rule(recipe.calibration)  # before the training, not after it
    accumulator(str(recipe.detector["kind"]), {key: each for key, each in recipe.detector.items() if key != "kind"})
    with tempfile.TemporaryDirectory(prefix="lit_od-run-") as temporary:
        trained = train(recipe, run or Path(temporary))
        return export_bundle(trained.module, trained.data, recipe, out, metrics=trained.metrics, threads=threads)


def portable_tree(recipe: Recipe) -> dict[str, Any]:
    """A recipe's tree without the folder where this machine keeps its data."""
    tree = to_tree(recipe)
    if recipe.data.root != PACKAGED_DATA:
        tree["data"]["root"] = None
    return tree


def export_bundle(
    module: lightning.LightningModule,
    data: ImageData,
    recipe: Recipe,
    out: Path,
    *,
    metrics: dict[str, float] | None = None,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Bundle:
    """Export a trained module, fit the recipe's detector on what the graph computes, and write the bundle.

    Args:
        module: A trained module with a `backbone()`: uint8 (n, h, w, c) to what the detector reads.
        data: Its images; the train part fits the detector, the calibration part calibrates it.
        recipe: Detector, calibration and export options.
        out: The bundle's folder.
        metrics: Figures of the training, for the provenance.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
        providers: Execution providers, as `Backbone.load` takes them.
    """
    require_replaceable(out)
    backbone = getattr(module, "backbone", None)
    if not callable(backbone):
        raise ConfigError(f"{type(module).__name__} has no backbone(): wanted the module that is to be exported")
    fit_sources, calibration_sources = data.sources("train"), data.sources("calibration")
    if not calibration_sources:
        raise DataError("no calibration images: give data.split.calibration a share above 0")
    rows = np.linspace(0, len(calibration_sources) - 1, min(PARITY_IMAGES, len(calibration_sources))).astype(int)
    images = load([calibration_sources[row] for row in rows], recipe.data.prepare, threads=threads)
    with tempfile.TemporaryDirectory(prefix="lit_od-export-") as folder:
        graph = Path(folder) / "backbone.onnx"
        report = export_backbone(backbone(), graph, images, opset=recipe.export.opset)
        model = graph.read_bytes()
    origin = Origin(
        name=out.name,
        recipe=portable_tree(recipe),
        seed=recipe.seed,
        metrics={**(metrics or {}), "export_parity": max(report.differences.values())},
    )
    return fit_bundle(
        out,
        model=model,
        preparation=recipe.data.prepare,
        fit=fit_sources,
        calibration=calibration_sources,
        detector=recipe.detector,
        rule=recipe.calibration,
        origin=origin,
        opset=recipe.export.opset,
        threads=threads,
        providers=providers,
    )
