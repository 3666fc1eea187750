"""Train only: no bundle is made.

The run folder gets best.ckpt, metrics.csv, config.yaml and learning curves. RECIPE and overrides as in lit-od fit;
lit-od export makes a bundle of the checkpoint.

--trainer.devices N trains in N processes of this machine; torchrun and srun start them on several. Each takes
data.batch_size images a step, and the learning rate stays the recipe's: --trainer.scale_learning_rate linear or sqrt
multiplies it by their number or its root. --trainer.accumulate_grad_batches N, --trainer.precision bf16-mixed,
--trainer.compile true and, on GPUs, --trainer.sync_batchnorm true.

A run that was stopped, by Ctrl-C, by SIGTERM, by a crash or by a scheduler, goes on where its last epoch ended, by
the same command with --resume: it ends with the weights of a run that was never stopped.

  lit-od train mnist-digits --data.root DATA --out runs/mine
  lit-od train mine.yaml --trainer.devices 4 --out runs/mine --resume
"""

import argparse
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType

from lit_od.commands._arguments import add_recipe_arguments, extra, read_recipe, say_imported
from lit_od.commands._launch import command_line, each_process, launch, process_count
from lit_od.commands._status import DONE
from lit_od.errors import ConfigError
from lit_od.recipes.named_code import code_of_training
from lit_od.runtime.processes import Group, is_first, place

LAST = "last"
"""Value of --resume without a checkpoint."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("--out", metavar="RUN", help="folder of the run (runs/NAME-TIME)")
    parser.add_argument(
        "--resume",
        metavar="CHECKPOINT",
        nargs="?",
        const=LAST,
        help="go on where the run ended, or begin where it has no checkpoint yet; or from a checkpoint of the run",
    )


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Train and print the checkpoint's path."""
    if place() is None:
        recipe = read_recipe(args, overrides)
        if args.out is None and args.resume is None:
            args.out = str(Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}")
        if (count := process_count(recipe.trainer)) > 1:
            return launch(count, command_line("train", args, overrides))
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        return each_process(lambda group: _train(args, overrides, group))
    except _Stopped as stopped:
        if is_first():
            print(f"lit-od: stopped; the same command with --resume goes on from {args.out}", file=sys.stderr)
        return int(stopped.args[0])
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(args: argparse.Namespace, overrides: list[str], group: Group) -> int:
    if args.out is None:
        raise ConfigError("give --out RUN: a run that is resumed or shared by processes needs its folder's name")
    recipe, out = read_recipe(args, overrides), Path(args.out)
    if group.rank == 0 and recipe.model is not None:
        say_imported(args, *code_of_training(recipe))
    with extra("train,cpu"):
        from lit_od.training.loop.train import resumable, train
    resume = resumable(out) if args.resume == LAST else Path(args.resume) if args.resume else None
    try:
        trained = train(recipe, out, resume=resume, trust=args.trust)
    except KeyboardInterrupt as stop:
        if resumable(out) is None:
            raise
        raise KeyboardInterrupt(f"interrupted; the same command with --resume goes on from {out}") from stop
    if group.rank == 0:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in trained.metrics.items())
        print(f"{trained.checkpoint}: {figures}")
    return DONE


class _Stopped(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(128 + number)
