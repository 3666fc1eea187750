"""Trainings on packaged images, beside the CPU's and beside a plain loop."""

import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_od.images.batching import load
from lit_od.recipes.load import read
from lit_od.recipes.schema import Recipe
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.twin_data import TwinData, data_of
from lit_od.training.loop.train import train
from lit_od.training.loop.trainer import compile_network, make_module, module_arguments, quiet, seeded
from lit_od.training.trained_module import TrainedModule

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
STEPS, BATCH = (40, 64) if ON_GPU else (4, 16)
"""Steps an epoch, images a step."""
UNTIMED, EPOCHS = (2, 6) if ON_GPU else (1, 2)
"""Epochs that are not timed, in which the network is compiled and the fastest convolutions are found; all epochs."""
COMPARED = 50
"""Steps whose losses are compared."""

PRECISIONS = {"32-true": 1e-2, "bf16-mixed": 2e-2, "16-mixed": 1e-2}
"""Largest difference of a loss from the CPU's in 32-true, over the largest loss; convolutions in 32-true have 10 bits
of mantissa on a GPU (TF32), as float16 has, and bfloat16 has 7."""
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

TWINS = (
    "--data.train=digits.npz:train_images:0",
    "--data.test=digits.npz:test_images:0",
    "--data.outlier_classes=[]",
    "--data.augment=null",
    "--data.reference={path: digits.npz:train_images, exclude: ['0']}",
    "--model.class_path=lit_od.training.LitDOC",
    "--model.init_args={network: 'lit_od.training.networks.feature_network:SmallCNN', layer: dense, pretrained: false, "
    "trained: [convolutions.2, dense], cache_trunk: false, learning_rate: 0.001}",
    "--detector={kind: knn}",
)
MODULES = {
    "LitClassifier": ("--model.init_args.dropout=0",),  # a GPU drops others than the CPU
    "LitAutoencoder": (
        "--data.outlier_classes=[]",
        "--model.class_path=lit_od.training.LitAutoencoder",
        "--model.init_args={architecture: conv, optimizer: adam}",
        "--detector={kind: reconstruction}",
    ),
    "LitDOC": TWINS,
}
"""Changes of the recipe `demo` by module. Images are digits of 28 x 28 pixels; beside the classifier, outliers are
watched."""


