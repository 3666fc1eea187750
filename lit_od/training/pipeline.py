"""The whole job from a recipe: train, export, and fit a bundle."""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from lightning import LightningModule
from torch import nn

from lit_od.bundle.folder import Bundle, require_replaceable
from lit_od.calibration.method import CalibrationOptions, Method
from lit_od.calibration.rules import require_applicable
from lit_od.deploy.int8_fitting import Int8Fitting, require_alone
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.from_recipe import JUDGED, fit_onnx, require_no_run
from lit_od.fitting.process_group import EngineOptions, open_engine
from lit_od.images.batching import load
from lit_od.images.find_local import find
from lit_od.images.split import evenly
from lit_od.recipes.load import portable_tree, without_training
from lit_od.recipes.partition import frozen_parts
from lit_od.recipes.roots import data_root
from lit_od.recipes.schema import ModelConfig, Recipe
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.torchvision_sets import open_set
from lit_od.training.distributed import process_group
from lit_od.training.export.backbone_graph import export_backbone
from lit_od.training.export.map_graph import export_maps
from lit_od.training.export.outputs import maps_of, output_of, require_readable
from lit_od.training.frozen import FrozenBackbone, is_frozen
from lit_od.training.loop.train import train
from lit_od.training.loop.trainer import make_module, module_arguments, seeded
from lit_od.training.networks.patch_layers import patches_of
from lit_od.training.networks.pretrained import trusted_class
from lit_od.types import Images, Output

PARITY_IMAGES = 64
"""Real images on which an exported graph must agree with its module."""

TRAINED = "the images that fit the detector have trained the backbone, and no fold of them is unseen by it"
"""Reason for which a trained backbone takes no cross calibration."""


def fit(
    recipe: Recipe,
    out: Path,
    *,
    run: Path | None = None,
    trust: Collection[str] = (),
    **options: Unpack[EngineOptions],
) -> Bundle:
    """Train a recipe's model, export it, fit the detector and write the bundle.

    Nothing is trained where the model's class says `frozen = True`, or the recipe's backbone is an ONNX file.
    Of several processes the first one exports and writes; all share the rest, and return the bundle.

    Args:
        recipe: The recipe.
        out: The bundle's folder; free, empty, or a bundle to replace.
        run: Folder that keeps a training's checkpoint, log and curves. None deletes them.
        trust: Import paths of detectors, modules and networks, and names of hubs' models, that may be followed.
        options: Threads, providers and process group, as `open_engine` takes them; the group is by default the one
            that torch.distributed has joined.

    Raises:
        ConfigError: If the recipe cannot be carried out, or `out` is not free.
        DataError: If the images do not suffice.
        ExportError: If the exported graph does not compute what the module computes.
    """
    out = Path(out)  # text serves as well
    if recipe.export.precision == "int8":
        require_alone(options.get("group", process_group()).size)  # before the training, not after it
    if recipe.model is None:
        require_no_run(run)
        sets = open_set(data_root(recipe.data.root))
        options.setdefault("group", process_group())
        return fit_onnx(recipe, out, sets=sets, trust=trust, fit_int8=Int8Fitting().fit_bundle, **options)
    if process_group().rank == 0:
        require_replaceable(out)
    spec = DetectorSpec.parse(recipe.detector, trust)
    spec.check()
    kind = trusted_class(recipe.model.class_path, recipe.model.init_args, trust, key="model.")
    require_readable(kind, spec, _planned_output(kind, recipe))
    if is_frozen(kind):
        require_no_run(run)
        model = recipe.model
        recipe = without_training(recipe, f"{model.class_path} is frozen")
        data = ImageData(recipe.data, seed=recipe.seed)
        module = _frozen_module(model, data, recipe.seed, trust)
        return _write_bundle(out, _Trained(module, data, recipe, trust=trust), **options)
    wanted = CalibrationOptions.parse(recipe.calibration).only_split(TRAINED)
    calibrating = ImageData(recipe.data, seed=recipe.seed).sources("calibration")
    require_applicable(
        wanted.rule, inliers=len(calibrating), outliers=len(wanted.outliers)
    )  # before the training, not after it
    with tempfile.TemporaryDirectory(prefix="lit_od-run-") as temporary:
        best = train(recipe, run or Path(temporary), trust=trust)
        trained = _Trained(best.module, best.data, recipe, best.metrics, trust)
        return _write_bundle(out, trained, **options)


def _planned_output(kind: type[LightningModule], recipe: Recipe) -> Output:
    """Return the output of a recipe's graph before its module is made.

    Raises ConfigError if the module's arguments and the export's both say.
    """
    assert recipe.model is not None  # the caller has asked
    if not issubclass(kind, FrozenBackbone):
        return "patches" if recipe.export.patches else output_of(kind)
    if recipe.export.patches:
        raise ConfigError("export.patches is for trained modules: give FrozenBackbone's init_args output: patches")
    return "patches" if recipe.model.init_args.get("output") == "patches" else "features"


def _frozen_module(model: ModelConfig, data: ImageData, seed: int, trust: Collection[str]) -> nn.Module:
    kind, init_args = module_arguments(model, data, trust)
    with seeded(seed):  # weights may be random
        return make_module(kind, init_args)


