import logging
import math
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping

from lit_od.errors import ConfigError, DataError
from lit_od.recipes.load import from_tree, read, read_tree, to_tree
from lit_od.training.classifier import LitClassifier
from lit_od.training.data.image_data import ImageData
from lit_od.training.distributed import environment
from lit_od.training.loop import train as loop
from lit_od.training.loop.checkpoints import load_module, read_checkpoint
from lit_od.training.loop.train import _callbacks, _fit
from lit_od.training.loop.trainer import make_trainer, trainer_arguments
from tests.support.small_training import rows_of
from tests.support.twins import TRUST
from tests.support.twins import recipe as twins

OWN = (*(f"{__name__}.{name}" for name in ("Broken", "Silent", "Seen")), "nowhere.Net", "subprocess.Popen", *TRUST)
train = partial(loop.train, trust=OWN)

SMALL = [
    "--data.limit=300",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--model.class_path=lit_od.training.classifier.LitClassifier",
]


def demo(*overrides):
    return read("demo", [*SMALL, *overrides])


class Broken(LitClassifier):
    """Its loss is no number from the second epoch on."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if self.current_epoch == 1 and batch_idx == 3 else loss


class Silent(LitClassifier):
    """Logs no validation loss."""

    def on_validation_epoch_end(self):
        self.totals("val")


class Seen(LitClassifier):
    """Keeps what it is trained on."""

    def training_step(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), batch[0].clone()]
        return super().training_step(batch, batch_idx)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training on packaged digits."""
    out = tmp_path_factory.mktemp("run") / "new" / "folder"
    state = torch.random.get_rng_state()
    level = logging.getLogger("lightning.pytorch").level
    result = train(demo(), out)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.getLogger("lightning.pytorch").level == level
    return result


def same_weights(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_run_folder_holds_what_it_promises(run):
    out = run.checkpoint.parent
    assert {path.name for path in out.iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "config.yaml",
        "metrics.csv",
        "learning_curves.png",
        "samples.png",
    }
    tree = yaml.safe_load((out / "config.yaml").read_text())
    assert from_tree(tree, "config.yaml") == demo()
    rows = rows_of(out)
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == 1
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"epoch", "train_loss", "val_loss", "val_accuracy", "val_outlier_auroc"} == set(rows[0])
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert run.metrics == pytest.approx({name: float(value) for name, value in best.items()})


def test_the_module_is_that_of_the_best_checkpoint(run):
    stored = torch.load(run.checkpoint, weights_only=True)
    assert stored["epoch"] == run.metrics["epoch"]
    assert same_weights(run.module, load_module(run.checkpoint))
    assert dict(run.module.hparams)["classes"] == len(run.data.class_names) == 8


def test_a_lone_checkpoint_knows_its_recipe(run, tmp_path):
    lone = tmp_path / "lone.ckpt"
    lone.write_bytes(run.checkpoint.read_bytes())
    assert read_checkpoint(lone).recipe == demo()
    assert same_weights(load_module(lone), run.module)


def test_the_same_recipe_gives_the_same_weights_and_another_seed_gives_others(run, tmp_path):
    torch.rand(3)  # whatever the generators have given before
    again = train(demo(), tmp_path / "again")
    assert same_weights(run.module, again.module)
    other = train(demo("--seed=1", "--trainer.max_epochs=1"), tmp_path / "other")
    assert not same_weights(run.module, other.module)


def test_a_resumed_run_is_the_unbroken_run(run, tmp_path):
    out = tmp_path / "broken"
    train(demo("--trainer.max_epochs=1"), out)
    train(demo(), out, resume=out / "last.ckpt")
    broken, unbroken = (
        torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (out, run.checkpoint.parent)
    )
    assert all(torch.equal(broken[name], unbroken[name]) for name in unbroken)
    assert rows_of(out) == rows_of(run.checkpoint.parent)


def test_another_run_is_never_overwritten(run):
    with pytest.raises(ConfigError, match=r"holds a run already: choose another folder, or resume .*last\.ckpt"):
        train(demo(), run.checkpoint.parent)