@dataclass(frozen=True, slots=True)
class Training:
    """A training of the check."""

    module: str
    precision: str
    mode: str
    """"eager", "compiled", or the backend that joins its only process."""


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of a training.

    Attributes:
        training: The training.
        images_per_second: Of `lit_od.training.train`, without validation.
        plain: Images a second of the plain loop.
        loading: Share of the time that fetching, moving and augmenting images take.
        peak_mb: Largest memory on the GPU, MB; None on the CPU.
        difference: Largest difference of a loss from the CPU's, over the largest.
        error: One line where it failed.
    """

    training: Training
    images_per_second: float = 0.0
    plain: float = 0.0
    loading: float = 0.0
    peak_mb: float | None = None
    difference: float = float("nan")
    error: str = ""

    @property
    def agrees(self) -> bool:
        """True if the losses are the CPU's within the tolerance of the precision."""
        return not self.error and self.difference <= PRECISIONS[self.training.precision]

    def row(self) -> str:
        """Return the row of the table."""
        name = f"{self.training.module:<15}{self.training.precision:<11}{self.training.mode:<9}"
        if self.error:
            return f"{name} {self.error}"
        peak = "-" if self.peak_mb is None else f"{self.peak_mb:.0f}"
        return (
            f"{name}{self.images_per_second:>10,.0f}{self.plain:>10,.0f}{self.images_per_second / self.plain:>7.2f}"
            f"{self.loading:>9.0%}{peak:>9}{self.difference:>11.1e}  {'agrees' if self.agrees else 'DIFFERS'}"
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures by name."""
        found = {name: None if value != value else value for name, value in asdict(self).items()}  # JSON has no NaN
        return found.pop("training") | found | {"agrees": self.agrees}


def header() -> str:
    """Return the head of the table."""
    return (
        f"{'module':<15}{'precision':<11}{'mode':<9}{'images/s':>10}{'plain':>10}{'ratio':>7}"
        f"{'loading':>9}{'peak MB':>9}{'loss diff':>11}"
    )


def describe() -> dict[str, str]:
    """Return the facts of the machine that figures depend on."""
    device = torch.cuda.get_device_name() if ON_GPU else f"none, {torch.get_num_threads()} threads of the CPU instead"
    left_out = "" if ON_GPU else "; 16-mixed is left out, a CPU has none"
    steps = f"{STEPS} steps of {BATCH} images an epoch, {EPOCHS} epochs{left_out}"
    versions = f"{torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    return {"GPU": device, "torch": versions, "trainings": steps}


def trainings(*, compiled: bool) -> Iterator[Training]:
    """Yield all trainings, the quick ones first.

    Args:
        compiled: False leaves out what runs torch.compile.
    """
    precisions = [name for name in PRECISIONS if ON_GPU or name != "16-mixed"]
    yield from (Training(module, precision, "eager") for module in MODULES for precision in precisions)
    joined = MODULES if ON_GPU else ["LitClassifier"]
    yield from (Training(module, "32-true", "nccl" if ON_GPU else "gloo") for module in joined)
    if compiled:
        fewer = precisions if ON_GPU else ["32-true"]
        yield from (Training(module, precision, "compiled") for module in MODULES for precision in fewer)


def reference_losses(folder: Path) -> dict[str, list[float]]:
    """Train each module on the CPU in 32-true; return its losses by step.

    Args:
        folder: Folder for the runs.
    """
    epochs = -(-COMPARED // STEPS) if ON_GPU else EPOCHS
    found = {}
    for module in MODULES:
        watch = Watch(torch.device("cpu"))
        recipe = _recipe(Training(module, "32-true", "eager"), f"--trainer.max_epochs={epochs}", accelerator="cpu")
        _train(recipe, folder / module, watch)
        found[module] = watch.losses()
    return found


def measure(training: Training, reference: list[float], folder: Path) -> Result:
    """Train, and run the plain loop.

    Args:
        training: The training.
        reference: Losses by step on the CPU in 32-true.
        folder: Folder of the run.
    """
    torch.compiler.reset()
    watch = Watch(DEVICE)
    recipe = _recipe(training, f"--trainer.max_epochs={EPOCHS}", accelerator=DEVICE.type)
    try:
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        _train(recipe, folder, watch)
        peak = torch.cuda.max_memory_allocated() / 1e6 if ON_GPU else None
        losses = watch.losses()[:COMPARED]
        pairs = list(zip(losses, reference, strict=False))
        difference = max(abs(loss - other) for loss, other in pairs) / max(map(abs, reference))
        if training.mode not in ("eager", "compiled", watch.backend):
            return Result(training, error=f"wanted a process group of {training.mode}, got {watch.backend or 'none'}")
        return Result(training, watch.speed, plain_speed(recipe, training), watch.loading, peak, difference)
    except Exception as error:  # one that fails leaves the others to be seen
        return Result(training, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def plain_speed(recipe: Recipe, training: Training) -> float:
    """Return the images a second of the module's step over tensors on the device.

    Args:
        recipe: The training's recipe.
        training: The training.
    """
    data = data_of(recipe.data, seed=recipe.seed)
    assert recipe.model is not None
    kind, arguments = module_arguments(recipe.model, data)
    with seeded(recipe.seed), quiet(kind):
        module = make_module(kind, arguments)
        assert isinstance(module, TrainedModule)
        module._trainer = SimpleNamespace(
            world_size=1, gradient_clip_val=None, check_val_every_n_epoch=1
        )  # what modules ask of a Trainer
        batches = _batches(data)
        module.to(DEVICE).train()
        chosen: Any = module.configure_optimizers()
        optimizer = chosen["optimizer"] if isinstance(chosen, dict) else chosen
        scaler = torch.amp.GradScaler(DEVICE.type, enabled=training.precision == "16-mixed")
        if training.mode == "compiled":
            compile_network(module)
        half = AUTOCAST.get(training.precision)

        def run(steps: int) -> float:
            _wait(DEVICE)
            started = time.perf_counter()
            for step in range(steps):
                with torch.autocast(DEVICE.type, dtype=half, enabled=half is not None):
                    loss: Tensor = module.training_step(batches[step % len(batches)], step)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            _wait(DEVICE)
            return time.perf_counter() - started

        run(STEPS // 2)
        steps = (EPOCHS - UNTIMED) * STEPS
        return _images(batches[0]) * steps / run(steps)


@dataclass(slots=True)
class _Clock:
    """Seconds of the timed epochs: all of them, and between their steps."""

    total: float = 0.0
    between: float = 0.0
    images: int = 0


class Watch(Callback):
    """Losses and times of a training.

    Attributes:
        backend: Backend of the process group; empty where there is none.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.backend = device, ""
        self._losses: list[Tensor] = []
        self._clock = _Clock()
        self._epoch_began = self._left = 0.0

    @property
    def speed(self) -> float:
        """Images a second."""
        return self._clock.images / self._clock.total

    @property
    def loading(self) -> float:
        """Share of the time between the steps."""
        return self._clock.between / self._clock.total

    def losses(self) -> list[float]:
        """Return the loss of each step."""
        return torch.stack(self._losses).tolist() if self._losses else []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if torch.distributed.is_initialized():
            self.backend = torch.distributed.get_backend()
        _wait(self.device)
        self._epoch_began = self._left = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch >= UNTIMED:
            self._clock.between += time.perf_counter() - self._left
            self._clock.images += _images(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach().float())
        if trainer.is_last_batch:
            _wait(self.device)
            if trainer.current_epoch >= UNTIMED:
                self._clock.total += time.perf_counter() - self._epoch_began
        self._left = time.perf_counter()


def _train(recipe: Recipe, folder: Path, watch: Watch) -> None:
    """Train with a callback; the module gives it to the Trainer."""
    assert recipe.model is not None
    before = LightningModule.configure_callbacks
    LightningModule.configure_callbacks = lambda self: [watch]  # type: ignore[method-assign]
    try:
        train(recipe, folder)
    finally:
        LightningModule.configure_callbacks = before  # type: ignore[method-assign]


def _recipe(training: Training, *words: str, accelerator: str) -> Recipe:
    """Return the recipe of a training on a device."""
    fewer = [] if ON_GPU else ["--data.limit=200"]
    options = {"precision": training.precision, "accelerator": accelerator, "devices": 1, "limit_train_batches": STEPS}
    options["compile"] = str(training.mode == "compiled").lower()
    options["strategy"] = "ddp" if training.mode in ("nccl", "gloo") else "auto"
    changes = [f"--trainer.{name}={value}" for name, value in options.items()]
    changes += [f"--data.batch_size={BATCH}", "--early_stopping=null", *fewer, *MODULES[training.module]]
    return read("demo", [*changes, *words])


def _batches(data: ImageData) -> list[Any]:
    """Return the batches of the training's images, on the device and not augmented."""
    streams = {"target": data, "reference": data.reference} if isinstance(data, TwinData) else {"": data}
    rows = {name: list(_stream(each)) for name, each in streams.items()}
    count = min(map(len, rows.values()))
    batches = [{name: each[step] for name, each in rows.items()} for step in range(count)]
    return batches if isinstance(data, TwinData) else [batch[""] for batch in batches]


def _stream(data: ImageData) -> Iterator[tuple[Tensor, Tensor]]:
    images = torch.from_numpy(load(data.sources("train"), data.config.prepare)).to(DEVICE)
    labels = torch.from_numpy(data.labels("train")).to(DEVICE)
    order = torch.randperm(len(images)).to(DEVICE)
    for start in range(0, len(images) - BATCH + 1, BATCH):
        rows = order[start : start + BATCH]
        yield images[rows], labels[rows]


def _images(batch: Any) -> int:
    """Return the number of images of a batch, of both streams together."""
    return sum(len(images) for images, _ in batch.values()) if isinstance(batch, dict) else len(batch[0])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
