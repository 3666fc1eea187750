"""Train a recipe's model into a run folder."""

import contextlib
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_od.errors import ConfigError, DataError
from lit_od.formats.atomic import require_writable
from lit_od.images.batching import load
from lit_od.images.split import evenly
from lit_od.recipes.load import to_tree
from lit_od.recipes.schema import Recipe
from lit_od.training.data.augmentation import augment, step_generator
from lit_od.training.data.image_data import ImageData, check_trainable
from lit_od.training.data.own_batches import batches_of
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.data.twin_data import data_of
from lit_od.training.distributed import lost, process_group
from lit_od.training.frozen import is_frozen
from lit_od.training.loop.callbacks import FiniteLoss, FlushSubnormals, OutlierMonitor, Progress, SeededEpochs
from lit_od.training.loop.checkpointing import (
    BestCheckpoint,
    RecordOrigin,
    RelocatableCheckpoint,
    ResumableEarlyStopping,
    Signals,
)
from lit_od.training.loop.checkpoints import (
    Checkpoint,
    keep_whole,
    load_everywhere,
    origin,
    read_checkpoint,
    require_same_images,
    require_same_model,
)
from lit_od.training.loop.epoch_log import EpochLog
from lit_od.training.loop.pictures import learning_curves, sample_grid
from lit_od.training.loop.trainer import (
    COMPILE,
    SCALING,
    compile_network,
    make_module,
    make_trainer,
    module_arguments,
    quiet,
    scaled,
    seeded,
    trainer_arguments,
)
from lit_od.training.loop.trainer_parts import FOLDER, StepLoss, TrainerParts
from lit_od.training.networks.pretrained import trusted_class
from lit_od.training.networks.weights import load_state

BEST, LAST = "best.ckpt", "last.ckpt"
FILES = frozenset({BEST, LAST, "metrics.csv", "config.yaml", "learning_curves.png", "samples.png", FOLDER})
"""Files of a run folder."""

_PEER_GONE = re.compile(
    r"closed by (remote )?peer|reset by (remote )?peer|peer closed|broken pipe|connection refused|remote process exit",
    re.IGNORECASE,
)
"""Messages of torch when another process has ended."""

