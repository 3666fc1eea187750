"""Make a bundle of a checkpoint: export, fit a detector, calibrate, write.

Nothing is trained. The checkpoint holds the recipe that it was trained by; --detector KIND and overrides change it:
--detector.shrinkage 0.1, --calibration.rule mean_std, --data.root DIR ...
Several processes, started by torchrun or srun, share the work; the bundle does not depend on how many they are.

  lit-od export runs/mine/best.ckpt --out BUNDLE
  lit-od export runs/mine/best.ckpt --detector knn --detector.k 3 --out BUNDLE
"""

import argparse
import sys
import time
from pathlib import Path

from lit_od.commands._arguments import add_runtime_arguments, add_trust_argument, extra, say_imported, session_options
from lit_od.commands._launch import each_process
from lit_od.commands._status import DONE, written
from lit_od.import_paths import code_of
from lit_od.recipes.load import override, require_same_training
from lit_od.runtime.processes import Group


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="best.ckpt of a run")
    parser.add_argument("--detector", metavar="KIND", help="another detector than the recipe's, with its defaults")
    parser.add_argument("--out", metavar="BUNDLE", required=True, help="folder of the bundle; a bundle is replaced")
    add_runtime_arguments(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Write the bundle and describe it."""
    return each_process(lambda group: _export(args, overrides, group))


def _export(args: argparse.Namespace, overrides: list[str], group: Group) -> int:
    out = Path(args.out)
    started = time.perf_counter()
    with extra("train,cpu"):
        from lit_od.training.data.image_data import ImageData
        from lit_od.training.loop.checkpoints import read_checkpoint, rebuild, require_same_images
        from lit_od.training.pipeline import export_bundle
    checkpoint = read_checkpoint(Path(args.checkpoint))
    if group.rank == 0:
        say_imported(args, *code_of(checkpoint.class_path, checkpoint.init_args).values())
    module, recipe = rebuild(checkpoint, args.trust), checkpoint.recipe
    changed = override(recipe, overrides, detector=args.detector)
    require_same_training(recipe, changed)
    recipe = changed
    data = ImageData(recipe.data, seed=recipe.seed)  # a reference set is for training alone, and need not be here
    require_same_images(checkpoint, data)
    if group.rank == 0 and not checkpoint.fingerprints:
        print(
            f"lit-od: {args.checkpoint} is of an earlier version and does not say which images trained it: the "
            "bundle's p-values hold only if data.train is as it was then",
            file=sys.stderr,
        )
    bundle = export_bundle(module, data, recipe, out, **session_options(args), group=group, trust=args.trust)
    if group.rank == 0:
        say_imported(args, bundle.detector.kind)
        print(written(bundle, time.perf_counter() - started))
    return DONE
