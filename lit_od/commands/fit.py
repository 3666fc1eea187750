"""Carry out a recipe: train, export, fit the detector, calibrate, write.

RECIPE is a shipped recipe's bare name (lit-od recipes) or a YAML file. `folder` needs no more than a
folder of normal images, and no torch: lit-od fit folder --data.root NORMAL_IMAGES --out BUNDLE.
--data.mask FILE names a region of interest: an image in the geometry of the images, white where they count.
--data.tile N scans large images at their own resolution in tiles of N pixels a side; neighbours have the share
--data.overlap F of it in common.
Overrides change single keys: --data.root DIR, --trainer.max_epochs 3, --detector.kind mahalanobis,
--calibration.q 99.5 ...

Over a backbone that is not trained, --calibration.method cross lets every image fit and calibrate, each scored by a
detector that was fitted without it; that is the default where data.split.calibration holds out too few images for the
rate of the rule. --calibration.method split holds them out.

Several processes, started by torchrun, by srun or by --trainer.devices N, share the work; the bundle does not depend on
how many they are, but for the training, where N processes take steps of N times as many images.

  lit-od fit folder --data.root NORMAL_IMAGES --out BUNDLE
  lit-od fit defects --data.root mvtec/pill --out BUNDLE
  lit-od fit mine.yaml --trainer.max_epochs 3 --detector.kind knn --out BUNDLE
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from lit_od.commands._arguments import (
    add_label_argument,
    add_recipe_arguments,
    add_runtime_arguments,
    extra,
    read_recipe,
    say_imported,
    session_options,
)
from lit_od.commands._launch import command_line, each_process, launch, process_count
from lit_od.commands._status import DONE, written
from lit_od.deploy.int8_fitting import Int8Fitting
from lit_od.errors import ConfigError
from lit_od.fitting.from_recipe import fit_onnx, require_no_run
from lit_od.recipes.named_code import code_of_training
from lit_od.recipes.overrides import parse_overrides
from lit_od.recipes.schema import Recipe
from lit_od.runtime.processes import Group, place

FOR_TRAINING = {
    "data.batch_size": "over which nothing is trained",
    "data.memory": "over which nothing is trained",
    "data.split.validation": "over which nothing is validated (data.split.calibration is what is set aside)",
}
"""Keys of a recipe that a backbone ignores which is not trained, and the reason."""

FOR_MODELS = FOR_TRAINING | {"export": "which is used as it is"}
"""Keys of a recipe that an ONNX backbone ignores, and the reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--out", metavar="BUNDLE", required=True, help="folder of the bundle; a bundle is replaced")
    add_runtime_arguments(parser)
    add_label_argument(parser)
    parser.add_argument("--backbone", metavar="FILE.onnx", help="another ONNX file in place of the recipe's")
    sums = parser.add_mutually_exclusive_group()
    text = "the sums to which lit-od accept adds images"
    sums.add_argument("--keep-accumulator", action="store_true", help=f"keep {text} (as the recipe says)")
    sums.add_argument("--no-keep-accumulator", action="store_true", help=f"leave out {text}")
    parser.add_argument("--run", metavar="RUN", help="keep checkpoint, log and curves in this folder")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the bundle and describe it."""
    recipe = cache(lambda: _recipe(args, overrides))
    if place() is None and (count := process_count(recipe().trainer)) > 1:
        return launch(count, command_line("fit", args, overrides))
    return each_process(lambda group: _fit(recipe(), args, overrides, group))


def _recipe(args: argparse.Namespace, overrides: list[str]) -> Recipe:
    if args.label:
        overrides = [*overrides, f"--data.classes={json.dumps(args.label)}"]
    if args.backbone is not None:
        overrides = [f"--backbone={args.backbone}", *overrides]
    if args.keep_accumulator or args.no_keep_accumulator:
        overrides = [*overrides, f"--keep_accumulator={json.dumps(bool(args.keep_accumulator))}"]
    return read_recipe(args, overrides)


def _require_effect(
    args: argparse.Namespace, overrides: Sequence[str], ignored: Mapping[str, str], backbone: str
) -> None:
    """Raise ConfigError for an option that a backbone ignores."""
    if args.early_stopping is not None:
        raise ConfigError(f"--early-stopping goes with training, and over {backbone} nothing is trained: leave it out")
    for path, _ in parse_overrides(overrides):
        for key, reason in ignored.items():
            if path == key or path.startswith(f"{key}."):
                raise ConfigError(f"--{path} has no effect over {backbone}, {reason}: leave it out")


def _fit(recipe: Recipe, args: argparse.Namespace, overrides: Sequence[str], group: Group) -> int:
    out = Path(args.out)
    started = time.perf_counter()
    run_folder = Path(args.run) if args.run else None
    if recipe.backbone is not None:
        require_no_run(run_folder)
        _require_effect(args, overrides, FOR_MODELS, "an ONNX backbone")
        bundle = fit_onnx(
            recipe, out, **session_options(args), group=group, trust=args.trust, fit_int8=Int8Fitting().fit_bundle
        )
    else:
        model = recipe.model
        assert model is not None  # a recipe has one or the other
        if group.rank == 0:
            say_imported(args, *code_of_training(recipe))
        with extra("train,cpu"):
            from lit_od.training.frozen import is_frozen
            from lit_od.training.networks.pretrained import trusted_class
            from lit_od.training.pipeline import fit
        if is_frozen(trusted_class(model.class_path, model.init_args, args.trust, key="model.")):
            _require_effect(args, overrides, FOR_TRAINING, model.class_path)
        bundle = fit(recipe, out, run=run_folder, **session_options(args), group=group, trust=args.trust)
    if group.rank == 0:
        say_imported(args, bundle.detector.kind)
        print(written(bundle, time.perf_counter() - started))
    return DONE