SAMPLES = 16
"""Images in the picture of samples."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """Results of a training.

    Attributes:
        checkpoint: The best checkpoint by validation loss.
        module: The module loaded from it, on the CPU.
        data: The images of the training, divided.
        metrics: Figures of the best epoch by name, and its number, counted from 0; empty in processes
            other than the first.
    """

    checkpoint: Path
    module: LightningModule
    data: ImageData
    metrics: dict[str, float]


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: Path | None = None,
    trunk_cache: TrunkCache | None = None,
    trust: Collection[str] = (),
) -> TrainingRun:
    """Train a recipe's model, keep the best, and write the run folder.

    It writes best.ckpt, last.ckpt, metrics.csv, config.yaml and two pictures.

    Args:
        recipe: A recipe with a model that is trained.
        out: The run's folder, without another run's checkpoint in it, unless that is resumed.
        resume: A checkpoint in `out` to go on from, with the data, the seed and the model that it was trained
            with; last.ckpt goes on where the run ended.
        trunk_cache: Activations of frozen layers, shared with other runs of this process.
        trust: Import paths and names of hubs' models, outside lit_od, timm and torchvision, that may be followed.

    Raises:
        ConfigError: If the recipe is invalid or trains nothing, `out` is not free or cannot be written, or
            `resume` is of another model.
        DataError: If the images do not suffice, the loss becomes NaN or infinite, or `resume` is of
            another architecture or of other images.
    """
    out = Path(out)  # text serves as well
    if recipe.model is None:
        raise ConfigError("the recipe trains nothing: its backbone is an ONNX file. Use lit-od fit")
    if is_frozen(trusted_class(recipe.model.class_path, recipe.model.init_args, trust, key="model.")):
        raise ConfigError(f"the recipe trains nothing: {recipe.model.class_path} is frozen. Use lit-od fit")
    if recipe.data.augment is not None and recipe.data.augment.views is not None:
        raise ConfigError(
            "data.augment.views is for fitting without a training, which draws changes anew at each step: leave it out"
        )
    if resume is None and process_group().rank == 0:
        _require_free(out)
    arguments, parts = trainer_arguments(recipe.trainer), TrainerParts.of(recipe.trainer, trust)
    data = data_of(recipe.data, seed=recipe.seed, cache=trunk_cache)
    batches = batches_of(data, trust)
    if batches is data:
        check_trainable(data)
    kind, init_args = module_arguments(recipe.model, data, trust)
    with quiet(kind), seeded(recipe.seed):
        log = EpochLog(out / "metrics.csv", resume=resume is not None)
        fingerprints = data.fingerprints
        provenance = RecordOrigin()
        best = BestCheckpoint(out, Path(BEST).stem, monitor="val_loss", enable_version_counter=False)
        last = RelocatableCheckpoint(out, Path(LAST).stem, enable_version_counter=False, save_on_train_epoch_end=True)
        trainer = make_trainer(
            arguments,
            callbacks=[*_callbacks(recipe, data, kind, best), *parts.make_callbacks(), provenance, best, last],
            logger=[log, *parts.make_loggers(out)],
            profiler=parts.make_profiler(out),
            default_root_dir=out,
            enable_progress_bar=False,
            use_distributed_sampler=batches is not data,  # which know their process themselves
        )
        keep_whole(trainer)
        init_args = scaled(init_args, trainer, kind, recipe.trainer.get(SCALING, "none"))
        module = make_module(kind, init_args)
        if resume is not None:
            ended = _check_resumable(module, init_args, recipe, data, out, resume, trust)
            fingerprints = ended.fingerprints  # the same, or none of a run that is older than fingerprints
        provenance.origin = origin(recipe.model.class_path, init_args, recipe, fingerprints)
        if recipe.trainer.get(COMPILE, False):
            compile_network(module)
        with _writing(out):
            if resume is not None:  # its last row is missing where it was killed before that was written
                log.log_metrics(ended.figures | {"epoch": float(ended.epoch)})
            if trainer.is_global_zero:
                out.mkdir(parents=True, exist_ok=True)
                (out / "config.yaml").write_text(yaml.safe_dump(to_tree(recipe), sort_keys=False), encoding="utf-8")
                _draw_samples(data, out / "samples.png")
            _log_recipe(trainer, recipe)
            _fit(trainer, module, batches, resume)
            if trainer.is_global_zero and log.rows:
                learning_curves(log.rows, out / "learning_curves.png")
        trainer.strategy.barrier()
        if not best.best_model_path:
            if trainer.global_step == 0:
                raise ConfigError("the training took no step: raise trainer.max_epochs")
            raise ConfigError(
                f"no validation took place, and {BEST} is chosen by one: raise trainer.max_epochs, or lower "
                "trainer.check_val_every_n_epoch"
            )
        return TrainingRun(out / BEST, load_everywhere(out / BEST, trust), data, best_row(log))


def resumable(out: Path) -> Path | None:
    """Return the checkpoint that a stopped run goes on from; None if there is none."""
    return next((out / name for name in (LAST, BEST) if (out / name).is_file()), None)


def _require_free(out: Path) -> None:
    """Raise ConfigError unless a new run can be written at `out`.

    No file of another run, nor any other, is lost.
    """
    require_writable(out)
    if found := next((out / name for name in (LAST, BEST) if (out / name).exists()), None):
        raise ConfigError(f"{out} holds a run already: choose another folder, or resume {found}")
    names = sorted(entry.name for entry in out.iterdir() if entry.name[0] != ".") if out.is_dir() else []
    if foreign := [name for name in names if name not in FILES]:
        raise ConfigError(f"{out} is a folder with other files in it, such as {foreign[0]}: name one that is free")


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Convert refusals of the system to a ConfigError that names the run."""
    try:
        yield
    except ConnectionError:  # another process has ended
        raise
    except OSError as error:
        raise ConfigError(f"cannot write the run {out}: {error.strerror or error}. Name another folder") from error


