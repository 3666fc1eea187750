import csv
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from msgspec.structs import replace
from torch import nn

from lit_od import Bundle, Scorer
from lit_od.cli import main
from lit_od.errors import ConfigError, DataError
from lit_od.recipes.load import override, read
from lit_od.recipes.schema import ModelConfig
from lit_od.training import LitDOC
from lit_od.training.data import trunk_cache
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.data.twin_data import TwinData
from lit_od.training.doc import compactness_loss
from lit_od.training.loop import train as loop
from lit_od.training.loop.checkpoints import load_module
from lit_od.training.loop.trainer import quiet
from lit_od.training.pipeline import fit
from tests.support.job_server import said
from tests.support.twins import TRUST, options, recipe

train = partial(loop.train, trust=TRUST)

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (12, 28, 28, 1), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(12) % 5


class AloneTrainer:
    world_size = 1


def module(**changes):
    torch.manual_seed(0)
    made = LitDOC(**options(**changes))
    made._trainer = AloneTrainer()  # what it asks of a Trainer within a step
    return made


def batch(reference=slice(0, 6), target=slice(6, 12)):
    return {"reference": (IMAGES[reference], LABELS[reference]), "target": (IMAGES[target], LABELS[target])}


def changed(made, steps=3):
    """Names of the weights and buffers that training has moved."""
    before = {name: each.clone() for name, each in made.state_dict().items()}
    optimizer = made.configure_optimizers()
    for _ in range(steps):
        optimizer.zero_grad()
        made.training_step(batch(), 0).backward()
        optimizer.step()
    return {name for name, each in made.state_dict().items() if not torch.equal(each, before[name])}


def test_the_loss_is_the_sum_of_both():
    made = module(compactness=0.3, descriptiveness=2.0).eval()
    loss = made.training_step(batch(), 0)
    features = made.network(IMAGES)
    wanted = 2 * F.cross_entropy(made.head(features[:6]), LABELS[:6]) + 0.3 * compactness_loss(features[6:])
    torch.testing.assert_close(loss, wanted)


def test_the_last_four_layers_learn_and_no_statistic_does():
    made = module(learning_rate=0.01)
    assert made.trained == ["blocks.0", "blocks.1", "last", "last_norm"]
    moved = changed(made)
    parts = {"weight", "bias"}
    prefix = "network.body.body."
    wanted = {f"{prefix}blocks.{block}.{part}.{name}" for block in (0, 1) for part in (0, 1) for name in parts}
    wanted |= {f"{prefix}{layer}.{name}" for layer in ("last", "last_norm") for name in parts}
    assert moved == wanted | {"head.weight", "head.bias"}


def test_the_layers_that_learn_can_be_chosen():
    assert module(trained_layers=1).trained == []
    assert module(trained_layers=2).trained == ["last", "last_norm"]
    assert changed(module(trained_layers=1, learning_rate=0.01)) == {"head.weight", "head.bias"}
    only = module(trained=["blocks.1.0"], learning_rate=0.01)
    assert changed(only) >= {"network.body.body.blocks.1.0.weight", "head.weight"}
    assert not any(name.endswith("last.weight") for name in changed(only))
    with pytest.raises(ConfigError, match=r"trained_layers must be 1 \(the head alone\) to 5 here, got 6"):
        module(trained_layers=6)
    with pytest.raises(ConfigError, match=r"no layer 'classifier' runs before last_norm: the layers are stem, norm"):
        module(trained=["classifier"])


