"""A recipe over an ONNX backbone, carried out without torch: images to bundle, nothing trained."""

from pathlib import Path

from lit_od.backbone.packaged import read_packaged
from lit_od.bundle.folder import Bundle, require_replaceable
from lit_od.calibration.rules import rule_and_outliers
from lit_od.detectors.registry import accumulator
from lit_od.errors import ConfigError
from lit_od.fitting.fit import Origin, fit_bundle
from lit_od.images.sources import SetOpener
from lit_od.recipes.load import portable_tree, without_training
from lit_od.recipes.partition import divided, found_images
from lit_od.recipes.schema import Recipe
from lit_od.runtime.processes import ALONE, Group


def fit_onnx(
    recipe: Recipe,
    out: Path,
    *,
    sets: SetOpener | None = None,
    threads: int | None = None,
    group: Group = ALONE,
) -> Bundle:
    """Fit the recipe's detector on what its ONNX file computes, calibrate, prove and write the bundle.

    Args:
        recipe: What to do; it has a `backbone`.
        out: The bundle's folder; free, empty, or a bundle to replace.
        sets: Opens torchvision's sets by name, where the caller may import torch.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
        group: The processes that do this together.

    Raises:
        BackboneError: If the file is no backbone, or does not take such images.
        ConfigError: If the recipe cannot be carried out, or `out` is not free.
        DataError: If the images do not suffice.
    """
    if group.rank == 0:
        require_replaceable(out)
    if recipe.backbone is None:
        raise ConfigError("the recipe has a `model`, not an ONNX backbone: carry it out with lit_od.training.fit")
    recipe = without_training(recipe, "over an ONNX backbone nothing is trained")
    accumulator(str(recipe.detector["kind"]), {key: each for key, each in recipe.detector.items() if key != "kind"})
    rule, outliers = rule_and_outliers(recipe.calibration)
    model, opset = read_packaged(str(recipe.backbone))
    fit, calibration = divided(recipe.data, seed=recipe.seed, sets=sets)
    return fit_bundle(
        out,
        model=model,
        preparation=recipe.data.prepare,
        fit=fit,
        calibration=calibration,
        outliers=found_images(outliers, recipe.data, sets) if outliers else [],
        detector=recipe.detector,
        rule=rule,
        origin=Origin(name=out.name, recipe=portable_tree(recipe), seed=recipe.seed),
        opset=opset,
        threads=threads,
        group=group,
    )


def require_no_run(run: Path | None) -> None:
    """Raise ConfigError where a folder is named for the files of a training that does not take place."""
    if run is not None:
        raise ConfigError(f"the recipe trains nothing that {run} could keep: leave out --run")
