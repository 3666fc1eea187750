"""Several processes give what one gives: fitted, trained, evaluated; and what stops one of them stops all."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_od.bundle.folder import Bundle
from lit_od.recipes.load import read
from lit_od.training.data.image_data import ImageData
from tests.support.graphs import graph_of
from tests.support.job_server import said
from tests.support.once import made_once
from tests.support.small_training import rows_of

EXPORTED = Path(__file__).parents[2] / "exported" / "mnist-digits" / "backbone.onnx"
DETECTORS = {
    "mahalanobis": ("mahalanobis", {}),
    "classes": ("mahalanobis", {"class_conditional": True, "relative": True}),
    "knn": ("knn", {}),
    "sampled": ("knn", {"coreset": 300, "coreset_method": "sample"}),
    "budget": ("knn", {"memory_budget": "40kB", "coreset_method": "sample"}),
    "covering": ("knn", {"coreset": 100, "standardise": True}),
    "lof": ("lof", {"precision": "fp16"}),
    "gmm": ("gmm", {"covariance": "tied"}),
    "reservoir": ("gmm", {"components": 3, "reservoir": 300, "covariance": "diag"}),
    "pca_residual": ("pca_residual", {}),
    "reconstruction": ("reconstruction", {"outlier_perc": 20}),
}
SMALL = [
    "--data.limit=300", "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--data.augment=null",
]  # fmt: skip
JOBS = ("RecordedClassifier", "RecordedDOC", "RecordedAutoencoder", "Down", "Up")
TRUST = [f"--trust=tests.support.jobs.{name}" for name in JOBS]
DEMO = [*SMALL, *TRUST]
CLASSIFIER = "--model.class_path=tests.support.jobs.RecordedClassifier"


# Fitting


@pytest.fixture(scope="module")
def fitted(ranks, of_all):
    """What 1, 2 and 4 processes make of 1,003 images, by detector."""

    def fit(folder):
        picture = np.linspace(0, 0.6, 28 * 28, dtype=np.float32).reshape(28, 28, 1)
        (folder / "errors.onnx").write_bytes(graph_of(["errors"], (28, 28, 1), picture=picture))
        given = {"models": {"features": str(EXPORTED), "errors": str(folder / "errors.onnx")}, "detectors": DETECTORS}
        for world in (1, 2, 4):
            out = folder / str(world)
            statuses = ranks(world, out, call="tests.support.jobs:fit_all", out=str(out), **given)
            assert statuses == [0] * world, said(out)
            assert said(out) == ("", "")

    return made_once(of_all / "fitted", fit)


MOMENTS = ("mean", "scatter", "third_moments", "fourth_moments")
TOLERANCES = {
    **dict.fromkeys("bank centre k_distances densities shape classes weights p".split(), 0.0),
    **dict.fromkeys("means whitener whiteners background_mean background_whitener".split(), 1e-9),
    **dict.fromkeys("mean scale components noise scores calibration threshold".split(), 1e-9),
    **dict.fromkeys(("gathered.rows", "gathered.moments.count"), 0.0),
    **dict.fromkeys((f"gathered.moments.{each}" for each in MOMENTS), 1e-12),
}
"""Largest relative difference of each array: of a detector's state, of what it gives, and of what was gathered."""


def tolerance(key):
    """Return the largest relative difference that an array may have; KeyError if nobody has said it."""
    return TOLERANCES[re.sub(r"moments\.\d+\.", "moments.", key)]


def relative(one, other):
    """The largest difference over the largest magnitude."""
    return np.abs(one - other).max() / max(np.abs(other).max(), 1e-300)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", DETECTORS)
def test_processes_fit_what_one_fits(fitted, name, world):
    one, several = (dict(np.load(fitted / str(number) / f"{name}.npz")) for number in (1, world))
    assert one.keys() == several.keys()
    exact = DETECTORS[name][0] in ("knn", "lof", "reconstruction") or name == "reservoir"
    for key, want in one.items():
        if exact or tolerance(key) == 0:
            np.testing.assert_array_equal(several[key], want, err_msg=key)
        else:
            assert relative(several[key], want) <= tolerance(key), key