def test_what_does_not_go_on_is_not_resumed(run, tmp_path):
    with pytest.raises(ConfigError, match="was trained with seed 0, the recipe has 1"):
        train(demo("--seed=1"), tmp_path, resume=run.checkpoint)
    with pytest.raises(ConfigError, match=r"was trained with data\.batch_size 32, the recipe has 16"):
        train(demo("--data.batch_size=16"), tmp_path, resume=run.checkpoint)
    with pytest.raises(
        DataError, match=r"is of another architecture: .* the first is .* in the network and .* in the file"
    ):
        train(demo("--model.init_args.network=test_resnet.r160_in1k"), tmp_path, resume=run.checkpoint)
    with pytest.raises(ConfigError, match=r"a run goes on in its own folder: give .*, where best\.ckpt lies, not"):
        train(demo(), tmp_path, resume=run.checkpoint)
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(DataError, match="was not written by lit-od train"):
        train(demo(), tmp_path, resume=other)


def test_a_checkpoint_of_another_schema_or_class_is_refused(run, tmp_path):
    stored = torch.load(run.checkpoint, weights_only=True)
    changed = tmp_path / "changed.ckpt"
    torch.save(stored | {"lit_od": stored["lit_od"] | {"schema": 99}}, changed)
    with pytest.raises(DataError, match=r"has schema 99, this version reads 1\. Train anew"):
        load_module(changed)
    torch.save(stored | {"lit_od": stored["lit_od"] | {"class_path": "subprocess.Popen"}}, changed)
    with pytest.raises(ConfigError, match=r"subprocess\.Popen must be a class derived from LightningModule"):
        load_module(changed, OWN)
    arguments = stored["lit_od"]["init_args"] | {"classes": 5}
    torch.save(stored | {"lit_od": stored["lit_od"] | {"init_args": arguments}}, changed)
    with pytest.raises(
        DataError, match=r"1?2 weights differ, the first is head\.bias, \(5,\) in the network and \(8,\)"
    ):
        load_module(changed)


def test_a_loss_that_is_no_number_stops_and_keeps_the_best(tmp_path):
    with pytest.raises(DataError, match=r"the loss became nan at step \d+ of epoch 1; the best checkpoint") as caught:
        train(demo(f"--model.class_path={__name__}.Broken"), tmp_path)
    assert "\n" not in str(caught.value)
    weights = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_module_without_validation_loss_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Silent cannot be trained: .*val_loss"):
        train(demo(f"--model.class_path={__name__}.Silent"), tmp_path)


def test_training_images_are_augmented_anew_in_every_step(tmp_path, monkeypatch):
    module = None
    monkeypatch.setattr(Seen, "on_fit_end", lambda self: keep(self))

    def keep(trained):
        nonlocal module
        module = trained

    recipe = demo(f"--model.class_path={__name__}.Seen", "--trainer.accumulate_grad_batches=3", "--data.limit=40")
    train(recipe, tmp_path)
    data = ImageData(recipe.data, seed=recipe.seed)
    pixels = next(iter(data.train_dataloader()))[0]
    assert module.seen[0].shape == pixels.shape
    assert not torch.equal(module.seen[0], pixels)
    plain = demo(f"--model.class_path={__name__}.Seen", "--data.augment=null", "--data.limit=40")
    train(plain, tmp_path / "plain")
    assert torch.equal(module.seen[0], pixels)


