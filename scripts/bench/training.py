"""Compare the speed of `lit-od train` with a torchvision loop and with the limit.

    python scripts/bench/training.py DATA [--runs 7] [--steps 128] [--workers 2] [--threads N] [--precision 32-true]

DATA holds MNIST. Ours is the recipe mnist-digits-notebook as it ships, through the function behind the command.
Theirs is what a reader of the tutorials writes: transforms of one image after another in a DataLoader with worker
processes, the same network in the default memory format, the same batch size and ranges, Adam and
cross-entropy in float32; without the recipe's weight penalty, which only ours computes. --precision is
for ours alone.

The limit is the recipe's own step, loss and optimiser in a plain loop, on tensors that lie in memory: without
augmentation, Lightning and its callbacks.

All live in one process and take turns of so many steps, the first of which warms up. The workers are
stopped while it is another's turn and go on where they were, so that no side works in another's time.
Prints the medians of the runs, the medians of each run's ratios, and a JSON line.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms as T  # type: ignore[import-untyped]
from torchvision.datasets import MNIST  # type: ignore[import-untyped]

from lit_od.images.batching import load
from lit_od.recipes.load import read
from lit_od.recipes.schema import Recipe
from lit_od.training import LitClassifier
from lit_od.training.data.image_data import ImageData
from lit_od.training.loop.train import train
from lit_od.training.loop.trainer import module_arguments
from lit_od.training.networks.feature_network import SmallCNN

CLASSES = 8
"""Digits 0 to 7, as in the recipe."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of torch, for both; torch's choice by default")
    parser.add_argument("--precision", default="32-true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    total = (args.runs + 1) * args.steps
    limits = ("max_epochs=1", f"limit_train_batches={total}", "limit_val_batches=1", f"precision={args.precision}")
    words = [word for limit in limits for word in f"--trainer.{limit}".split("=")]
    recipe = read("mnist-digits-notebook", ["--data.root", args.data, *words])
    plain, limit = Plain(args.data, recipe, args.workers), Limit(recipe)
    turns = Turns((plain, limit), args.steps)
    with tempfile.TemporaryDirectory() as folder:
        LitClassifier.configure_callbacks = lambda self: [turns]  # type: ignore[method-assign]
        train(recipe, Path(folder) / "run")
    if len(turns.runs) <= args.runs:
        parser.error(f"an epoch has no {total} steps: ask for fewer")
    images = args.steps * recipe.data.batch_size
    runs = [[images / seconds for seconds in run] for run in turns.runs[1:]]
    ours, theirs, most = (statistics.median(run[side] for run in runs) for side in range(3))
    ratios, shares = (sorted(run[0] / run[side] for run in runs) for side in (1, 2))
    ratio, share = statistics.median(ratios), statistics.median(shares)
    print(
        f"lit-od train {ours:,.0f} images/s, plain loop with {args.workers} workers {theirs:,.0f} images/s, "
        f"{len(runs)} runs: {ratio:.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})\n"
        f"the limit {most:,.0f} images/s: {share:.2f} of it ({shares[0]:.2f} to {shares[-1]:.2f})"
    )
    figures = {"ours": ours, "theirs": theirs, "ratio": ratio, "ratios": ratios, "precision": args.precision}
    figures |= {"limit": most, "share": share, "shares": shares}
    print(json.dumps(figures | {"workers": args.workers, "threads": torch.get_num_threads()}))


class Plain:
    """The plain loop; its workers run during a turn alone."""

    def __init__(self, data: str, recipe: Recipe, workers: int) -> None:
        """Build the loader, the network and the optimiser.

        Args:
            data: Folder that holds MNIST.
            recipe: The recipe, for batch size and augmentation.
            workers: Worker processes of the loader.
        """
        augment = recipe.data.augment
        assert augment is not None
        size, shift = 1 - augment.zoom, augment.shift
        transform = T.Compose(
            [
                T.RandomAffine(
                    augment.rotation,
                    translate=(shift, shift),
                    scale=(size, 2 - size),
                    shear=augment.shear,
                    interpolation=T.InterpolationMode.BILINEAR,
                ),
                T.ColorJitter(brightness=augment.brightness),
                T.ToTensor(),
                T.Normalize(0.5, 0.5),
            ]
        )
        digits = MNIST(data, transform=transform)
        rows = torch.nonzero(digits.targets < CLASSES)[:, 0].tolist()
        batch = recipe.data.batch_size
        self.loader = DataLoader(Subset(digits, rows), batch_size=batch, shuffle=True, num_workers=workers)
        network = SmallCNN(channels=1, image_size=(28, 28)).to(memory_format=torch.contiguous_format)
        self.model = nn.Sequential(network, nn.Linear(network.num_features, CLASSES))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.batches: Iterator[tuple[Tensor, Tensor]] = self._endless()

    def turn(self, steps: int) -> float:
        """Take steps; return their seconds."""
        self._signal(signal.SIGCONT)
        started = time.perf_counter()
        for _ in range(steps):
            images, labels = next(self.batches)
            loss = F.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        took = time.perf_counter() - started
        self._signal(signal.SIGSTOP)
        return took

    def close(self) -> None:
        """End the workers."""
        self._signal(signal.SIGCONT)
        del self.batches

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def _signal(self, which: signal.Signals) -> None:
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            os.kill(worker.pid, which)


class Limit:
    """The recipe's step over tensors in memory."""

    def __init__(self, recipe: Recipe) -> None:
        """Load the images, and make the module and its optimiser.

        Args:
            recipe: The recipe.
        """
        data = ImageData(recipe.data, seed=recipe.seed)
        assert recipe.model is not None
        kind, arguments = module_arguments(recipe.model, data)
        module = kind(**arguments)
        assert isinstance(module, LitClassifier)
        self.module, self.optimizer = module.train(), module.configure_optimizers()["optimizer"]
        precision = str(recipe.trainer.get("precision"))
        self.half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        order = torch.randperm(len(data.sources("train")))
        images = torch.from_numpy(load(data.sources("train"), data.config.prepare))[order]
        labels = torch.from_numpy(data.labels("train"))[order]
        batch = recipe.data.batch_size
        self.batches = list(zip(images.split(batch)[:-1], labels.split(batch)[:-1], strict=True))

    def turn(self, steps: int) -> float:
        """Take steps; return their seconds."""
        started = time.perf_counter()
        for step in range(steps):
            with torch.autocast("cpu", dtype=self.half, enabled=self.half is not None):
                loss = self.module.training_step(self.batches[step % len(self.batches)], step)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return time.perf_counter() - started


class Turns(Callback):
    """Turns of all sides: after each run of our steps the others have as many.

    Attributes:
        runs: Seconds of our steps, of the plain loop's and of the limit's, a tuple a run.
    """

    def __init__(self, others: tuple[Plain, Limit], steps: int) -> None:
        self.others, self.steps = others, steps
        self.runs: list[tuple[float, float, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.steps:
            return
        ours = time.perf_counter() - self.started
        plain, limit = (other.turn(self.steps) for other in self.others)
        self.runs.append((ours, plain, limit))
        self.started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.others[0].close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.others[0].close()


if __name__ == "__main__":
    main()
