"""Resumable trainings that are watched after every epoch, with two budgets."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lightning import LightningModule

from lit_od.errors import ConfigError
from lit_od.experiments.results import ExperimentOptions
from lit_od.recipes.load import override, read, to_tree
from lit_od.recipes.schema import Recipe
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.data.twin_data import data_of
from lit_od.training.loop.checkpoints import load_module, read_checkpoint, rebuild, require_same_images
from lit_od.training.loop.epoch_log import EpochLog
from lit_od.training.loop.train import BEST, LAST, TrainingRun, best_row, resumable, train

Watch: TypeAlias = Callable[[LightningModule], float]


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A finished training.

    Attributes:
        module: The best by validation loss.
        data: The images of the training, divided.
        recipe: Its recipe, the number of epochs included.
        metrics: Figures of the best epoch by name, and its number, counted from 0.
        watched: Values of the watch, by number of epochs.
    """

    module: LightningModule
    data: ImageData
    recipe: Recipe
    metrics: dict[str, float]
    watched: dict[int, float]


def seeds_of(options: ExperimentOptions) -> tuple[int, ...]:
    """Return the seeds of a budget; the small one, and a smoke run, have one."""
    return options.seeds if options.budget == "full" and not options.quick else options.seeds[:1]


def recipes_of(name: str, options: ExperimentOptions, *changes: str) -> list[Recipe]:
    """Return a shipped recipe once a seed, with the data root of the options and changes of its own."""
    root = [f"--data.root={options.root}"] if options.root else []
    return [override(read(name), [*root, *changes, f"--seed={seed}"]) for seed in seeds_of(options)]


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


def train_staged(recipe: Recipe, folder: Path, *, epochs: int, watch: Watch | None = None) -> Staged:
    """Train epoch by epoch, and watch the module after each.

    A folder with fewer epochs is continued, also after a kill.

    Args:
        recipe: A recipe with a model that is trained.
        folder: The run's folder.
        epochs: Total number of epochs.
        watch: Called with the module after each epoch, on the CPU; nothing is chosen by it.

    Raises:
        ConfigError: If the folder holds a run of another recipe, or of more epochs.
        DataError: If the images are not those that the run in the folder was trained on.
    """
    done = _epochs_done(recipe, folder, epochs)
    file = folder.with_name(f"{folder.name}-watched.json")
    watched = {int(key): value for key, value in json.loads(file.read_text()).items()} if done and file.exists() else {}
    for number in range(max(done, 1), epochs + 1):
        if number > done:
            train(override(recipe, [f"--trainer.max_epochs={number}"]), folder, resume=resumable(folder))
        if watch is not None and number not in watched:  # a kill may have come before the last epoch was watched
            # of the first epoch a kill may have left best.ckpt alone, which is the same module
            watched[number] = watch(load_module(resumable(folder) or folder / LAST))
            file.write_text(json.dumps(watched) + "\n", encoding="utf-8")
    data = ImageData(recipe.data, seed=recipe.seed)
    require_same_images(read_checkpoint(folder / BEST), data)
    whole = override(recipe, [f"--trainer.max_epochs={epochs}"])
    metrics = best_row(EpochLog(folder / "metrics.csv", resume=True))
    return Staged(load_module(folder / BEST), data, whole, metrics, watched)


def trained(recipe: Recipe, folder: Path, *, cache: TrunkCache | None = None) -> TrainingRun:
    """Train, go on with a training of this recipe that was stopped, or take up one that has come to its end.

    Args:
        recipe: The recipe.
        folder: The run's folder.
        cache: Activations of a trunk that runs share.

    Raises:
        ConfigError: If the folder holds a run of another recipe.
        DataError: If the images are not those that the run in the folder was trained on.
    """
    begun = resumable(folder)
    if begun is not None and read_checkpoint(begun).recipe != recipe:
        raise ConfigError(f"{folder} holds a run of another recipe: remove it, or name another --out")
    if not (folder / "learning_curves.png").exists():  # the last thing that a training writes
        return train(recipe, folder, resume=begun, trunk_cache=cache)
    checkpoint = read_checkpoint(folder / BEST)
    data = data_of(recipe.data, seed=recipe.seed, cache=cache)
    require_same_images(checkpoint, data)
    return TrainingRun(
        folder / BEST, rebuild(checkpoint), data, best_row(EpochLog(folder / "metrics.csv", resume=True))
    )


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
