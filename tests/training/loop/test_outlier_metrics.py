import lightning
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_od.errors import DataError
from lit_od.evaluation.metrics import rates, summary
from lit_od.training.loop.outlier_metrics import OutlierMetrics

RNG = np.random.default_rng(0)
SCORES = np.round(RNG.normal(30, 4, size=37), 1) + np.repeat([0, 5], [20, 17])
IS_OUTLIER = np.repeat([False, True], [20, 17])
ORDER = RNG.permutation(37)


def expected(threshold=None):
    sets = SCORES[~IS_OUTLIER], SCORES[IS_OUTLIER]
    figures = summary(*sets)
    if threshold is not None:
        r = rates(*sets, threshold)
        figures |= {name: getattr(r, name) for name in r.__slots__}
    return figures


def fed(parts, **options):
    metric = OutlierMetrics(**options)
    for part in parts:
        metric.update(torch.tensor(SCORES[part]), torch.tensor(IS_OUTLIER[part]))
    return metric


def as_floats(figures):
    return {name: value.item() for name, value in figures.items()}


@pytest.mark.parametrize("batch", [1, 5, 37])
def test_batches_of_any_size_give_the_figures_of_the_whole(batch):
    parts = [ORDER[start : start + batch] for start in range(0, 37, batch)]
    assert as_floats(fed(parts, threshold=33.0).compute()) == expected(33.0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric OutlierMetrics was called before")
def test_names_take_the_prefix_and_a_reset_forgets():
    metric = fed([ORDER], prefix="val_")
    assert as_floats(metric.compute()) == {f"val_{name}": value for name, value in expected().items()}
    metric.reset()
    with pytest.raises(DataError, match="inlier scores are empty"):
        metric.compute()


def test_one_sided_scores_and_nan_are_refused():
    with pytest.raises(DataError, match="outlier scores are empty"):
        fed([np.arange(20)]).compute()
    metric = fed([ORDER])
    metric.update(torch.tensor([torch.nan]), torch.tensor([True]))
    with pytest.raises(DataError, match="outlier scores must be finite"):
        metric.compute()


@pytest.mark.parametrize(
    ("scores", "is_outlier", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 1), r"both have shape \(n,\), got \(2, 1\)"),
        (torch.zeros(2), torch.zeros(3), r"both have shape \(n,\), got \(2,\) and \(3,\)"),
        (torch.zeros(2), torch.tensor([0, -1]), "must hold booleans, or 0 and 1 alone"),
    ],
)
def test_batches_that_cannot_be_are_refused(scores, is_outlier, message):
    with pytest.raises(DataError, match=message):
        OutlierMetrics().update(scores, is_outlier)


class Scoring(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Identity()
        self.metrics = OutlierMetrics(threshold=33.0)

    def validation_step(self, batch, _):
        self.metrics.update(*batch)

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # Lightning's own
@pytest.mark.parametrize("loop", ["validate", "test"])
def test_it_serves_in_lightnings_loops(loop, tmp_path):
    rows = TensorDataset(torch.tensor(SCORES[ORDER]), torch.tensor(IS_OUTLIER[ORDER]))
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    (found,) = getattr(trainer, loop)(Scoring(), DataLoader(rows, batch_size=8), verbose=False)
    assert found == pytest.approx(expected(33.0), abs=1e-6)
