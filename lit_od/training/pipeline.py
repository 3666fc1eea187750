"""The whole job from a recipe: train where there is something to train, export, and all that follows without torch."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from lit_od.bundle.folder import Bundle, require_replaceable
from lit_od.calibration.rules import require_applicable, rule_and_outliers
from lit_od.detectors.registry import accumulator
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.fit import Origin, fit_bundle
from lit_od.fitting.from_recipe import fit_onnx, require_no_run
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.import_paths import imported
from lit_od.recipes.load import portable_tree, without_training
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import ModelConfig, Recipe
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.torchvision_sets import open_set
from lit_od.training.distributed import process_group
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.export.map_graph import export_maps
from lit_od.training.export.outputs import maps_of, output_of, require_readable
from lit_od.training.frozen import is_frozen
from lit_od.training.loop.train import train
from lit_od.training.loop.trainer import make_module, module_arguments, seeded
from lit_od.types import Images

PARITY_IMAGES = 64
"""Real images on which an exported graph must agree with its module."""


def fit(recipe: Recipe, out: Path, *, run: Path | None = None, threads: int | None = None) -> Bundle:
    """Train the recipe's model, export it, fit the detector, calibrate, prove and write the bundle.

    Nothing is trained where the model's class says `frozen = True`, or the recipe's backbone is an ONNX file.
    Of several processes the first one exports and writes; all share the rest, and return the bundle.

    Args:
        recipe: What to do.
        out: The bundle's folder; free, empty, or a bundle to replace.
        run: Folder that keeps a training's checkpoint, log and curves. None throws them away.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.

    Raises:
        ConfigError: If the recipe cannot be carried out, or `out` is not free.
        DataError: If the images do not suffice.
        ExportError: If the exported graph does not compute what the module computes.
    """
    if process_group().rank == 0:
        require_replaceable(out)
    if recipe.model is None:
        require_no_run(run)
        return fit_onnx(recipe, out, sets=open_set(data_root(recipe.data.root)), threads=threads, group=process_group())
    accumulator(str(recipe.detector["kind"]), {key: each for key, each in recipe.detector.items() if key != "kind"})
    kind = imported(recipe.model.class_path, nn.Module, "model.class_path")
    require_readable(kind, recipe.detector)
    if is_frozen(kind):
        require_no_run(run)
        model = recipe.model
        recipe = without_training(recipe, f"{model.class_path} is frozen")
        data = ImageData(recipe.data, seed=recipe.seed)
        return export_bundle(_frozen_module(model, data, recipe.seed), data, recipe, out, threads=threads)
    rule, outliers = rule_and_outliers(recipe.calibration)
    calibrating = ImageData(recipe.data, seed=recipe.seed).sources("calibration")
    require_applicable(rule, inliers=len(calibrating), outliers=len(outliers))  # before the training, not after it
    with tempfile.TemporaryDirectory(prefix="lit_od-run-") as temporary:
        trained = train(recipe, run or Path(temporary))
        return export_bundle(trained.module, trained.data, recipe, out, metrics=trained.metrics, threads=threads)


def _frozen_module(model: ModelConfig, data: ImageData, seed: int) -> nn.Module:
    kind, init_args = module_arguments(model, data)
    with seeded(seed):  # weights may be random
        return make_module(kind, init_args)


def export_bundle(
    module: nn.Module,
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
        module: A trained module with a `backbone()`: uint8 (n, h, w, c) to what the detector reads, which is
            its attribute `output` names, "features" where it has none; perhaps with `maps()`, see `export_maps`.
        data: Its images; the train part fits the detector, and with a frozen module the validation part
            too; the calibration part calibrates it.
        recipe: Detector, calibration and export options.
        out: The bundle's folder.
        metrics: Figures of the training, for the provenance.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
        providers: Execution providers, as `Backbone.load` takes them.
    """
    group = process_group()
    if group.rank == 0:
        require_replaceable(out)
    backbone = getattr(module, "backbone", None)
    if not callable(backbone):
        raise ConfigError(f"{type(module).__name__} has no backbone(): wanted the module that is to be exported")
    require_readable(module, recipe.detector)
    fit_sources, calibration_sources = data.sources("train"), data.sources("calibration")
    validation = data.sources("validation")
    smaller_bank = any(recipe.detector.get(key) is not None for key in ("coreset", "memory_budget"))
    if is_frozen(module) and not smaller_bank:  # else they tell what the smaller bank costs
        fit_sources, validation = fit_sources + validation, []
    rule, outliers = rule_and_outliers(recipe.calibration)
    if not calibration_sources:
        raise DataError("no calibration images: give data.split.calibration a share above 0")
    rows = np.linspace(0, len(calibration_sources) - 1, min(PARITY_IMAGES, len(calibration_sources))).astype(int)
    model, maps, parity = b"", None, 0.0
    if group.rank == 0:
        images = load([calibration_sources[row] for row in rows], recipe.data.prepare, threads=threads)
        model, maps, parity = _exported(module, backbone(), images, opset=recipe.export.opset)
    model = group.broadcast(model)
    origin = Origin(
        name=out.name,
        recipe=portable_tree(recipe),
        seed=recipe.seed,
        metrics={**(metrics or {}), "export_parity": parity},
    )
    return fit_bundle(
        out,
        model=model,
        maps=maps,
        preparation=recipe.data.prepare,
        fit=fit_sources,
        calibration=calibration_sources,
        validation=validation,
        outliers=find(outliers, root=data.root, sets=open_set(data.root)) if outliers else [],
        detector=recipe.detector,
        rule=rule,
        origin=origin,
        opset=recipe.export.opset,
        threads=threads,
        providers=providers,
        group=group,
    )


def _exported(
    module: nn.Module, backbone: nn.Module, images: Images, *, opset: int
) -> tuple[bytes, bytes | None, float]:
    """The backbone's ONNX file, that of the heat maps, and the largest difference between torch and the graph."""
    with tempfile.TemporaryDirectory(prefix="lit_od-export-") as folder:
        graph = Path(folder) / "backbone.onnx"
        report = export_backbone(backbone, graph, images, opset=opset, output=output_of(module))
        drawing = maps_of(module)
        maps = None if drawing is None else export_maps(drawing, images, opset=opset)
        return graph.read_bytes(), maps, max(report.differences.values())
