"""The DOC experiment from end to end on a handful of images and a network of no weight."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from lit_od.cli import main
from lit_od.errors import ConfigError, DataError
from lit_od.experiments import resumable_runs
from lit_od.experiments.doc_measures import features_by_part
from lit_od.experiments.doc_sneakers import _of_pair
from lit_od.recipes.load import override, read, to_tree
from lit_od.training.data.trunk_cache import TrunkCache
from lit_od.training.data.twin_data import data_of
from lit_od.training.doc import LitDOC
from lit_od.training.loop.checkpoints import read_checkpoint
from tests.support import twins
from tests.support.images import write_idx
from tests.support.twins import TRUST, Killed, digits_root, kill_before_last

train_or_resume = partial(resumable_runs.train_or_resume, trust=TRUST)

CLASSES = 10
SMALL = [
    "--data.prepare.size=[28, 28]",
    "--data.split.calibration=0.3",
    "--model.init_args.network=tests.support.twins:Chain",
    "--trust=tests.support.twins:Chain",
    "--model.init_args.layer=last_norm",
    "--model.init_args.pretrained=false",
]

PAIR = (
    "{train: mnist:train:4, test: mnist:test:4, outliers: mnist:test:9, "
    "reference: {path: mnist:train, exclude: ['4', '9'], limit: 240}}"
)


def pictures(rng, labels, shape):
    """Each class has a level of its own, with noise."""
    levels = 20 + 20 * labels.astype(float)
    noise = rng.normal(0, 10, (len(labels), *shape))
    return np.clip(levels.reshape(-1, *[1] * len(shape)) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with eighty training images and eight test images of each class of each set."""
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(0)
    archive = {}
    for part, file, count in (("train", "train", 80), ("test", "t10k", 8)):
        labels = np.tile(np.arange(CLASSES, dtype=np.uint8), count)
        for name in ("MNIST", "FashionMNIST"):
            write_idx(root / name / "raw" / f"{file}-images-idx3-ubyte", pictures(rng, labels, (28, 28)))
            write_idx(root / name / "raw" / f"{file}-labels-idx1-ubyte", labels)
        archive[f"{part}_images"], archive[f"{part}_labels"] = pictures(rng, labels, (32, 32, 3)), labels[:, None]
    np.savez(root / "cifar10.npz", **archive)
    return root


