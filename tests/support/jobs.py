"""Jobs that the processes of tests.support.ranks carry out."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import nn

from lit_od.commands._launch import each_process
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.fit import Origin
from lit_od.fitting.partial_state import merged
from lit_od.fitting.shards import own_shard
from lit_od.images.find_local import find
from lit_od.recipes.load import read
from lit_od.training.autoencoder import LitAutoencoder
from lit_od.training.classifier import LitClassifier
from lit_od.training.data.image_data import ImageData
from lit_od.training.doc import LitDOC
from lit_od.training.loop.outlier_metrics import OutlierMetrics
from lit_od.training.loop.trainer import quiet, trainer_arguments
from tests.support.bundles import local_engine, make_bundle
from tests.support.images import ASSETS, GREY


def fit_all(out, models, detectors):
    """Fit each detector on 1,003 images, and keep what came out of it; `models` are ONNX files by what they give."""
    sources = find([f"{ASSETS}/digits.npz:train_images:0,1,2,3,4,5,6,7"])
    garments = find([f"{ASSETS}/garments.npz:images"])[:150]

    def work(group):
        for name, (kind, options) in detectors.items():
            model = Path(models["errors" if kind == "reconstruction" else "features"]).read_bytes()
            bundle = make_bundle(
                Path(out) / name,
                model=model,
                preparation=GREY,
                fit=sources[:1003],
                calibration=sources[1003:1270],
                validation=sources[1270:1340],
                detector={"kind": kind, **options},
                rule={"rule": "percentile", "q": 95},
                origin=Origin(name="job"),
                threads=1,
                group=group,
            )
            engine, own = local_engine(model), own_shard(1003, group)
            shard = sources[own.start : own.stop]
            part = engine.gather_shard(DetectorSpec(kind, options), shard, first_row=own.start, labels=labels_of(shard))
            parts = list(group.gather(part.to_bytes()))
            images = np.stack([np.asarray(source.decode())[..., None] for source in garments])
            scores = bundle.detector.score(engine.extractor.backbone(images))
            if group.rank == 0:
                found = dict(bundle.detector.state())
                found |= {f"gathered.{key}": value for key, value in gathered(merged(parts)).items()}
                found |= {"threshold": np.array(bundle.calibration.threshold), "scores": scores}
                found |= {"p": bundle.calibration.p_values(scores), "calibration": bundle.calibration.scores}
                np.savez(Path(out) / f"{name}.npz", **found)
            (Path(out) / f"{name}-{group.rank}.txt").write_text(bundle.manifest.sha256)
        return 0

    return each_process(work)


def lose(victim):
    """One process is killed while the others have done their work, and wait."""

    def work(group):
        if group.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    return each_process(work)


def labels_of(sources):
    return np.array([int(source.label) for source in sources])


def gathered(state):
    moments = getattr(state.gathered, "moments", None)
    if moments:
        each = moments if isinstance(moments, dict) else {0: moments}
        return {f"moments.{label}.{key}": value for label, sums in each.items() for key, value in sums.state().items()}
    store = getattr(state.gathered, "store", None)
    return {"rows": store.rows()} if store is not None else {}


class Watched(LightningModule):
    """Validates with an outlier score that is a function of the image alone."""

    def __init__(self):
        super().__init__()
        self.metrics = OutlierMetrics(threshold=45.0)

    def validation_step(self, batch, _):
        scores = batch[0].double().mean(dim=(1, 2, 3))
        self.metrics.update(scores, batch[1] > 4)

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()


def validate(out, share):
    """Evaluate in Lightning's validation loop."""

    def work(group):
        recipe = read("demo", [f"--data.split.validation={share}", "--data.augment=null"])
        data = ImageData(recipe.data, seed=0)
        with quiet():
            arguments = trainer_arguments({"accelerator": "cpu"}) | {"logger": False, "enable_progress_bar": False}
            trainer = Trainer(**arguments, use_distributed_sampler=False, enable_checkpointing=False)
            found = trainer.validate(Watched(), datamodule=data, verbose=False)[0]
        found["images"] = len(data.sources("validation"))
        (Path(out) / f"{group.rank}.json").write_text(json.dumps(found))
        return 0

    return each_process(work)


def measure(out, scores, is_outlier, shares):
    """Compute outlier metrics; the first process has a share of the rows, the second one the rest."""

    def work(group):
        found = []
        for share in shares:
            metric, end = OutlierMetrics(threshold=33.0), (share, len(scores))[group.rank]
            for start in range((0, share)[group.rank], end, 4):
                rows = slice(start, min(start + 4, end))
                metric.update(torch.tensor(scores[rows]), torch.tensor(is_outlier[rows]))
            found.append({name: value.item() for name, value in metric.compute().items()})
        (Path(out) / f"{group.rank}.json").write_text(json.dumps(found))
        return 0

    return each_process(work)


class Down(nn.Sequential):
    """Half of a small autoencoder: pixels (n, 1, 28, 28) to a code (n, 8, 7, 7)."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))


class Up(nn.Sequential):
    """The other half."""

    def __init__(self):
        super().__init__(nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, stride=4), nn.Sigmoid())


class Recorded:
    """Notes the loss of every step, and kills its process where it is told to."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        if str(self.global_step) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), getattr(signal, os.environ.get("KILL_BY", "SIGKILL")))
        if os.environ.get("FAIL_ON") == str(self.global_rank) and self.global_step == 3:
            loss = loss * float("nan")
        return loss

    def on_train_epoch_start(self):
        if str(self.current_epoch) == os.environ.get("INTERRUPT_AT"):
            raise KeyboardInterrupt

    def on_train_end(self):
        if folder := os.environ.get("LOSSES"):
            torch.save(self.losses, Path(folder) / f"{self.global_rank}.losses")


class RecordedClassifier(Recorded, LitClassifier):
    """A classifier."""


class RecordedAutoencoder(Recorded, LitAutoencoder):
    """An autoencoder."""


class RecordedDOC(Recorded, LitDOC):
    """Twin networks."""