def test_training_prints_nothing(tmp_path, capfd):
    train(demo("--trainer.max_epochs=1"), tmp_path)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_early_stopping_counts_epochs(tmp_path):
    recipe = demo("--trainer.max_epochs=6", "--early_stopping=1", "--model.init_args.learning_rate=1.0e-30")
    train(recipe, tmp_path)
    assert len(rows_of(tmp_path)) == 2
    epochs = {name: torch.load(tmp_path / name, weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")}
    assert epochs == {"best.ckpt": 0, "last.ckpt": 1}


STANDING = ["--data.limit=150", "--data.augment=null", "--model.init_args.learning_rate=1.0e-30"]
"""A run that gets no better after its first epoch."""


def test_a_run_that_has_stopped_early_stays_as_it_is(tmp_path):
    recipe = demo(*STANDING, "--trainer.max_epochs=6", "--early_stopping=1")
    train(recipe, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("best.ckpt", "last.ckpt", "metrics.csv")}
    assert len(rows_of(tmp_path)) == 2
    # as if it had been killed between its last checkpoint and its last row
    (tmp_path / "metrics.csv").write_bytes(b"".join(before["metrics.csv"].splitlines(keepends=True)[:-1]))
    assert train(recipe, tmp_path, resume=tmp_path / "last.ckpt").metrics["epoch"] == 0
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    train(demo(*STANDING, "--trainer.max_epochs=6", "--early_stopping=3"), tmp_path, resume=tmp_path / "last.ckpt")
    assert len(rows_of(tmp_path)) == 4


def test_a_run_whose_folder_was_moved_keeps_its_best(tmp_path):
    before, moved = tmp_path / "before", tmp_path / "elsewhere" / "moved"
    train(demo(*STANDING, "--trainer.max_epochs=1"), before)
    moved.parent.mkdir()
    before.rename(moved)
    assert train(demo(*STANDING), moved, resume=moved / "last.ckpt").metrics["epoch"] == 0
    assert torch.load(moved / "best.ckpt", weights_only=True)["epoch"] == 0
    last = torch.load(moved / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1
    assert str(before) not in str(last["callbacks"])


# Epochs without a validation


SELDOM = ["--data.limit=150", "--data.augment=null", "--trainer.check_val_every_n_epoch=2"]


def test_a_run_resumed_before_a_validation_is_the_unbroken_run(tmp_path):
    train(demo(*SELDOM, "--trainer.max_epochs=4"), tmp_path / "whole")
    assert [bool(row["val_loss"]) for row in rows_of(tmp_path / "whole")] == [False, True, False, True]
    out = tmp_path / "broken"
    train(demo(*SELDOM, "--trainer.max_epochs=3"), out)
    assert set(read_checkpoint(out / "last.ckpt").figures) == {"train_loss"}
    train(demo(*SELDOM, "--trainer.max_epochs=4"), out, resume=out / "last.ckpt")
    assert rows_of(out) == rows_of(tmp_path / "whole")
    for name in ("best.ckpt", "last.ckpt"):
        got, want = (torch.load(folder / name, weights_only=True) for folder in (out, tmp_path / "whole"))
        assert got["epoch"] == want["epoch"] == 3
        assert all(torch.equal(got["state_dict"][key], each) for key, each in want["state_dict"].items())
        assert got["lr_schedulers"] == want["lr_schedulers"]


def test_a_run_without_a_validation_says_so_and_is_not_overwritten(tmp_path):
    recipe = demo(*SELDOM, "--trainer.max_epochs=1")
    with pytest.raises(ConfigError, match=r"no validation took place, .*: raise trainer\.max_epochs, or lower trainer"):
        train(recipe, tmp_path)
    assert (tmp_path / "last.ckpt").exists()
    with pytest.raises(ConfigError, match=r"holds a run already: choose another folder, or resume .*last\.ckpt"):
        train(recipe, tmp_path)
    train(demo(*SELDOM), tmp_path, resume=tmp_path / "last.ckpt")
    assert (tmp_path / "best.ckpt").exists()


# What stops a run


INTERRUPTED = ["--model.class_path=tests.support.jobs.RecordedClassifier", "--data.limit=150", *SMALL[1:3]]
INTERRUPTED.append("--trust=tests.support.jobs.RecordedClassifier")


@pytest.mark.parametrize(
    ("words", "epoch", "line"),
    [
        (["train"], 0, "interrupted"),
        (["train"], 1, "interrupted; the same command with --resume goes on from {out}"),
        (["fit"], 1, "interrupted"),
    ],
)
def test_an_interrupt_is_said_and_how_to_go_on(words, epoch, line, tmp_path, command, monkeypatch):
    monkeypatch.setenv("INTERRUPT_AT", str(epoch))
    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    done = command(*words, "demo", "--out", out, *INTERRUPTED)
    imported = "lit-od: tests.support.jobs.RecordedClassifier is imported, which --trust allows\n"
    assert done == (130, "", f"{imported}lit-od: {line.format(out=out)}\n")
    assert signal.getsignal(signal.SIGINT) == before


def test_other_exits_are_left_alone():
    def fit(*args, **kwargs):
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        _fit(SimpleNamespace(fit=fit), None, None, None)


GONE = [
    "[pair.cc:561] Connection closed by peer [127.0.0.1]:15555. This is typically caused by a remote worker crashing.",
    "[pair.cc:545] Read error [127.0.0.1]:47005: Connection reset by peer. This is typically caused by ...",
    "NCCL error in: ProcessGroupNCCL.cpp:3698, remote process exited or there was a network error",
    "socketProgress: Connection closed by remote peer node1<54321>",
]
OTHERS = [
    "NCCL error in: ProcessGroupNCCL.cpp:3698, invalid usage. Duplicate GPU detected : rank 1 and rank 0 both on CUDA "
    "device 1000",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4",
    "/data/socket_42.jpg: mat1 and mat2 shapes cannot be multiplied",
    "Timed out waiting 1800000ms for recv operation to complete",
]


@pytest.mark.parametrize("message", GONE + OTHERS)
def test_another_process_has_ended_where_torch_says_so_and_nowhere_else(message):
    def fit(*args, **kwargs):
        raise RuntimeError(message)

    wanted = ConnectionError if message in GONE else RuntimeError
    with pytest.raises(wanted):
        _fit(SimpleNamespace(fit=fit, world_size=2), None, None, None)
    with pytest.raises(RuntimeError):  # who is alone has nobody to lose
        _fit(SimpleNamespace(fit=fit, world_size=1), None, None, None)


# Where it runs


@pytest.mark.parametrize("job", [{"SLURM_NTASKS": "4"}, {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}])
def test_a_process_alone_in_a_job_of_slurm_is_alone(job, monkeypatch):
    for name, value in (job | {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "2"}).items():
        monkeypatch.setenv(name, value)
    trainer = make_trainer(trainer_arguments({"accelerator": "cpu"}), logger=False, enable_checkpointing=False)
    assert trainer.world_size == 1
    assert type(trainer._accelerator_connector.cluster_environment).__name__ == "LightningEnvironment"


def test_one_that_torchrun_has_started_and_one_that_names_its_own_are_left_alone(monkeypatch):
    own = environment(None)
    given = trainer_arguments({"accelerator": "cpu", "plugins": [own]})
    trainer = make_trainer(given, logger=False, enable_checkpointing=False)
    assert trainer._accelerator_connector.cluster_environment is own
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1" if "SIZE" in name else "0")
    assert environment(None) is None


@pytest.mark.parametrize("cached", [True, False])
def test_what_is_compiled_is_what_is_trained(cached, tmp_path, monkeypatch):
    compiled = []

    def compile_it(module):  # in place of torch.compile, which takes minutes
        module._compiled_call_impl = lambda *args: compiled.append(type(module).__name__) or module._call_impl(*args)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    recipe = twins(trainer={"compile": True, "max_epochs": 1}, cache_trunk=cached)
    if cached:
        message = r"trainer\.compile does not reach what LitDOC trains behind a kept trunk: set .*cache_trunk to false"
        with pytest.raises(ConfigError, match=message):
            train(recipe, tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        train(recipe, tmp_path)
        assert {"FeatureNetwork", "Linear"} <= set(compiled)


def test_an_unlabelled_folder_cannot_train_a_classifier(tmp_path):
    tree = read_tree("demo")
    tree["data"] |= {"train": "garments.npz:images:0", "outlier_classes": [], "test": None}
    with pytest.raises(ConfigError, match="a classifier needs at least 2 classes of inliers, got 1"):
        train(from_tree(tree, "changed"), tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--trainer.max_epoch=3", r"trainer\.max_epoch does not exist; did you mean max_epochs\?"),
        ("--trainer.zzz=3", r"trainer\.zzz does not exist; known are accelerator"),
        ("--trainer.fast_dev_run=true", r"trainer\.fast_dev_run is set by the run itself: leave it out"),
        ("--trainer.precision=7", "trainer: .*[Pp]recision"),
        ("--trainer.max_epochs=0", r"the training took no step: raise trainer\.max_epochs"),
        (
            "--model.init_args.learning_rat=1",
            r"model\.init_args\.learning_rat does not exist; did you mean learning_rate",
        ),
        ("--model.init_args.learning_rate=fast", "model.init_args: LitClassifier: .*str"),
        (
            "--model.class_path=lit_od.training.classifier.LitClasifier",
            "has no LitClasifier; did you mean LitClassifier",
        ),
        (
            "--model.class_path=nowhere.Net",
            r"model\.class_path: nowhere\.Net cannot be imported: No module named 'nowhere'",
        ),
        ("--model.class_path=lit_od", "wanted an import path such as package.module.Class, got 'lit_od'"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_in_one_line(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        train(demo(override), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_image_cannot_be_normalised(tmp_path):
    words = ["--model.init_args.network=test_resnet", "--data.batch_size=1", "--data.limit=100"]
    with pytest.raises(ConfigError, match=r"a training batch has one image: make data\.batch_size 2 or more"):
        train(demo(*words), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--trainer.max_epochs=abc", r"trainer\.max_epochs must be a whole number of at least -1, got 'abc'"),
        ("--trainer.max_epochs=1.5", r"trainer\.max_epochs must be a whole number of at least -1, got 1\.5"),
        ("--trainer.max_epochs=true", r"trainer\.max_epochs must be a whole number of at least -1, got True"),
        ("--trainer.min_epochs=abc", r"trainer\.min_epochs must be a whole number of at least 0, got 'abc'"),
        ("--trainer.max_steps=null", r"trainer\.max_steps must be a whole number of at least -1, got None"),
        ("--trainer.accumulate_grad_batches=0", r"accumulate_grad_batches must be a whole number of at least 1, got 0"),
        ("--trainer.accumulate_grad_batches=abc", r"accumulate_grad_batches must be a whole number .*, got 'abc'"),
        ("--trainer.accumulate_grad_batches=0.5", r"accumulate_grad_batches must be a whole number .*, got 0\.5"),
        ("--trainer.check_val_every_n_epoch=0", r"check_val_every_n_epoch must be a whole number of at least 1, got 0"),
        ("--trainer.check_val_every_n_epoch=null", r"check_val_every_n_epoch must be a whole number .*, got None"),
        ("--trainer.limit_train_batches=abc", r"limit_train_batches must be a number of at least 0, got 'abc'"),
        ("--trainer.gradient_clip_val=-1", r"gradient_clip_val must be a number of at least 0, got -1"),
        ("--trainer.detect_anomaly=abc", r"trainer\.detect_anomaly must be true or false, got 'abc'"),
        ("--trainer.max_time=5", r"trainer\.max_time must be text, '00:12:00:00' for instance \(d:h:m:s\), got 5"),
        ("--trainer.val_check_interval=0.25", r"val_check_interval 0\.25 validates within an epoch, .*: leave it out"),
        ("--trainer.val_check_interval=100", r"val_check_interval 100 validates within an epoch"),
        ("--trainer.val_check_interval=1", r"val_check_interval 1 validates within an epoch"),
        ("--trainer.val_check_interval=0", r"val_check_interval 0 validates within an epoch"),
        ("--model.init_args.lr_floor=abc", r"LitClassifier: lr_floor must be a number, got 'abc' \(str\)"),
        ("--model.init_args.lr_patience=2.5", r"LitClassifier: lr_patience must be a whole number, got 2\.5 \(float\)"),
        ("--model.init_args.network=5", "network must be a name, or class_path with init_args, got 5"),
        ("--model.init_args.pretrained=1", r"LitClassifier: pretrained must be true or false, got 1"),
        ("--model.init_args.dropout=true", r"LitClassifier: dropout must be a number, got True"),
    ],
)
def test_a_value_of_another_kind_is_refused_before_the_run(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(demo(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_of_their_kind_are_taken():
    taken = {
        "max_epochs": None,
        "min_epochs": 0,
        "limit_train_batches": 0.5,
        "gradient_clip_val": None,
        "max_time": None,
    }
    taken |= {"val_check_interval": 1.0, "deterministic": "warn", "log_every_n_steps": 0, "max_steps": -1}
    assert trainer_arguments(taken).items() >= taken.items()


@pytest.mark.parametrize(("epochs", "every", "validations"), [(3, 1, 3), (3, 2, 2), (4, 2, 2), (1, 5, 1)])
def test_early_stopping_counts_epochs_between_validations(epochs, every, validations):
    recipe = demo(f"--early_stopping={epochs}", f"--trainer.check_val_every_n_epoch={every}")
    data = ImageData(recipe.data, seed=0)
    (stop,) = (each for each in _callbacks(recipe, data, LitClassifier, None) if isinstance(each, EarlyStopping))
    assert stop.patience == validations


def test_a_recipe_with_a_graph_trains_nothing(tmp_path):
    tree = read_tree("demo") | {"model": None, "backbone": "graph.onnx"}
    with pytest.raises(ConfigError, match="the recipe trains nothing: its backbone is an ONNX file"):
        train(from_tree(tree, "changed"), tmp_path)


@pytest.mark.slow
def test_two_processes_train_as_one_run(tmp_path):
    script = (
        "import sys; from pathlib import Path; from lit_od.recipes.load import read;"
        "from lit_od.training import train;"
        "run = train(read('demo', sys.argv[2:]), Path(sys.argv[1])); print(len(run.data.class_names))"
    )
    (tmp_path / "go.py").write_text(script.replace(";", "\n").replace("\n ", "\n"))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "go.py")]
    subprocess.run([sys.executable, *words, str(tmp_path / "run"), *SMALL], check=True, timeout=300)
    assert len(rows_of(tmp_path / "run")) == 2


def test_the_shipped_recipes_are_complete():
    for name in ("demo", "mnist-digits", "mnist-digits-notebook"):
        recipe = read(name)
        assert from_tree(to_tree(recipe), name) == recipe
        assert recipe.data.augment.shear == 0.1
