"""The two autoencoder experiments from end to end on a handful of images, and trainings that go on."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from lit_od.bundle.folder import Bundle
from lit_od.cli import main
from lit_od.errors import ConfigError, DataError
from lit_od.experiments import resumable_runs
from lit_od.experiments.results import ExperimentOptions
from lit_od.experiments.resumable_runs import budget_line, seeds_of
from lit_od.recipes.load import override, read
from tests.support.images import write_idx
from tests.support.small_training import AUTOENCODER, TRUST
from tests.support.twins import Killed, digits_root, kill_before_last

train_staged = partial(resumable_runs.train_staged, trust=TRUST)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with a few images of each set: cats are faint waves, dogs are noise."""
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    for part, count in (("train", 40), ("validation", 3), ("test", 8)):
        for name in ("cats", "dogs"):
            folder = root / "cats_dogs" / part / name
            folder.mkdir(parents=True)
            for row in range(count):
                waves = 128 + 20 * np.sin(np.linspace(0, 5 + row % 3, 32))[:, None] * np.ones((32, 32))
                pixels = waves if name == "cats" else rng.integers(0, 256, (32, 32))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{row}.png")
    archive = {}
    for part, count in (("train", 300), ("test", 60)):
        archive[f"{part}_images"] = rng.integers(100, 156, (count, 32, 32, 3), dtype=np.uint8)
        archive[f"{part}_labels"] = np.arange(count)[:, None] % 10
    np.savez(root / "cifar10.npz", **archive)
    for part in ("train", "t10k"):
        raw = root / "FashionMNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (12, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(12, dtype=np.uint8) % 10)
    return root


