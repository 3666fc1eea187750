"""Small networks and a recipe for twin networks, on the packaged digits: zeros beside the digits 1 to 5."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lit_od.recipes.load import from_tree, read_tree
from lit_od.training.doc import LitDOC
from lit_od.training.loop.checkpoints import WholeFiles
from tests.support.images import ASSETS


class Chain(nn.Module):
    """Three convolutions, each with its normalisation, and a classifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5)),
            nn.Sequential(nn.Conv2d(8, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10)),
        )
        self.last = nn.Conv2d(10, 12, 1)
        self.last_norm = nn.BatchNorm2d(12)
        self.classifier = nn.Linear(12, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = torch.relu(self.norm(self.stem(pixels)))
        for block in self.blocks:
            pixels = torch.relu(block(pixels))
        return self.classifier(self.last_norm(self.last(pixels)).mean((2, 3)))


class Plain(Chain):
    """Without draws of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.blocks[0][2].p = 0.0


class Skip(Chain):
    """What the stem gives is wanted again behind the blocks."""

    def forward(self, pixels: Tensor) -> Tensor:
        early = self.norm(self.stem(pixels))
        late = self.blocks(early)
        return self.classifier(self.last_norm(self.last(late)).mean((2, 3)) + early.mean())


class Large(Chain):
    """Its stem gives values that half precision cannot hold."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.constant_(self.stem.weight, 1e6)


class Recorded(LitDOC):
    """Keeps the loss of every step."""

    def on_train_start(self) -> None:
        self.losses: list[float] = []
        self.first = {name: each.clone() for name, each in self.state_dict().items()}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        return loss


TRUST = (f"{__name__}.Recorded", *(f"{__name__}:{name}" for name in ("Chain", "Plain", "Large", "Skip")))
"""Import paths that the recipes here may name."""


def options(**changes):
    """Arguments of LitDOC for small images."""
    chosen = {"network": f"{__name__}:Chain", "layer": "last_norm", "reference_classes": 5, "pretrained": False}
    return chosen | {"channels": 1, "image_size": [28, 28]} | changes


def tree(**model):
    """A recipe's tree; the keywords are LitDOC's."""
    arguments = {name: value for name, value in options(**model).items() if name not in ("channels", "image_size")}
    arguments.pop("reference_classes")
    demo = read_tree("demo")
    data = {
        "root": "lit_od:assets",
        "train": "digits.npz:train_images:0",
        "test": "digits.npz:test_images:0",
        "prepare": {"size": [28, 28], "mode": "grey"},
        "split": {"validation": 0.1, "calibration": 0.2},
        "batch_size": 16,
        "reference": {"path": "digits.npz:train_images:0,1,2,3,4,5", "exclude": ["0"], "limit": 200},
    }
    return {
        "name": "twins",
        "data": data,
        "model": {"class_path": "lit_od.training.LitDOC", "init_args": arguments},
        "trainer": {"max_epochs": 2, "limit_train_batches": 3, "accelerator": "cpu"},
        "early_stopping": None,
        "detector": {"kind": "knn"},
        "calibration": {"rule": "percentile", "q": 90},
        "seed": demo["seed"],
        "evaluation": {"outliers": {"ones": {"path": "digits.npz:test_images:1"}}},
    }


def recipe(data=None, reference=None, trainer=None, class_path=None, seed=0, **model):
    """The same as a Recipe, with changes of its parts."""
    found = tree(**model)
    found["data"] |= data or {}
    if found["data"]["reference"] is not None:
        found["data"]["reference"] |= reference or {}
    found["trainer"] |= trainer or {}
    found["model"]["class_path"] = class_path or found["model"]["class_path"]
    return from_tree(found | {"seed": seed}, "twins")


def digits_root(folder, *, without=0):
    """A data root of its own with the packaged digits, less so many of the training images."""
    with np.load(ASSETS / "digits.npz") as arrays:
        kept = {name: rows[without:] if name.startswith("train") else rows for name, rows in arrays.items()}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "digits.npz", **kept)
    return folder


class Killed(BaseException):
    """In the place of SIGKILL."""


def kill_before_last(patched):
    """Let runs be killed between the two checkpoints of an epoch."""
    save = WholeFiles.save_checkpoint

    def killed(self, checkpoint, path, storage_options=None):
        if Path(path).name == "last.ckpt":
            raise Killed
        save(self, checkpoint, path, storage_options)

    patched.setattr(WholeFiles, "save_checkpoint", killed)


def without_fingerprints(checkpoint):
    """Make a checkpoint one of an earlier version."""
    stored = torch.load(checkpoint, weights_only=True)
    del stored["lit_od"]["fingerprints"]
    torch.save(stored, checkpoint)


def train_recorded(out, batch_size, steps):
    """A run of each process of a group, whose losses and weights are left in the folder."""
    from lit_od.training.loop.train import train

    kept = []
    Recorded.on_train_end = lambda self: kept.append(self)
    asked = recipe(
        data={"batch_size": batch_size},
        trainer={"max_epochs": steps // 4, "limit_train_batches": 4},
        class_path=f"{__name__}.Recorded",
        network=f"{__name__}:Plain",
        optimizer="sgd",
        learning_rate=0.02,
        compactness=10.0,
        cache_trunk=False,
    )
    train(asked, Path(out) / "run", trust=TRUST)
    (module,) = kept
    rank = module.global_rank
    found = {"losses": module.losses, "first": module.first, "weights": dict(module.state_dict())}
    torch.save(found, Path(out) / f"rank{rank}.pt")