def export_bundle(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    out: Path,
    *,
    metrics: dict[str, float] | None = None,
    trust: Collection[str] = (),
    **options: Unpack[EngineOptions],
) -> Bundle:
    """Export a trained module, fit the recipe's detector and write the bundle.

    Args:
        module: A trained module with a `backbone()` from uint8 (n, h, w, c) to the output that its attribute
            `output` names, "features" by default; it may have `maps()`, see `export_maps`.
            With `recipe.export.patches` the layers named there give patches in place of the features.
        data: Its images; the train part fits the detector, and with a frozen module the validation part
            too; the calibration part calibrates it.
        recipe: Detector, calibration and export options.
        out: The bundle's folder.
        metrics: Figures of the training, for the provenance.
        trust: Import paths of detectors that may be followed.
        options: Threads, providers and process group, as `fit` takes them.

    Raises:
        ConfigError: If an option is invalid, or `out` is not free.
        DataError: If the images do not suffice.
        ExportError: If the exported graph does not compute what the module computes.
    """
    out = Path(out)  # text serves as well
    for value, kind in ((data, ImageData), (recipe, Recipe)):
        if not isinstance(value, kind):
            raise ConfigError(
                f"export_bundle wants {kind.__module__}.{kind.__name__}, got {type(value).__name__}: make one"
            )
    if process_group().rank == 0:
        require_replaceable(out)
    return _write_bundle(out, _Trained(module, data, recipe, metrics or {}, trust), **options)


@dataclass(frozen=True, slots=True)
class _Trained:
    """A trained module with its images, its recipe and the figures of its training."""

    module: nn.Module
    data: ImageData
    recipe: Recipe
    metrics: Mapping[str, float] = field(default_factory=dict)
    trust: Collection[str] = ()

    def images(self, calibration: CalibrationOptions) -> FitImages:
        """Return the images by their use.

        With a frozen module the validation part fits the detector too.
        """
        if self.recipe.export.precision == "int8":
            calibration = calibration.only_split(JUDGED)
        method: Method = "split"
        augment = self.recipe.data.augment if is_frozen(self.module) else None
        if is_frozen(self.module):
            method = calibration.method_for(len(self.data.sources("calibration")))
            fit, validation, calibrating = frozen_parts(self.data.parts, self.recipe, method)
        else:
            calibration.only_split(TRAINED)
            fit, validation, calibrating = (self.data.sources(part) for part in ("train", "validation", "calibration"))
        if not calibrating:
            raise DataError("no calibration images: give data.split.calibration a share above 0")
        root, outliers = self.data.root, calibration.outliers
        found = find(outliers, root=root, sets=open_set(root)) if outliers else []
        return FitImages(fit, calibrating, validation, found, method, augment)


def _write_bundle(out: Path, trained: _Trained, **options: Unpack[EngineOptions]) -> Bundle:
    """Export a module, fit the recipe's detector over the graph and write the bundle."""
    module, recipe = trained.module, trained.recipe
    group = options.setdefault("group", process_group())  # Lightning may have joined processes in the training
    backbone = getattr(module, "backbone", None)
    if not callable(backbone):
        raise ConfigError(f"{type(module).__name__} has no backbone(): wanted the module that is to be exported")
    spec = DetectorSpec.parse(recipe.detector, trained.trust)
    output, layers = output_of(module), recipe.export.patches
    network = backbone()
    if layers is not None:
        if output != "features":
            raise ConfigError(f"export.patches goes with modules of features, {type(module).__name__} gives {output}")
        size = recipe.data.prepare.shape[:2]
        network = patches_of(network, layers=layers.layers, grid=layers.patch_grid(), image_size=size)
        output = "patches"
    require_readable(module, spec, output)
    wanted = CalibrationOptions.parse(recipe.calibration)
    images = trained.images(wanted)
    graph, parity = GraphFile(b"", recipe.export.opset), 0.0
    if group.rank == 0:
        shown = evenly(images.calibration, PARITY_IMAGES)
        pixels = load(shown, trained.data.prepare, threads=options.get("threads"))
        graph, parity = _exported(module, network, output, pixels, opset=recipe.export.opset)
    model = group.broadcast(graph.model)
    origin = Origin(
        name=out.name,
        recipe=portable_tree(recipe),
        seed=recipe.seed,
        metrics={**trained.metrics, "export_parity": parity},
        keep_sums=recipe.keep_accumulator,
    )
    engine = open_engine(model, trained.data.prepare, **options)
    make = Int8Fitting().fit_bundle if recipe.export.precision == "int8" else fit_bundle
    return make(out, engine, graph, images, spec, wanted.rule, origin)


def _exported(
    module: nn.Module, backbone: nn.Module, output: Output, images: Images, *, opset: int
) -> tuple[GraphFile, float]:
    """Return the graphs of a module, and the backbone's largest difference to torch."""
    with tempfile.TemporaryDirectory(prefix="lit_od-export-") as folder:
        file = Path(folder) / "backbone.onnx"
        report = export_backbone(backbone, file, images, opset=opset, output=output)
        drawing = maps_of(module)
        maps = None if drawing is None else export_maps(drawing, images, opset=opset)
        return GraphFile(file.read_bytes(), opset, maps), max(report.differences.values())