def test_normalisation_and_frozen_layers_stay_in_evaluation_mode():
    made = module(trained_layers=3).train()
    body = made.network.body.body
    assert not any(part.training for part in body.modules() if isinstance(part, nn.BatchNorm2d))
    assert not body.blocks[0].training
    assert body.blocks[1][0].training
    assert not made.eval().training
    assert not body.blocks[1][0].training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reference_classes": 1}, "a reference set needs at least 2 classes, got 1"),
        ({"optimizer": "lion"}, "optimizer must be adam, adamw or sgd, got 'lion'"),
        ({"learning_rate": 0.0}, "wanted learning_rate > 0 and weight_decay >= 0, got 0, 5e-05"),
        ({"weight_decay": -1.0}, "wanted learning_rate > 0 and weight_decay >= 0"),
        ({"compactness": -0.1}, "wanted compactness and descriptiveness at least 0"),
        ({"compactness": 0.0, "descriptiveness": 0.0}, "one of them above, got 0 and 0"),
        ({"layer": "nowhere"}, "no layer 'nowhere'"),
    ],
)
def test_arguments_that_cannot_be(wrong, message):
    with pytest.raises(ConfigError, match=message):
        module(**wrong)


def test_one_target_image_is_refused_with_the_reason():
    with pytest.raises(DataError, match="a batch of 1 has no others"):
        module().training_step(batch(target=slice(6, 7)), 0)


@pytest.fixture(scope="module")
def cache():
    return TrunkCache()


@pytest.fixture(scope="module")
def calls():
    """What functions of the cache were called with in the first run."""
    return {"export_backbone": [], "_activations": []}


def noted(function, calls):
    return lambda *given: calls.append(given) or function(*given)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, calls):
    """A run on what the trunk gives, and the same run on images."""
    out = tmp_path_factory.mktemp("runs")
    words = {"class_path": "tests.support.twins.Recorded", "trained_layers": 3, "learning_rate": 0.001}
    kept = []
    from tests.support.twins import Recorded

    Recorded.on_train_end = lambda self: kept.append(self.losses)
    with pytest.MonkeyPatch.context() as patched:
        for name, given in calls.items():
            patched.setattr(trunk_cache, name, noted(getattr(trunk_cache, name), given))
        trained = train(recipe(**words), out / "cached", trunk_cache=cache)
    train(recipe(**words, cache_trunk=False), out / "images")
    return trained, kept


def test_a_run_on_activations_is_the_run_on_images(run):
    _, (cached, images) = run
    assert len(cached) == 6
    np.testing.assert_allclose(cached, images, rtol=1e-3)


