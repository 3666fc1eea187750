import io
import math
import sys

import pytest
import torch
from lightning import LightningModule
from torch import nn

from lit_od.errors import DataError
from lit_od.images.preparation import Preparation
from lit_od.recipes.roots import PACKAGED_DATA
from lit_od.recipes.schema import DataConfig
from lit_od.training.data.image_data import ImageData
from lit_od.training.loop.callbacks import (
    SWEEP_STEPS,
    FiniteLoss,
    FlushSubnormals,
    OutlierMonitor,
    Progress,
    SeededEpochs,
)
from lit_od.training.loop.checkpointing import ResumableEarlyStopping
from tests.support.small_training import trainer

LEAST_NORMAL = torch.finfo(torch.float32).tiny


class Scores(LightningModule):
    """Features are the mean of the pixels, or always the same; keeps what is logged."""

    def __init__(self, *, constant=False):
        super().__init__()
        self.constant, self.logged = constant, {}

    def backbone(self):
        return lambda images: torch.ones(len(images), 1) if self.constant else images.float().mean((1, 2, 3))[:, None]

    def log(self, name, value):
        self.logged[name] = value


@pytest.fixture(scope="module")
def data():
    how = Preparation(size=(28, 28), mode="grey")
    inks = {"train": "digits.npz:train_images:1,0", "outlier_classes": ["0"]}  # a one has half the ink of a zero
    return ImageData(DataConfig(root=PACKAGED_DATA, prepare=how, **inks))


def test_the_watched_figure_is_high_where_the_features_tell(data):
    module = Scores()
    OutlierMonitor(data, images=200).on_validation_epoch_end(trainer(), module)
    assert module.logged["val_outlier_auroc"] > 0.9


def test_large_images_are_watched_a_few_at_once(data, monkeypatch):
    monkeypatch.setattr("lit_od.training.data.image_data.EVALUATION_PIXELS", 28 * 28 * 7)
    sizes = []

    class Counted(Scores):
        def backbone(self):
            return lambda images: sizes.append(len(images)) or images.float().mean((1, 2, 3))[:, None]

    OutlierMonitor(data, images=20).on_validation_epoch_end(trainer(), Counted())
    assert sizes == [7, 7, 6] * 3


def test_it_is_no_number_where_the_features_admit_no_detector(data):
    module = Scores(constant=True)
    OutlierMonitor(data, images=20).on_validation_epoch_end(trainer(), module)
    assert math.isnan(module.logged["val_outlier_auroc"])


def test_nothing_is_watched_in_the_sanity_check(data):
    module = Scores()
    OutlierMonitor(data).on_validation_epoch_end(trainer(sanity_checking=True), module)
    assert module.logged == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_step(value):
    FiniteLoss().on_before_backward(trainer(), Scores(), torch.tensor(1.0))
    with pytest.raises(DataError, match=f"the loss became {value} at step 12 of epoch 3"):
        FiniteLoss().on_before_backward(trainer(global_step=12, current_epoch=3), Scores(), torch.tensor(value))


def test_subnormal_weights_and_moments_become_zero_and_others_stay():
    layer = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    moment = optimizer.state[layer.weight]["exp_avg"]
    for values in (layer.weight.data, moment):
        values.copy_(torch.tensor([[0.5, LEAST_NORMAL / 8, -1e-32]]))
    running = trainer(optimizers=[optimizer], global_step=SWEEP_STEPS + 1)
    FlushSubnormals().on_train_batch_end(running, Scores(), None, None, 0)
    assert layer.weight.count_nonzero() == 3
    running.global_step = 2 * SWEEP_STEPS
    FlushSubnormals().on_train_batch_end(running, Scores(), None, None, 0)
    assert layer.weight.tolist() == [[0.5, 0.0, 0.0]]
    assert moment.tolist() == [[0.5, 0.0, 0.0]]
    assert optimizer.state[layer.weight]["step"] == 1


def test_a_networks_draws_are_a_function_of_seed_epoch_and_rank():
    def first(seed=0, **where):
        with torch.random.fork_rng(devices=[]):
            SeededEpochs(seed).on_train_epoch_start(trainer(**where), Scores())
            return torch.rand(1).item()

    assert first() == first()
    assert len({first(), first(seed=1), first(current_epoch=1), first(global_rank=1)}) == 4


@pytest.mark.parametrize(
    ("stopped", "patience", "stops"),
    [(0, 2, False), (3, 2, True), (3, 1, True), (3, 5, False)],
)
def test_a_resumed_run_has_stopped_unless_it_has_more_patience(stopped, patience, stops):
    """Also where it got better before trainer.min_epochs were done: it ends with them all the same."""
    before = ResumableEarlyStopping("val_loss", patience=2)
    before.stopped_epoch = stopped
    after, resumed = ResumableEarlyStopping("val_loss", patience=patience), trainer(should_stop=False)
    after.load_state_dict(before.state_dict())
    after.on_train_start(resumed, Scores())
    assert resumed.should_stop == stops
    assert after.patience == patience


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_on_standard_error_where_that_is_a_terminal(terminal, monkeypatch, capsys):
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    running = trainer(num_training_batches=2, callback_metrics={"val_loss": torch.tensor(0.25)})
    bar = Progress()
    bar.on_train_epoch_start(running, Scores())
    for _ in range(2):
        bar.on_train_batch_end(running, Scores(), None, None, 0)
    bar.on_validation_end(running, Scores())
    assert ("epoch 1" in screen.getvalue()) == terminal
    assert ("val_loss=0.2500" in screen.getvalue()) == terminal
    assert capsys.readouterr().out == ""
