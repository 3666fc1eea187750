"""Only the training: a run folder with best.ckpt, metrics.csv, config.yaml and learning curves.

RECIPE and overrides as in lit-od fit; lit-od export makes a bundle of the checkpoint.
"""

import argparse
import os
from datetime import datetime
from pathlib import Path

from lit_od.cli import DONE
from lit_od.commands.fit import add_recipe_arguments, recipe_of
from lit_od.errors import ConfigError, missing_extra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--out", metavar="RUN", help="folder of the run (runs/NAME-TIME)")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on from last.ckpt of a run, in that run's folder")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Train and say where the checkpoint is."""
    recipe = recipe_of(args, overrides)
    try:
        from lit_od.training.train import train
    except ModuleNotFoundError as error:
        missing_extra(str(error.name), "train,cpu")
    if args.out is None and (args.resume or os.environ.get("WORLD_SIZE", "1") != "1"):
        raise ConfigError("give --out RUN: a run that is resumed or shared by processes needs its folder's name")
    out = Path(args.out) if args.out else Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    trained = train(recipe, out, resume=Path(args.resume) if args.resume else None)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items())
    print(f"{trained.checkpoint}: {figures}")
    return DONE