def test_cats_from_end_to_end(root, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["reproduce", "cats-autoencoder", "--quick", "--budget", "small", f"--data.root={root}", "--out", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "a smoke run whose figures prove nothing" in text
    assert "(published 0.48)" in text
    assert "(published 16.94)" in text
    (run,) = json.loads((out / "report.json").read_text())["runs"]
    assert run["rmse"]["cats"]["n"] == run["rmse"]["dogs"]["n"] == 8
    assert run["d"] > 0.5  # a network that has learnt little gives grey, which the waves are near to
    assert list(run["d_by_epoch"]) == ["1"]
    assert run["classifier"]["n"] == 16
    assert set(run["classifier"]["accuracy"]) == {"two autoencoders", "mean brightness", "nearest image"}
    assert set(run["classifier"]["none_at_level"]) == {"cats and dogs", "garments"}
    assert 0 <= run["at_or_below_level"]["cats"]["p_value"] <= 1
    seed = out / "seed-0"
    assert {"rmse.png", "scores.png", "dogs.png"} < {path.name for path in seed.iterdir()}
    assert main(["verify", str(seed / "cats-autoencoder")]) == 0
    provenance = Bundle.read(seed / "cats-autoencoder").manifest.provenance
    assert provenance.recipe is not None
    assert provenance.recipe["trainer"]["max_epochs"] == 1
    assert provenance.metrics["val_loss"] > 0


def test_cifar10_from_end_to_end(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["reproduce", "cifar10-autoencoder", "--quick", f"--data.root={root}", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "20x20" in text
    (run,) = json.loads((out / "report.json").read_text())["runs"]
    assert run["sizes"] == list(range(0, 21, 2))
    assert list(run["means"]) == ["20", "40", "60", "80", "100"]
    assert run["rises"] == all(np.all(np.diff(row) > 0) for row in run["means"].values())
    assert run["flagged"]["n"] == 60
    assert {"sensitivity.png", "images.png", "masked.png", "scores.png"} < {p.name for p in (out / "seed-0").iterdir()}


def test_a_budget_is_refused_where_there_is_none(tmp_path, capsys):
    assert main(["reproduce", "mnist-digits", "--budget", "small", "--out", str(tmp_path / "out")]) == 2
    assert "mnist-digits takes no --budget: leave it out" in capsys.readouterr().err


def test_the_small_budget_says_what_it_leaves_out(tmp_path):
    small, full, quick = (
        ExperimentOptions(root=None, out=tmp_path, **how) for how in ({"budget": "small"}, {}, {"quick": True})
    )
    assert (seeds_of(small), seeds_of(full), seeds_of(quick)) == ((0,), (0, 1, 2), (0,))
    wanted = "budget small: 7 epochs, 1 seed; left out: 43 of 50 epochs, and all seeds but the first"
    assert budget_line(small, 7, full=50) == wanted
    assert budget_line(full, 50, full=50) == "budget full: 50 epochs, 3 seeds"
    assert "prove nothing" in budget_line(quick, 1, full=50)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged") / "run"
    recipe = read("demo", AUTOENCODER)
    return recipe, folder, train_staged(recipe, folder, epochs=3, watch=lambda module: float(module.current_epoch))


def epochs_of(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("val_loss")
    return [float(line.split(",")[place]) for line in lines[1:]]


def test_stages_are_one_training(staged, tmp_path):
    recipe, _, found = staged
    assert list(found.watched) == [1, 2, 3]
    whole = train_staged(override(recipe, ["--trainer.max_epochs=3"]), tmp_path / "run", epochs=3)
    assert epochs_of(whole.checkpoint.parent) == epochs_of(found.checkpoint.parent)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name])


def test_the_module_is_the_best_epochs(staged):
    _, folder, _ = staged
    losses = epochs_of(folder)
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["epoch"] == int(np.argmin(losses))


def test_a_run_that_is_done_is_not_trained_again(staged):
    recipe, folder, found = staged
    before = (folder / "last.ckpt").stat().st_mtime_ns
    again = train_staged(recipe, folder, epochs=3, watch=lambda module: pytest.fail("nothing is to be watched"))
    assert (folder / "last.ckpt").stat().st_mtime_ns == before
    assert again.watched == found.watched


def test_a_run_with_fewer_epochs_goes_on(tmp_path):
    recipe, folder = read("demo", AUTOENCODER), tmp_path / "run"
    train_staged(recipe, folder, epochs=1, watch=lambda module: 1.0)
    more = train_staged(recipe, folder, epochs=2, watch=lambda module: 2.0)
    assert more.watched == {1: 1.0, 2: 2.0}
    assert len(epochs_of(folder)) == 2


def test_a_run_that_was_killed_between_its_first_checkpoints_goes_on(staged, tmp_path, monkeypatch):
    recipe, _, unbroken = staged
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        kill_before_last(patched)
        with pytest.raises(Killed):
            train_staged(recipe, folder, epochs=3, watch=lambda module: 0.0)
    assert [file.name for file in folder.glob("*.ckpt")] == ["best.ckpt"]
    with pytest.raises(ConfigError, match="another recipe or of more epochs: remove it, or name another --out"):
        train_staged(override(recipe, ["--model.init_args.learning_rate=0.02"]), folder, epochs=3)
    found = train_staged(recipe, folder, epochs=3, watch=lambda module: float(module.current_epoch))
    assert found.watched == unbroken.watched
    assert epochs_of(folder) == epochs_of(unbroken.checkpoint.parent)
    for name, tensor in unbroken.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name])


def test_a_run_that_was_killed_before_an_epoch_was_watched_watches_it(tmp_path):
    def watch(module):
        raise Killed

    recipe, folder = read("demo", AUTOENCODER), tmp_path / "run"
    with pytest.raises(Killed):
        train_staged(recipe, folder, epochs=1, watch=watch)
    assert train_staged(recipe, folder, epochs=1, watch=lambda module: 1.0).watched == {1: 1.0}


def test_a_run_on_other_images_is_not_taken_up(tmp_path):
    root, folder = digits_root(tmp_path / "root"), tmp_path / "run"
    recipe = read("demo", [*AUTOENCODER, f"--data.root={root}"])
    train_staged(recipe, folder, epochs=1)
    train_staged(recipe, folder, epochs=1)
    digits_root(root, without=1)
    for epochs in (1, 2):  # with nothing left to train, and with an epoch
        with pytest.raises(DataError, match=r"data\.train holds other images than .*\.ckpt was trained on"):
            train_staged(recipe, folder, epochs=epochs)


@pytest.mark.parametrize(("change", "epochs"), [(["--seed=1"], 3), (["--data.batch_size=16"], 3), ([], 2)])
def test_a_run_of_another_recipe_is_left_alone(staged, change, epochs):
    recipe, folder, _ = staged
    with pytest.raises(ConfigError, match="another recipe or of more epochs: remove it, or name another --out"):
        train_staged(override(recipe, change), folder, epochs=epochs)
