import warnings

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_od.errors import ConfigError
from lit_od.training.classifier import LitClassifier
from lit_od.training.loop.trainer import quiet


def batch(count=8, classes=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 12, 12, 1), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % classes


def classifier(**changes):
    torch.manual_seed(0)
    return LitClassifier(**{"classes": 3, "image_size": (12, 12), "dropout": 0.0} | changes)


def run(module, loader, method="fit", **arguments):
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        trainer = lightning.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **arguments,
        )
        getattr(trainer, method)(module, *loader)
    return trainer


def test_the_penalty_is_that_of_keras_on_weights_and_not_on_biases():
    module = classifier(l2=0.01)
    weights = {name: tensor for name, tensor in module.named_parameters() if name.endswith("weight")}
    assert len(weights) == 5  # three convolutions, the features, the head
    total = sum(float((tensor.detach().numpy().astype(np.float64) ** 2).sum()) for tensor in weights.values())
    assert module.penalty().item() == pytest.approx(0.01 * total, rel=1e-5)
    for name, tensor in module.named_parameters():
        if name.endswith("bias"):
            tensor.data.fill_(7.0)
    assert module.penalty().item() == pytest.approx(0.01 * total, rel=1e-5)


def test_the_loss_is_cross_entropy_plus_penalty():
    module = classifier()
    images, labels = batch()
    wanted = F.cross_entropy(module.head(module.network(images)), labels) + module.penalty()
    torch.testing.assert_close(module.training_step((images, labels), 0), wanted)


def test_figures_are_means_over_images_not_over_batches():
    images, labels = batch(10)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)  # 4, 4 and 2 images
    module = classifier(learning_rate=1e-12)
    trainer = run(module, (loader, loader), max_epochs=1)
    with torch.no_grad():
        logits = module.eval()(images)
    loss = (F.cross_entropy(logits, labels) + module.penalty()).item()
    figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert figures["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    tested = run(module, (loader,), "test").callback_metrics
    assert tested["test_loss"].item() == pytest.approx(loss, rel=1e-5)


def test_it_learns_what_can_be_learnt():
    images, labels = batch(12)
    for row, label in enumerate(labels):
        images[row, 4 * label : 4 * label + 4] = 255  # a bright band, higher or lower
    loader = DataLoader(TensorDataset(images, labels), batch_size=12)
    trainer = run(classifier(), (loader, loader), max_epochs=15)
    assert trainer.callback_metrics["val_accuracy"] == 1.0


def test_the_learning_rate_falls_after_the_fifth_epoch_without_improvement():
    setup = classifier(learning_rate=1e-3).configure_optimizers()
    scheduler, optimizer = setup["lr_scheduler"]["scheduler"], setup["optimizer"]
    assert setup["lr_scheduler"]["monitor"] == "val_loss"
    rates = []
    for loss in [1.0, 0.99995, 1.0, 1.0, 1.0, 1.0]:  # 5e-5 is no improvement
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3] * 5 + [1e-3 * 0.1**0.5])
    for _ in range(100):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-6)


@pytest.mark.parametrize(("epochs", "every", "validations"), [(5, 1, 5), (5, 2, 3), (1, 5, 1)])
def test_the_plateau_rule_counts_epochs_between_validations(epochs: int, every: int, validations: int):
    module = classifier(lr_patience=epochs)
    module.trainer = lightning.Trainer(accelerator="cpu", logger=False, check_val_every_n_epoch=every)
    assert module.configure_optimizers()["lr_scheduler"]["scheduler"].patience == validations - 1


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_optimizer_takes_a_step_and_lets_gradients_be_clipped(name):
    images, labels = batch()
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    module = classifier(optimizer=name)
    before = module.head.weight.detach().clone()
    run(module, (loader, loader), max_epochs=1, gradient_clip_val=0.5, precision="bf16-mixed")
    assert not torch.equal(module.head.weight, before)


def test_hyper_parameters_are_plain_values():
    saved = dict(classifier().hparams)
    assert saved["network"] == "small-cnn"
    assert list(saved["image_size"]) == [12, 12]
    assert all(isinstance(value, int | float | str | list | tuple | bool | None) for value in saved.values())


def test_the_backbone_gives_features_and_keeps_its_mode():
    module = classifier()
    images, _ = batch()
    assert module.backbone()(images).shape == (8, 64)
    assert module.backbone().training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "a classifier needs at least 2 classes of inliers, got 1. Use class folders"),
        ({"optimizer": "lion"}, "optimizer must be adam, adamw or sgd, got 'lion'"),
        ({"learning_rate": 0}, r"wanted learning_rate > 0, l2 >= 0 and dropout in \[0, 1\), got 0"),
        ({"lr_factor": 1.0}, r"wanted lr_factor in \(0, 1\) and lr_patience >= 1, got 1 and 5"),
        ({"image_size": [28]}, r"image_size must be height and width, got \[28\]"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**changes)
