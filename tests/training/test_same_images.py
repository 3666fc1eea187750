"""What follows a training takes the images that it was trained on, or none."""

import shutil

import pytest

from lit_od.errors import ConfigError, DataError
from lit_od.import_paths import defaults
from lit_od.training.classifier import LitClassifier
from lit_od.training.loop.checkpoints import read_checkpoint
from lit_od.training.loop.train import train
from tests.support.small_training import demo
from tests.support.twins import digits_root, without_fingerprints


@pytest.fixture(scope="module")
def rooted(tmp_path_factory):
    """A run of one epoch on images below a data root of its own, in a folder with it."""
    folder = tmp_path_factory.mktemp("rooted")
    train(demo(f"--data.root={digits_root(folder / 'root')}", "--trainer.max_epochs=1"), folder / "run")
    return folder


@pytest.fixture
def moved(rooted, tmp_path):
    """The same, elsewhere, and the data root by another name."""
    shutil.copytree(rooted / "run", tmp_path / "run")
    shutil.copytree(rooted / "root", tmp_path / "images")
    return tmp_path / "run", tmp_path / "images"


def test_a_run_goes_on_with_the_images_that_it_was_trained_on(moved):
    out, root = moved
    train(demo(f"--data.root={root}", "--trainer.max_epochs=2"), out, resume=out / "last.ckpt")
    known = read_checkpoint(out / "last.ckpt")
    assert (known.epoch, list(known.fingerprints)) == (1, ["train"])
    digits_root(root, without=1)
    more = demo(f"--data.root={root}", "--trainer.max_epochs=3")
    with pytest.raises(DataError, match=r"data\.train holds other images than .*last\.ckpt was trained on, and some"):
        train(more, out, resume=out / "last.ckpt")
    assert read_checkpoint(out / "last.ckpt").epoch == 1


def test_a_run_that_does_not_say_its_images_goes_on_and_never_will(moved):
    out, root = moved
    without_fingerprints(out / "last.ckpt")
    digits_root(root, without=1)
    train(demo(f"--data.root={root}", "--trainer.max_epochs=2"), out, resume=out / "last.ckpt")
    known = read_checkpoint(out / "last.ckpt")
    assert (known.epoch, known.fingerprints) == (1, {})


def test_a_bundle_is_made_of_the_images_that_the_model_was_trained_on(moved, command, monkeypatch, made_bundle):
    made = []
    monkeypatch.setattr(
        "lit_od.training.pipeline.export_bundle", lambda *given, **options: made.append(given) or made_bundle
    )
    out, root = moved
    words = ["export", out / "best.ckpt", f"--data.root={root}", "--out", out.parent / "bundle"]
    assert command(*words).err == ""
    digits_root(root, without=1)
    outcome = command(*words)
    assert (outcome.status, outcome.err.count("\n"), len(made)) == (2, 1, 1)
    assert "data.train holds other images than" in outcome.err
    assert "give them as they were (--data.root DIR), or train anew" in outcome.err
    without_fingerprints(out / "best.ckpt")
    outcome = command(*words)
    assert (outcome.status, outcome.err.count("\n"), len(made)) == (0, 1, 2)
    assert "is of an earlier version and does not say which images trained it" in outcome.err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "--trainer.devices=4",
            "overrides of trainer are for a training, and that of the checkpoint is over",
        ),
        (
            "--data.batch_size=3",
            "--data.batch_size is for a training, and that of the checkpoint is over",
        ),
        ("--data.augment.flip=true", "--data.augment is for a training"),
        ("--model.init_args.dropout=0.99", "overrides of model are for a training"),
        ("--model.class_path=no.such.Thing", "overrides of model are for a training"),
        ("--model.init_args.checkpoint_path=a.pt", "overrides of model are for a training"),
    ],
)
def test_an_export_states_no_training_but_the_one_that_was(rooted, command, word, message):
    out = rooted / "bundle"
    outcome = command("export", rooted / "run" / "best.ckpt", f"--data.root={rooted / 'root'}", "--out", out, word)
    assert (outcome.status, outcome.err.count("\n"), out.exists()) == (2, 1, False)
    assert message in outcome.err


@pytest.mark.parametrize(
    "word", ["--model.init_args.learning_rate=0.5", "--model.init_args.l2=0.7", "--model.init_args.optimizer=sgd",
             "--trainer.scale_learning_rate=linear --trainer.accumulate_grad_batches=2"],
)  # fmt: skip
def test_a_run_goes_on_with_the_model_that_it_began_with(moved, word):
    out, root = moved
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    changed = demo(f"--data.root={root}", "--trainer.max_epochs=2", *word.split())
    name = "learning_rate" if "scale" in word else word.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigError, match=rf"was trained with {name} .*: give it as it was, or begin a run of its own"):
        train(changed, out, resume=out / "last.ckpt")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_a_training_does_not_hang_on_may_change(moved):
    """Defaults that are stated, another path to the class, and where weights and activations come from."""
    out, root = moved
    words = ["--model.init_args.dropout=0.2", "--model.class_path=lit_od.training.classifier:LitClassifier"]
    words += ["--model.init_args.checkpoint_path=null", "--model.init_args.channels=1"]
    assert defaults(LitClassifier)["dropout"] == 0.2
    train(demo(f"--data.root={root}", "--trainer.max_epochs=2", *words), out, resume=out / "last.ckpt")
    assert read_checkpoint(out / "last.ckpt").epoch == 1
