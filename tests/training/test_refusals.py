"""What a refused or killed training leaves, and that the next one goes on from it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from lit_od.errors import ConfigError, DataError
from lit_od.images.preparation import Preparation
from lit_od.recipes.schema import DataConfig
from lit_od.training.data.image_data import ImageData
from lit_od.training.loop.callbacks import FiniteLoss
from lit_od.training.loop.checkpoints import WholeFiles, keep_whole, read_checkpoint
from lit_od.training.loop.train import FILES, train
from lit_od.training.loop.trainer_parts import FOLDER
from tests.support.refusals.case import make_images
from tests.support.refusals.makers import full
from tests.support.small_training import CLASSIFIER, demo

# A loss that is no number


def test_the_best_checkpoint_is_of_the_epoch_before(tmp_path: Path) -> None:
    broken = "--model.class_path=tests.support.refusals.dull.Unsteady"
    with pytest.raises(DataError, match=r"became nan at step \d+ of epoch 1; the best checkpoint so far is kept"):
        train(demo(broken, "--trainer.max_epochs=3"), tmp_path / "run", trust=[broken.partition("=")[2]])
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = read_checkpoint(tmp_path / "run" / name)
        assert all(weights.isfinite().all() for weights in checkpoint.state.values())
    assert torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["epoch"] == 0


def test_a_validation_loss_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    """The last step of an epoch may ruin the weights, and then no training step sees it."""
    fast = ["--model.init_args.learning_rate=1e30", "--data.batch_size=200", "--trainer.max_epochs=1"]
    with pytest.raises(DataError, match="the validation loss became nan at step 1 of epoch 0; there is no checkpoint"):
        train(demo(*fast), tmp_path / "run")
    assert {entry.name for entry in (tmp_path / "run").iterdir()} <= FILES - {"best.ckpt", "last.ckpt"}


def test_a_module_that_logs_no_validation_loss_is_none_of_its_business() -> None:
    class Silent:
        callback_metrics: dict[str, torch.Tensor] = {}  # noqa: RUF012  # a stand-in for a Trainer

    FiniteLoss().on_validation_end(Silent(), None)  # type: ignore[arg-type]


# Class folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    make_images(tmp_path / "images")
    return tmp_path / "images"


def data(folder: Path, **changes: object) -> ImageData:
    how = Preparation(size=(28, 28), mode="grey")
    return ImageData(DataConfig(train=str(folder), prepare=how, **changes))  # type: ignore[arg-type]


def test_an_empty_class_is_refused_unless_it_is_not_wanted(folders: Path) -> None:
    (folders / "2" / "deeper").mkdir()
    (folders / ".hidden").mkdir()
    (folders / "notes.txt").touch()
    assert data(folders).class_names == ["0", "1", "2"]
    (folders / "empty").mkdir()
    (folders / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"the class folder .*/empty holds no image: add some, remove it, or choose"):
        data(folders)
    assert data(folders, classes=["0", "1"]).class_names == ["0", "1"]
    assert data(folders / "0").class_names == ["inlier"]


# Run folders


def test_a_run_writes_over_nobodys_files(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("an earlier run's, that was killed before its first epoch")
    (tmp_path / ".hidden").touch()
    (tmp_path / "thesis.md").touch()
    with pytest.raises(ConfigError, match=r"is a folder with other files in it, such as thesis\.md: name one that"):
        train(demo(), tmp_path)
    (tmp_path / "thesis.md").unlink()
    train(demo("--trainer.max_epochs=1"), tmp_path)
    assert (tmp_path / "best.ckpt").exists()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    files = WholeFiles()
    with full(tmp_path, 500_000):
        files.save_checkpoint({"weights": torch.zeros(50_000)}, tmp_path / "full" / "best.ckpt")
        with pytest.raises(OSError, match=r"No space left|File too large"):
            files.save_checkpoint({"weights": torch.ones(200_000)}, tmp_path / "full" / "best.ckpt")
        assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["best.ckpt"]
        assert not torch.load(tmp_path / "full" / "best.ckpt", weights_only=True)["weights"].any()


def test_other_forms_of_checkpoints_are_left_alone() -> None:
    class Own(TorchCheckpointIO):
        pass

    for given, kept in (([], WholeFiles), ([Own()], Own)):
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=given)
        keep_whole(trainer)
        assert type(trainer.strategy.checkpoint_io) is kept


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX'")
def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    """Killed when its first checkpoints are there; both are whole, and the run goes on."""
    out = tmp_path / "run"
    words = ["train", "demo", "--out", str(out), *CLASSIFIER, "--trainer.max_epochs=500"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "lit_od.cli", *words], env=environment) as process:
        while not (out / "last.ckpt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    epoch = torch.load(out / "last.ckpt", weights_only=True)["epoch"]
    read_checkpoint(out / "best.ckpt")
    recipe = demo(f"--trainer.max_epochs={epoch + 2}")
    train(recipe, out, resume=out / "last.ckpt")
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == epoch + 1
    assert {entry.name for entry in out.iterdir() if entry.name[0] != "."} == FILES - {FOLDER}