def test_what_is_compared_is_known():
    with pytest.raises(KeyError, match="velocity"):
        tolerance("velocity")
    with pytest.raises(KeyError, match="gathered"):
        tolerance("gathered.velocity")


@pytest.mark.parametrize("name", DETECTORS)
def test_all_processes_return_the_bundle_that_the_first_has_written(fitted, name):
    written = Bundle.read(fitted / "4" / name)
    assert {(fitted / "4" / f"{name}-{rank}.txt").read_text() for rank in range(4)} == {written.manifest.sha256}
    cost = written.manifest.provenance.metrics.get("bank")
    assert cost == Bundle.read(fitted / "1" / name).manifest.provenance.metrics.get("bank")
    assert (cost is not None) == (name == "covering")


@pytest.mark.slow
def test_the_folder_recipe_under_torchrun(tmp_path, digit_files):
    """The command itself, started by torchrun: one bundle, one message, no torch but torchrun's own."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lit_od.cli", "fit", "folder"]
    words += [f"--data.root={digit_files}", "--data.prepare.size=[32, 32]", "--out", str(tmp_path / "bundle")]
    words += ["--detector.kind=knn", "--detector.k=3"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("knn on 32 images") == 1
    assert Bundle.read(tmp_path / "bundle").manifest.calibration.images == 8


# Training


def train(ranks, world, folder, *words, **environment):
    out = folder / "run"
    environment |= {"LOSSES": str(folder)}
    statuses = ranks(world, folder, "train", "demo", "--out", out, *DEMO, *words, environment=environment)
    assert statuses == [0] * world, said(folder)
    losses = [torch.load(folder / f"{rank}.losses") for rank in range(world)]
    return np.mean(losses, axis=0), torch.load(out / "best.ckpt", weights_only=True)["state_dict"]


SAME_STEPS = {
    "classifier, sgd": (CLASSIFIER, "--model.init_args.optimizer=sgd", "--model.init_args.learning_rate=0.01"),
    # Adam divides by what rounding makes of small gradients: at 1e-3 a run whose sums are taken in another order
    # has gone its own way after thirty steps
    "classifier, adam": (CLASSIFIER, "--model.init_args.learning_rate=0.0001"),
    "doc": (
        "--model.class_path=tests.support.jobs.RecordedDOC",
        "--model.init_args={network: test_resnet.r160_in1k, layer: layer4, pretrained: false}",
        "--model.init_args.learning_rate=0.0003",
        "--data.train=digits.npz:train_images:0,1",
        "--data.test=digits.npz:test_images:0,1",
        "--data.outlier_classes=[]",
        "--data.reference={path: garments.npz:images, limit: 200}",
        "--data.prepare.size=[32, 32]",
        "--detector.kind=knn",
    ),
    "autoencoder": (
        "--model.class_path=tests.support.jobs.RecordedAutoencoder",
        "--model.init_args={encoder: tests.support.jobs.Down, decoder: tests.support.jobs.Up, learning_rate: 0.003}",
        "--detector.kind=reconstruction",
    ),
}


@pytest.mark.parametrize("name", SAME_STEPS)
def test_two_processes_train_as_one_with_twice_the_batch(ranks, tmp_path, name):
    words = [*SAME_STEPS[name], "--data.limit=250", "--trainer.max_epochs=8"]
    words += ["--model.init_args.dropout=0"] if "classifier" in name else []
    if name != "doc":  # which takes whole batches alone
        rows = len(ImageData(read("demo", ["--data.limit=250"]).data, seed=0).sources("train"))
        assert rows % 2 == 0  # else two processes leave one out
    else:
        words += ["--trainer.max_epochs=9"]
    one, weights = train(ranks, 1, tmp_path / "1", *words, "--data.batch_size=32")
    two, others = train(ranks, 2, tmp_path / "2", *words, "--data.batch_size=16")
    assert len(one) == len(two) >= 50
    assert one[-1] < one[0]
    assert np.abs(one - two)[:50].max() <= 1e-4
    assert all(torch.allclose(weights[key], others[key], atol=1e-3) for key in weights)
    printed, wrong = said(tmp_path / "2")
    assert (printed.count("best.ckpt"), wrong) == (1, "")
    assert {file.name for file in (tmp_path / "2" / "run").iterdir()} == {
        "best.ckpt", "last.ckpt", "config.yaml", "metrics.csv", "learning_curves.png", "samples.png",
    }  # fmt: skip


def test_fit_trains_exports_and_fits_in_two_processes(ranks, tmp_path):
    assert ranks(2, tmp_path, "fit", "demo", "--out", tmp_path / "b", *DEMO, "--trainer.max_epochs=1") == [0, 0]
    printed, wrong = said(tmp_path)
    assert printed.count("Try it: lit-od score") == 1, printed
    assert wrong.startswith("lit-od: percentile 99 asks for a false-positive rate of 1 %")
    assert wrong.count("\n") == 1
    bundle = Bundle.read(tmp_path / "b")
    data = ImageData(read("demo", SMALL).data, seed=0)
    assert bundle.manifest.detector.images == len(data.sources("train"))
    assert bundle.calibration.scores.size == len(data.sources("calibration"))
    assert "val_loss" in bundle.manifest.provenance.metrics


def test_export_in_two_processes_is_export_in_one(ranks, tmp_path):
    train(ranks, 1, tmp_path / "t", CLASSIFIER, "--trainer.max_epochs=1")
    for world in (1, 2):
        words = ["export", tmp_path / "t" / "run" / "best.ckpt", "--detector", "knn", "--out", tmp_path / str(world)]
        words += TRUST
        assert ranks(world, tmp_path / f"said{world}", *words) == [0] * world
    one, two = (Bundle.read(tmp_path / str(world)) for world in (1, 2))
    np.testing.assert_array_equal(one.calibration.scores, two.calibration.scores)
    np.testing.assert_array_equal(one.detector.state()["bank"], two.detector.state()["bank"])


def test_the_command_starts_its_processes(tmp_path):
    """--trainer.devices 2 by plain python, with the options that take no GPU to try."""
    words = ["-m", "lit_od.cli", "train", "demo", "--out", tmp_path / "run", *DEMO, "--trainer.devices=2"]
    words += ["--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=2", "--trainer.scale_learning_rate=linear"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("best.ckpt") == 1
    about = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["lit_od"]
    assert about["init_args"]["learning_rate"] == pytest.approx(0.001 * 4)


def test_two_tasks_of_slurm_train_as_two_processes(ranks, tmp_path):
    """The variables that srun sets for each task, and none of torchrun's."""
    words = [*SAME_STEPS["classifier, sgd"], "--trainer.max_epochs=1", "--model.init_args.dropout=0"]
    _, weights = train(ranks, 2, tmp_path / "torchrun", *words)
    out, environment = tmp_path / "slurm" / "run", {"LOSSES": str(tmp_path / "slurm")}
    statuses = ranks(
        2, tmp_path / "slurm", "train", "demo", "--out", out, *DEMO, *words, environment=environment, slurm=True
    )
    assert statuses == [0, 0], said(tmp_path / "slurm")
    printed, wrong = said(tmp_path / "slurm")
    assert (printed.count("best.ckpt"), wrong) == (1, "")
    found = torch.load(out / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(found[key], weights[key]) for key in weights)