def _callbacks(recipe: Recipe, data: ImageData, kind: type[LightningModule], best: ModelCheckpoint) -> list[Callback]:
    callbacks: list[Callback] = [SeededEpochs(recipe.seed), FiniteLoss(best), FlushSubnormals(), Progress(), Signals()]
    if data.watched_outliers() and hasattr(kind, "backbone"):
        callbacks.append(OutlierMonitor(data))
    if recipe.trainer.get("log_every_n_steps"):
        callbacks.append(StepLoss())
    if recipe.early_stopping is not None:
        # Lightning counts validations, the recipe epochs
        patience = -(-recipe.early_stopping // recipe.trainer.get("check_val_every_n_epoch", 1))
        # a loss that is not finite, or not logged, is refused elsewhere, in one line
        stop = ResumableEarlyStopping("val_loss", patience=patience, check_finite=False, strict=False)
        callbacks.append(stop)
    return callbacks


def _log_recipe(trainer: Trainer, recipe: Recipe) -> None:
    """Give the recipe to the loggers that it names; it is in config.yaml too."""
    for logger in trainer.loggers[1:]:
        logger.log_hyperparams(to_tree(recipe))


def _fit(trainer: Trainer, module: LightningModule, data: LightningDataModule, resume: Path | None) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:
        raise ConfigError(f"{type(module).__name__} cannot be trained: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel when training"):
            raise
        raise ConfigError(
            f"{type(module).__name__} normalises by the batch, and a training batch has one image: make "
            "data.batch_size 2 or more, or give more images"
        ) from error
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning makes a status of 1 of it, without a word
            raise end.__context__ from None
        raise
    except RuntimeError as error:
        if trainer.world_size > 1 and _PEER_GONE.search(str(error)):
            raise lost() from error
        raise


def _check_resumable(
    module: LightningModule,
    init_args: dict[str, Any],
    recipe: Recipe,
    data: ImageData,
    out: Path,
    resume: Path,
    trust: Collection[str],
) -> Checkpoint:
    """Read a checkpoint to resume from.

    Raises ConfigError or DataError if it is of another run, model, or division of the images.
    """
    checkpoint = read_checkpoint(resume)
    try:
        load_state(module, checkpoint.state, resume)
    except DataError as error:
        raise DataError(f"{error}. Give the recipe that it was trained by, or begin a run of its own") from error
    if checkpoint.recipe.seed != recipe.seed:
        raise ConfigError(f"{resume} was trained with seed {checkpoint.recipe.seed}, the recipe has {recipe.seed}")
    require_same_model(checkpoint, type(module), init_args, trust)
    trained, given = to_tree(checkpoint.recipe)["data"], to_tree(recipe)["data"]
    for name in given:
        if name not in ("root", "memory") and trained[name] != given[name]:
            raise ConfigError(f"{resume} was trained with data.{name} {trained[name]}, the recipe has {given[name]}")
    require_same_images(checkpoint, data)
    if resume.resolve().parent != out.resolve():
        raise ConfigError(f"a run goes on in its own folder: give {resume.parent}, where {resume.name} lies, not {out}")
    return checkpoint


def _draw_samples(data: ImageData, path: Path) -> None:
    """Draw training images before and after the first step's augmentation."""
    images = load(evenly(data.sources("train"), SAMPLES), data.prepare)
    changes, after = data.config.augment, None
    if changes is not None:
        after = augment(torch.from_numpy(images), changes, step_generator(data.seed, 0, 0)).numpy()
    sample_grid(images, after, path)


def best_row(log: EpochLog) -> dict[str, float]:
    """Return the figures of the epoch with the least validation loss."""
    rows = {epoch: row for epoch, row in log.rows.items() if "val_loss" in row}
    if not rows:
        return {}
    epoch = min(rows, key=lambda each: rows[each]["val_loss"])
    return {"epoch": float(epoch)} | {name: value for name, value in rows[epoch].items() if math.isfinite(value)}
