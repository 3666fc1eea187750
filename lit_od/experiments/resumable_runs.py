"""Resumable trainings with two budgets; some are watched after every epoch."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lightning import LightningModule

from lit_od.bundle.folder import Bundle
from lit_od.errors import ConfigError
from lit_od.experiments.results import ExperimentOptions
from lit_od.recipes.load import override, read, to_tree
from lit_od.recipes.schema import Recipe
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.data.twin_data import data_of
from lit_od.training.loop.checkpoints import load_module, read_checkpoint, rebuild, require_same_images
from lit_od.training.loop.epoch_log import EpochLog
from lit_od.training.loop.train import BEST, LAST, TrainingRun, best_row, resumable, train
from lit_od.training.pipeline import export_bundle

Watch: TypeAlias = Callable[[LightningModule], float]


@dataclass(frozen=True, slots=True, eq=False)
class Staged(TrainingRun):
    """A finished training that was watched.

    Attributes:
        recipe: Its recipe, the number of epochs included.
        watched: Values of the watch, by number of epochs.
    """

    recipe: Recipe
    watched: dict[int, float]


def recipes_of(
    name: str, options: ExperimentOptions, *, quick: Sequence[str], small: Sequence[str] = ()
) -> list[Recipe]:
    """Read a shipped recipe, once a seed of the budget.

    Args:
        name: Name of the recipe.
        options: Options of the experiment, with overrides of the recipe.
        quick: Further overrides of a smoke run.
        small: Further overrides of the small budget.
    """
    words = [f"--data.root={options.root}"] if options.root else []
    words += [*options.overrides, *(small if options.budget == "small" else ()), *(quick if options.quick else ())]
    return [read(name, [*words, f"--seed={seed}"]) for seed in seeds_of(options)]


def seeds_of(options: ExperimentOptions) -> tuple[int, ...]:
    """Return the seeds of a budget; the small one, and a smoke run, have one."""
    return options.seeds if options.budget == "full" and not options.quick else options.seeds[:1]


def budget_line(options: ExperimentOptions, epochs: int, *, full: int, changes: str = "") -> str:
    """Describe a run's budget, and its reductions from the full one.

    Args:
        options: Options of the experiment.
        epochs: Epochs of this run.
        full: Epochs of the full budget.
        changes: Further changes of the small budget.
    """
    seeds = len(seeds_of(options))
    line = f"budget {options.budget}: {epochs} epochs, {seeds} seed{'s' if seeds > 1 else ''}"
    if options.quick:
        return f"{line}, few images: a smoke run whose figures prove nothing"
    if options.budget == "small":
        line += f"; left out: {full - epochs} of {full} epochs, and all seeds but the first"
        line += f"; changed: {changes}" if changes else ""
    return line


def train_staged(
    recipe: Recipe, folder: Path, *, epochs: int, watch: Watch | None = None, trust: Collection[str] = ()
) -> Staged:
    """Train epoch by epoch, and watch the module after each.

    A folder with fewer epochs is continued, also after a kill.

    Args:
        recipe: A recipe with a model that is trained.
        folder: The run's folder.
        epochs: Total number of epochs.
        watch: Called with the module after each epoch, on the CPU; nothing is chosen by it.
        trust: Import paths and names of hubs' models that may be followed.

    Raises:
        ConfigError: If the folder holds a run of another recipe, or of more epochs.
        DataError: If the images are not those that the run in the folder was trained on.
    """
    done = _epochs_done(recipe, folder, epochs)
    file = folder.with_name(f"{folder.name}-watched.json")
    watched = {int(key): value for key, value in json.loads(file.read_text()).items()} if done and file.exists() else {}
    for number in range(max(done, 1), epochs + 1):
        if number > done:
            train(override(recipe, [f"--trainer.max_epochs={number}"]), folder, resume=resumable(folder), trust=trust)
        if watch is not None and number not in watched:  # a kill may have come before the last epoch was watched
            # of the first epoch a kill may have left best.ckpt alone, which is the same module
            watched[number] = watch(load_module(resumable(folder) or folder / LAST, trust))
            file.write_text(json.dumps(watched) + "\n", encoding="utf-8")
    run, whole = _finished(recipe, folder, trust=trust), override(recipe, [f"--trainer.max_epochs={epochs}"])
    return Staged(run.checkpoint, run.module, run.data, run.metrics, whole, watched)


def train_or_resume(
    recipe: Recipe, folder: Path, cache: TrunkCache | None = None, *, trust: Collection[str] = ()
) -> TrainingRun:
    """Train, resume a stopped training of this recipe, or take up a finished one.

    Args:
        recipe: A recipe with a model that is trained.
        folder: The run's folder.
        cache: Activations of frozen layers, shared with other runs.
        trust: Import paths and names of hubs' models that may be followed.

    Raises:
        ConfigError: If the folder holds a run of another recipe.
        DataError: If the images are not those that the run in the folder was trained on.
    """
    begun = resumable(folder)
    if begun is not None and read_checkpoint(begun).recipe != recipe:
        raise ConfigError(f"{folder} holds a run of another recipe: remove it, or name another --out")
    if not (folder / "learning_curves.png").exists():  # the last file of a training
        return train(recipe, folder, resume=begun, trunk_cache=cache, trust=trust)
    return _finished(recipe, folder, cache, trust)


def export(run: TrainingRun, recipe: Recipe, out: Path, options: ExperimentOptions) -> Bundle:
    """Export a finished training and write a bundle.

    Args:
        run: The training.
        recipe: Detector, calibration and export options.
        out: The bundle's folder.
        options: Options of the experiment.
    """
    threads, trust = options.threads, options.trust
    return export_bundle(run.module, run.data, recipe, out, metrics=run.metrics, threads=threads, trust=trust)


def _finished(
    recipe: Recipe, folder: Path, cache: TrunkCache | None = None, trust: Collection[str] = ()
) -> TrainingRun:
    """Read a run folder.

    Raises DataError if the images are not those that it was trained on.
    """
    checkpoint = read_checkpoint(folder / BEST)
    data = data_of(recipe.data, seed=recipe.seed, cache=cache)
    require_same_images(checkpoint, data)
    figures = best_row(EpochLog(folder / "metrics.csv", resume=True))
    return TrainingRun(folder / BEST, rebuild(checkpoint, trust), data, figures)


def _epochs_done(recipe: Recipe, folder: Path, epochs: int) -> int:
    ended = resumable(folder)
    if ended is None:
        return 0
    before = read_checkpoint(ended).recipe
    done = int(before.trainer["max_epochs"])
    if _without_epochs(before) != _without_epochs(recipe) or done > epochs:
        raise ConfigError(f"{folder} holds a run of another recipe or of more epochs: remove it, or name another --out")
    return done


def _without_epochs(recipe: Recipe) -> dict[str, object]:
    tree = to_tree(recipe)
    return {**tree, "trainer": {key: value for key, value in tree["trainer"].items() if key != "max_epochs"}}