def test_sneakers_from_end_to_end(root, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["reproduce", "doc-sneakers", "--quick", "--threads=1", *SMALL, f"--data.root={root}", "--out", str(out)]
    words.append(f"--evaluation.pairs={{fours-nines: {PAIR}}}")
    assert main([*words, "--budget", "small"]) == 0
    first = json.loads((out / "report.json").read_text())
    assert first["pairs"] == {}
    capsys.readouterr()
    assert main(words) == 0  # trainings that are done are taken up
    text = capsys.readouterr().out
    assert "a smoke run whose figures prove nothing" in text
    report = json.loads((out / "report.json").read_text())
    (run,) = report["runs"]
    assert run["images"] == {"train": 52, "calibration": 24, "inliers": 8, "outliers": 8}
    assert list(run["ablation"]) == ["frozen", "l_D alone", "l_C alone", "both"]
    assert set(run["ablation"]["both"]) == {"kNN", "LOF", "hull"}
    assert run["bundle"]["auroc"] == pytest.approx(run["ablation"]["both"]["kNN"]["auroc"], abs=0.02)
    assert [(each["templates"], each["chosen"]) for each in run["templates"]] == [
        (10, "sample"),
        (10, "k-centre"),
        (40, "sample"),
        (40, "k-centre"),
        (52, "all"),
    ]
    assert run["templates"][-1]["auroc"] == run["ablation"]["both"]["kNN"]["auroc"]
    parts = run["decision_ms"]
    assert parts["all"] >= max(parts["decode"], parts["backbone"], parts["neighbours"]) > 0
    assert first["runs"][0]["ablation"] == run["ablation"]
    assert set(report["pairs"]) == {"fours-nines"}
    assert all(len(values) == 1 for values in report["pairs"]["fours-nines"]["both"].values())
    assert (out / "losses.png").stat().st_size > 10_000
    assert {"tsne.png", "most.png", "least.png", "overlays.png"} < {each.name for each in (out / "seed-0").iterdir()}
    assert main(["verify", str(out / "seed-0" / "doc-sneakers")]) == 0
    other = "--data.batch_size=32"
    assert main([*words, other]) == 2
    assert "holds a run of another recipe: remove it, or name another --out" in capsys.readouterr().err


def test_a_detector_is_refused_before_the_trainings(root, tmp_path, capsys):
    words = ["--data.root", str(root), "--out", str(tmp_path), *SMALL]
    assert main(["reproduce", "doc-sneakers", *words, "--detector.kind=strange.module:Mine"]) == 2
    assert capsys.readouterr().err.endswith("add --trust strange.module:Mine\n")
    assert not list(tmp_path.iterdir())


def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch):
    root, folder, cache = digits_root(tmp_path / "root"), tmp_path / "run", TrunkCache()
    asked = twins.recipe(data={"root": str(root)})
    unbroken = train_or_resume(asked, tmp_path / "unbroken", cache)
    with monkeypatch.context() as patched:
        kill_before_last(patched)
        with pytest.raises(Killed):
            train_or_resume(asked, folder, cache)
    assert [file.name for file in folder.glob("*.ckpt")] == ["best.ckpt"]
    with pytest.raises(ConfigError, match="holds a run of another recipe: remove it, or name another --out"):
        train_or_resume(twins.recipe(data={"root": str(root)}, learning_rate=0.1), folder, cache)
    for time in range(3):  # goes on; has come to its end but for its picture; is taken up
        found = train_or_resume(asked, folder, cache)
        for name, tensor in unbroken.module.state_dict().items():
            assert torch.equal(tensor, found.module.state_dict()[name])
        assert read_checkpoint(folder / "last.ckpt").epoch == 1
        if time == 0:
            (folder / "learning_curves.png").unlink()
    digits_root(root, without=1)
    with pytest.raises(DataError, match=r"data\.(train|reference) holds other images than .*best\.ckpt was trained on"):
        train_or_resume(asked, folder, cache)


def test_features_of_large_images_are_computed_a_few_at_once(monkeypatch):
    monkeypatch.setattr("lit_od.training.data.image_data.EVALUATION_PIXELS", 28 * 28 * 50)
    asked, module, sizes = twins.recipe(), LitDOC(**twins.options()), []
    tail = module.trunk.tail
    monkeypatch.setattr(module.trunk, "tail", lambda rows: sizes.append(len(rows)) or tail(rows))
    features_by_part(module, data_of(asked.data, seed=0), asked, TrunkCache())
    assert max(sizes) == 50


def test_pairs_have_the_recipes_options():
    recipe = override(read("doc-sneakers"), ["--seed=4"])
    for name, pair in recipe.evaluation.pairs.items():
        own, trees = _of_pair(recipe, name, pair), (to_tree(recipe), to_tree(_of_pair(recipe, name, pair)))
        assert own.name == name
        assert [each["path"] for each in trees[1]["evaluation"]["outliers"].values()] == [pair.outliers]
        for tree in trees:
            for key in ("train", "test", "reference"):
                del tree["data"][key]
            del tree["name"], tree["evaluation"]
        assert trees[0] == trees[1]


def test_no_reference_set_holds_its_target_or_its_outliers():
    recipe = read("doc-sneakers")
    assert recipe.data.reference.exclude == ["7", "9"]
    assert {name: pair.reference.exclude for name, pair in recipe.evaluation.pairs.items()} == {
        "fours-nines": ["4", "9"],
        "automobiles-trucks": ["1", "9"],
    }
