"""Carry out a recipe over an ONNX backbone, without torch and without training."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias, Unpack

from lit_od.backbone.packaged import read_features, read_patches
from lit_od.bundle.folder import Bundle
from lit_od.calibration.method import CalibrationOptions
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.fitting.process_group import EngineOptions, open_engine
from lit_od.fitting.region import prepared_region
from lit_od.images.sources import SetOpener, Source
from lit_od.images.split import VALIDATION_SHARE, fit_and_calibration, held_out_images
from lit_od.recipes.load import portable_tree, without_training
from lit_od.recipes.onnx_images import divided, found_images, inliers_to_fit
from lit_od.recipes.schema import OnnxBackbone, Recipe
from lit_od.runtime.processes import ALONE

JUDGED = "an int8 graph is chosen and judged by images that are held out"
"""Reason for which int8 takes no cross calibration."""

FitBundle: TypeAlias = Callable[..., Bundle]
"""A function with the arguments of `fit_bundle`."""


def fit_onnx(
    recipe: Recipe,
    out: Path,
    *,
    sets: SetOpener | None = None,
    trust: Collection[str] = (),
    fit_int8: FitBundle | None = None,
    **options: Unpack[EngineOptions],
) -> Bundle:
    """Fit a recipe's detector over its ONNX backbone, and write the bundle.

    Args:
        recipe: The recipe; it has a `backbone`.
        out: The bundle's folder; free, empty, or a bundle to replace.
        sets: Opens torchvision's sets by name, where the caller may import torch.
        trust: Import paths of detectors that may be followed.
        fit_int8: Fits a bundle over the int8 form of a graph, where the recipe says so.
        options: Threads, providers and process group, as `open_engine` takes them.

    Raises:
        BackboneError: If the file is no backbone, or does not take such images.
        ConfigError: If the recipe cannot be carried out, or `out` is not free.
        DataError: If the images do not suffice.
    """
    if recipe.backbone is None:
        raise ConfigError("the recipe has a `model`, not an ONNX backbone: carry it out with lit_od.training.fit")
    recipe = without_training(recipe, "over an ONNX backbone nothing is trained")
    spec = DetectorSpec.parse(recipe.detector, trust)
    spec.check()
    wanted = CalibrationOptions.parse(recipe.calibration)
    if recipe.export.precision == "int8":
        wanted = wanted.only_split(JUDGED)
    model, opset = onnx_backbone(recipe)
    images = inliers_to_fit(recipe.data, seed=recipe.seed, sets=sets)
    method = wanted.method_for(held_out_images(len(images), share=recipe.data.split.calibration))
    fit, calibration = divided(images, recipe.data, seed=recipe.seed, method=method)
    preparation = prepared_region(recipe.data, fit, threads=options.get("threads"), group=options.get("group", ALONE))
    outliers = found_images(wanted.outliers, recipe.data, sets) if wanted.outliers else []
    validation: Sequence[Source] = ()
    make: FitBundle = fit_bundle
    if recipe.export.precision == "int8":
        if fit_int8 is None:
            raise ConfigError("export.precision int8 needs a caller that quantises: run lit-od fit, or quantise later")
        fit, validation = fit_and_calibration(fit, seed=recipe.seed, share=VALIDATION_SHARE)
        make = fit_int8
    return make(
        out,
        open_engine(model, preparation, **options),
        GraphFile(model, opset),
        FitImages(fit, calibration, validation, outliers, method, recipe.data.augment),
        spec,
        wanted.rule,
        Origin(name=out.name, recipe=portable_tree(recipe), seed=recipe.seed, keep_sums=recipe.keep_accumulator),
    )


def onnx_backbone(recipe: Recipe) -> tuple[bytes, int | None]:
    """Return a recipe's ONNX file as a backbone, and its opset.

    It is wrapped or cut, if need be.

    Raises:
        BackboneError: If the file is no backbone and cannot be wrapped as the recipe says.
        ConfigError: If there is no such file, or the recipe does not fit it.
    """
    backbone, shape = recipe.backbone, recipe.data.preparation().shape
    if not isinstance(backbone, OnnxBackbone):
        return read_features(str(backbone), None, None, shape)
    if backbone.output != "patches":
        return read_features(backbone.file, backbone.output, backbone.pixels(), shape)
    return read_patches(backbone.file, backbone.layers, backbone.patch_grid(), shape, backbone.pixels())


def require_no_run(run: Path | None) -> None:
    """Check that no folder is named for a training that does not take place.

    Raises:
        ConfigError: If there is one.
    """
    if run is not None:
        raise ConfigError(f"the recipe trains nothing that {run} could keep: leave out --run")