def test_the_log_has_both_parts(run):
    trained, _ = run
    with (trained.checkpoint.parent / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for stage in ("train", "val"):
        for row in rows:
            parts = [float(row[f"{stage}_loss_{part}"]) for part in ("descriptiveness", "compactness")]
            assert float(row[f"{stage}_loss"]) == pytest.approx(parts[0] + 0.1 * parts[1], rel=1e-5)
    data, made = trained.data, load_module(trained.checkpoint, TRUST).eval()
    pixels = torch.from_numpy(np.stack([source.prepare(data.config.prepare) for source in data.sources("validation")]))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    with torch.no_grad():
        wanted = compactness_loss(made.network(pixels)).item()
    assert float(best["val_loss_compactness"]) == pytest.approx(wanted, rel=1e-3)


def test_the_trunk_sees_an_image_once(run, cache, calls, monkeypatch, tmp_path):
    trained, _ = run
    seen = [source.name for _, sources, *_ in calls["_activations"] for source in sources]
    parts = [(data, part) for data in (trained.data, trained.data.reference) for part in ("train", "validation")]
    assert sorted(seen) == sorted(source.name for data, part in parts for source in data.sources(part))
    assert len(calls["export_backbone"]) == 1
    monkeypatch.setattr("lit_od.training.data.trunk_cache._activations", lambda *given: pytest.fail("it ran again"))
    words = {"trained_layers": 3, "learning_rate": 0.002}
    again = train(recipe(**words), tmp_path / "again", trunk_cache=cache)
    assert again.data.fingerprint == trained.data.fingerprint


def short(**changes):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    options |= {"limit_train_batches": 2, "accelerator": "cpu", "use_distributed_sampler": False}
    return Trainer(**options | changes)


def test_after_a_fit_the_data_give_images_again(tmp_path, cache):
    made, data = LitDOC(**options()), TwinData(recipe().data, seed=0, cache=cache)
    with quiet(LitDOC):
        trainer = short(default_root_dir=tmp_path)
        trainer.fit(made, datamodule=data)
        (figures,) = trainer.validate(made, datamodule=data, verbose=False)[:1]
        assert figures["val_loss"] > 0
        images, _ = next(iter(data.val_dataloader()[0]))
        assert images.dtype == torch.uint8
        data.keep(made.trunk, made.device)  # as a fit leaves them that was broken off
        short(default_root_dir=tmp_path).fit(LitDOC(**options(cache_trunk=False)), datamodule=data)


def test_augmented_images_are_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr("lit_od.training.data.trunk_cache._activations", lambda *given: pytest.fail("it was kept"))
    train(recipe(data={"augment": {"rotation": 10}}, trainer={"max_epochs": 1}), tmp_path / "run")


def test_fit_train_and_export_from_the_command_line(tmp_path, command):
    import yaml

    from tests.support.twins import tree

    file = tmp_path / "twins.yaml"
    file.write_text(yaml.safe_dump(tree(cache_trunk=False)))
    chain = "tests.support.twins:Chain"
    status, _, err = command("train", file, "--out", tmp_path / "run", "--trust", chain)
    assert (status, err) == (0, f"lit-od: {chain} is imported, which --trust allows\n")
    words = ["--detector", "lof", "--out", tmp_path / "lof", "--threads", "1", "--trust", chain]
    assert command("export", tmp_path / "run" / "best.ckpt", *words).status == 0
    assert command("fit", file, "--out", tmp_path / "knn", "--threads", "1", "--trust", chain).status == 0
    knn, lof = Bundle.read(tmp_path / "knn"), Bundle.read(tmp_path / "lof")
    assert (knn.detector.kind, lof.detector.kind) == ("knn", "lof")
    assert knn.files["backbone.onnx"] == lof.files["backbone.onnx"]
    assert "root" not in str(knn.manifest.provenance.recipe["data"]["reference"])
    assert main(["verify", str(tmp_path / "knn")]) == 0
    assert np.isfinite(Scorer.of(knn).score(IMAGES.numpy()).score).all()


def test_a_recipe_that_does_not_fit_the_model(tmp_path):
    with pytest.raises(ConfigError, match=r"lit_od\.training\.LitDOC needs data\.reference"):
        train(recipe(data={"reference": None}), tmp_path / "run")
    wrong = override(read("demo"), ["--data.reference.path=garments.npz:images"])
    with pytest.raises(ConfigError, match=r"LitClassifier takes no data\.reference: leave it out"):
        train(wrong, tmp_path / "run")
    twins, options = recipe(), {"network": "test_resnet", "layers": ["layer1"]}
    frozen = ModelConfig(class_path="lit_od.training.FrozenBackbone", init_args=options)
    with pytest.raises(ConfigError, match=r"FrozenBackbone takes no data\.reference"):
        fit(replace(twins, trainer={}, model=frozen), tmp_path / "out")


def test_values_beyond_half_precision_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"beyond what half precision holds \(65,504\), or no number: set cache_trunk"):
        train(recipe(network="tests.support.twins:Large"), tmp_path / "run")


def test_one_process_and_two_take_the_same_steps(ranks, tmp_path):
    for world in (1, 2):
        folder = tmp_path / str(world)
        given = {"out": str(folder), "batch_size": 64 // world, "steps": 20}
        statuses = ranks(world, folder, call="tests.support.twins:train_recorded", **given)
        assert statuses == [0] * world, said(folder)
    (one,), two = (
        [torch.load(tmp_path / str(world) / f"rank{rank}.pt", weights_only=True) for rank in range(world)]
        for world in (1, 2)
    )
    assert len(one["losses"]) == 20
    together = np.mean([each["losses"] for each in two], axis=0)  # of the cross-entropy each has its own part
    np.testing.assert_allclose(together, one["losses"], atol=1e-5)
    for name in ("head.weight", "network.body.body.blocks.0.0.weight"):
        assert float((one["first"][name] - one["weights"][name]).abs().max()) > 1e-3
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two[0]["weights"][name], weights, atol=1e-5, rtol=0)
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name])