TWINS = [*SAME_STEPS["doc"], "--data.limit=250"]
SCRIPTS = {
    "train_classifier": ("mnist-digits", []),
    "train_autoencoder": ("cats-autoencoder", list(SAME_STEPS["autoencoder"])),
    "train_doc": ("doc-sneakers", TWINS),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_trains_its_own_recipe_or_another(ranks, tmp_path, name):
    shipped, words = SCRIPTS[name]
    script = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    out = tmp_path / "run"
    # without a recipe's name its own, of which an unknown key is refused by that name
    assert ranks(1, tmp_path, script=str(script), words=["--data.no_such_key=1", "--out", str(out)]) == [2]
    assert said(tmp_path)[1].startswith(f"lit-od: recipe {shipped}: ")
    words = ["demo", "--out", str(out), *DEMO, *words, "--trainer.max_epochs=1"]
    assert ranks(1, tmp_path, script=str(script), words=words, environment={"LOSSES": str(tmp_path)}) == [0], said(
        tmp_path
    )
    assert said(tmp_path)[0].startswith(f"{out / 'best.ckpt'}: ")
    assert (out / "last.ckpt").is_file()


# Evaluation


@pytest.mark.parametrize("share", [0.2, 0.1605])
def test_two_processes_evaluate_as_one_in_lightnings_loop(ranks, tmp_path, share):
    for world in (1, 2):
        out = tmp_path / str(world)
        assert ranks(world, out, call="tests.support.jobs:validate", out=str(out), share=share) == [0] * world, said(
            out
        )
    one, *two = (json.loads((tmp_path / name).read_text()) for name in ("1/0.json", "2/0.json", "2/1.json"))
    assert one["images"] > 256  # more than a batch
    assert two == [one, one]


# What stops them


REFUSALS = {
    "an unknown option": (["--trainer.max_epoch=3"], r"trainer\.max_epoch does not exist"),
    "an unknown argument": (["--no-such-thing"], "no-such-thing"),
    "batch normalisation": (["--trainer.sync_batchnorm=true"], "sync_batchnorm works on CUDA devices alone"),
    "another number": (["--trainer.devices=3"], "does not match the world size"),
    "spawned": (["--trainer.strategy=ddp_spawn"], "give ddp"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_said_once(ranks, tmp_path, case):
    words, message = REFUSALS[case]
    assert ranks(2, tmp_path, "train", "demo", "--out", tmp_path / "run", *DEMO, *words) == [2, 2]
    printed, wrong = said(tmp_path)
    assert printed == ""
    assert len(wrong.splitlines()) == 1, wrong
    assert re.search(f"^lit-od: .*{message}", wrong)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_the_others(ranks, tmp_path, rank):
    """Its loss alone is no number: the other one would wait for its gradients for ever."""
    words = ["train", "demo", "--out", tmp_path / "run", *DEMO, CLASSIFIER]
    statuses = ranks(2, tmp_path, *words, environment={"FAIL_ON": str(rank)})
    assert statuses == [2, 2]
    _, wrong = said(tmp_path)
    assert len(wrong.splitlines()) == 1, wrong
    assert "the loss became nan at step 3" in wrong


def test_one_of_those_that_have_lost_a_process_says_so(ranks, tmp_path):
    statuses = ranks(3, tmp_path, call="tests.support.jobs:lose", victim=2)
    assert statuses[2] == -9
    assert sorted(statuses[:2]) == [2, 70], said(tmp_path)  # one refuses, one raises
    _, wrong = said(tmp_path)
    assert wrong.count("ConnectionError: another process of this job has ended") == 1, wrong


def test_an_image_that_one_process_cannot_read_stops_both(ranks, tmp_path, digit_files):
    for row in range(100):
        (tmp_path / "images").mkdir(exist_ok=True)
        source = sorted(digit_files.rglob("*.png"))[row % 40]
        (tmp_path / "images" / f"{row:03}.png").write_bytes(
            source.read_bytes() + bytes([row]) if row != 95 else b"no picture"  # no two are copies
        )
    words = ["fit", "folder", f"--data.root={tmp_path / 'images'}", "--data.prepare.size=[32, 32]"]
    assert ranks(2, tmp_path / "said", *words, "--out", tmp_path / "bundle") == [2, 2]
    printed, wrong = said(tmp_path / "said")
    assert (printed, len(wrong.splitlines())) == ("", 2)
    assert "images: read 100 images (100 .png)\n" in wrong
    assert "095.png: not an image that can be decoded" in wrong
    assert not (tmp_path / "bundle").exists()


# Stop and go


STEPS = [
    "--trainer.max_epochs=4", CLASSIFIER, "--model.init_args.lr_patience=1", "--model.init_args.lr_factor=0.5",
    "--model.init_args.learning_rate=0.02", "--data.augment={rotation: 10, shift: 0.1}",
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_a_run_killed_three_times_ends_where_an_unbroken_one_ends(ranks, tmp_path, seed):
    """Killed in the middle of an epoch, the epoch is done anew from (seed, epoch, step): the same to the bit."""
    train(ranks, 1, tmp_path / "whole", *STEPS)
    steps_an_epoch = -(-len(ImageData(read("demo", SMALL).data, seed=0).sources("train")) // 32)
    kills = np.sort(np.random.default_rng(seed).choice(np.arange(1, 4 * steps_an_epoch), 3, replace=False))
    print(f"seed {seed}: killed at the steps {kills}")
    words = ["train", "demo", "--out", tmp_path / "run", *DEMO, *STEPS, "--resume"]
    for step in kills:
        assert ranks(1, tmp_path / "said", *words, environment={"KILL_AT": str(step)}) == [-9], (kills, step)
    assert ranks(1, tmp_path / "said", *words) == [0], kills
    for name in ("last.ckpt", "best.ckpt"):
        want, got = (
            torch.load(folder / name, weights_only=True) for folder in (tmp_path / "whole" / "run", tmp_path / "run")
        )
        assert all(torch.equal(got["state_dict"][key], each) for key, each in want["state_dict"].items()), kills
        assert got["lr_schedulers"] == want["lr_schedulers"], kills
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole" / "run"), kills


@pytest.mark.parametrize("world", [1, 2])
def test_sigterm_stops_a_run_that_goes_on(ranks, tmp_path, world):
    """In its second epoch: it ends where the run ends that was not stopped, to the bit."""
    small = [CLASSIFIER, "--data.batch_size=8"]
    train(ranks, world, tmp_path / "whole", *small)
    rows = len(ImageData(read("demo", SMALL).data, seed=0).sources("train"))
    steps_an_epoch = -(-(rows // world) // 8)
    words = ["train", "demo", "--out", tmp_path / "run", *DEMO, *small, "--resume"]
    environment = {"KILL_AT": str(steps_an_epoch + 3), "KILL_BY": "SIGTERM"}
    assert ranks(world, tmp_path / "said", *words, environment=environment) == [143] * world
    _, wrong = said(tmp_path / "said")
    assert len(wrong.splitlines()) == 1, wrong
    assert "stopped; the same command with --resume goes on from" in wrong
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert ranks(world, tmp_path / "said", *words) == [0] * world, said(tmp_path / "said")
    for name in ("last.ckpt", "best.ckpt"):
        want, got = (
            torch.load(folder / name, weights_only=True) for folder in (tmp_path / "whole" / "run", tmp_path / "run")
        )
        assert got["epoch"] == want["epoch"]
        assert got["global_step"] == want["global_step"] >= steps_an_epoch
        assert all(torch.equal(got["state_dict"][key], each) for key, each in want["state_dict"].items())
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole" / "run")


# Precision


@pytest.mark.parametrize("name", ["classifier, sgd", "autoencoder", "doc"])
def test_half_precision_trains_and_its_bundle_is_proven(ranks, tmp_path, name):
    words = ["fit", "demo", "--out", tmp_path / "b", *DEMO, "--trainer.precision=bf16-mixed", *SAME_STEPS[name]]
    assert ranks(1, tmp_path / "said", *words) == [0], said(tmp_path / "said")
    assert Bundle.read(tmp_path / "b").manifest.provenance.metrics["export_parity"] <= 1e-4
