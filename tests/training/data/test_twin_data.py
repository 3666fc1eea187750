from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_od.errors import ConfigError, DataError
from lit_od.images.preparation import Preparation
from lit_od.recipes.load import from_tree
from lit_od.recipes.schema import DataConfig, Reference
from lit_od.training.data.image_data import ImageData
from lit_od.training.data.twin_data import ContinuedBatches, TwinData, data_of
from lit_od.training.loop.checkpoints import Checkpoint, require_same_images
from lit_od.training.loop.trainer import quiet
from tests.support.twins import recipe, tree

LAYOUT = {"steps": 5, "seed": 3, "stream": 1}


def stream(rows, batch_size, epochs, **place):
    batches = ContinuedBatches(rows, batch_size, **LAYOUT, **place)
    found = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        found += list(batches)
    return found


def test_a_stream_goes_on_from_epoch_to_epoch():
    found = stream(35, 8, 4)  # a pass has four batches, an epoch five
    assert [len(each) for each in found] == [8] * 20
    for start in range(0, 20, 4):
        one_pass = np.concatenate(found[start : start + 4])
        assert len(set(one_pass.tolist())) == 32
    assert not np.array_equal(found[0], found[4])


def test_a_stream_that_is_shorter_than_a_batch_is_the_batch():
    assert all(sorted(each.tolist()) == list(range(5)) for each in stream(5, 8, 1))
    assert [len(each) for each in stream(5, 8, 1, rank=1, world=2)] == [2] * 5


def test_processes_share_the_batch_of_one():
    shares = [stream(70, 8, 3, rank=rank, world=2) for rank in range(2)]
    for whole, *parts in zip(stream(70, 16, 3), *shares, strict=True):
        assert sorted(whole.tolist()) == sorted(np.concatenate(parts).tolist())


def test_streams_draw_for_themselves():
    other = ContinuedBatches(35, 8, **LAYOUT | {"stream": 0})
    assert not np.array_equal(next(iter(other)), stream(35, 8, 1)[0])


def test_the_two_sets_side_by_side():
    data = data_of(recipe().data, seed=0)
    assert isinstance(data, TwinData)
    assert data.class_names == ["0"]
    assert data.reference.class_names == ["1", "2", "3", "4", "5"]
    assert len(data.reference.sources("train")) + len(data.reference.sources("validation")) == 200
    with quiet():  # of a warning of Lightning's own
        loader = data.train_dataloader()
        batch, _, _ = next(iter(loader))
    images, labels = batch["reference"]
    assert images.shape == (16, 28, 28, 1)
    assert set(labels.tolist()) <= set(range(5))
    assert batch["target"][0].shape == (16, 28, 28, 1)
    sizes = [len(each.sources("train")) // 16 for each in (data, data.reference)]
    assert len(loader) == max(sizes)
    reference, target = data.val_dataloader()
    assert sum(len(labels) for _, labels in reference) == len(data.reference.sources("validation"))
    assert sum(len(labels) for _, labels in target) == len(data.sources("validation"))


def test_a_run_without_a_reference_set_has_the_usual_data():
    data = data_of(recipe(data={"reference": None}).data, seed=0)
    assert type(data) is ImageData
    with pytest.raises(ConfigError, match=r"twin networks need a reference set: give data\.reference"):
        TwinData(data.config)


def test_own_batch_size_of_the_reference_set():
    with quiet():
        batch, _, _ = next(iter(data_of(recipe(reference={"batch_size": 24}).data, seed=0).train_dataloader()))
    assert (len(batch["reference"][0]), len(batch["target"][0])) == (24, 16)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"exclude": []}, r"is in data\.reference and in the \w+ part .*\.exclude: \['0'\]"),
        ({"exclude": ["0", "9"]}, r"data\.reference: exclude: no image of class '9'; the classes here are"),
        ({"exclude": ["0", "1", "2", "3", "4"]}, r"needs images of at least 2 classes, .* has 1: give class folders"),
    ],
)
def test_reference_sets_that_do_not_do(reference, message):
    with pytest.raises(DataError, match=message):
        data_of(recipe(reference=reference).data, seed=0)


@pytest.fixture
def linked(tmp_path):
    """Three class folders of twenty images, and links to one of them, to one of its images, and to an archive."""
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "all" / name).mkdir(parents=True)
        for row in range(20):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "all" / name / f"{row}.png")
    (tmp_path / "target").symlink_to(tmp_path / "all" / "a")
    (tmp_path / "own").mkdir()
    for row in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "own" / f"{row}.png")
    rows = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "rows.npz", images=rows, labels=np.arange(60) % 3)
    (tmp_path / "other.npz").symlink_to(tmp_path / "rows.npz")
    return tmp_path


def of_links(root, train, reference="all"):
    how = Preparation(size=(8, 8), mode="grey")
    return TwinData(DataConfig(train=train, prepare=how, root=str(root), reference=Reference(path=reference)))


def test_a_link_does_not_hide_that_an_image_is_in_both_sets(linked):
    with pytest.raises(DataError, match=r"all/a/\d+\.png is in data\.reference and in the \w+ part .*: \['a'\]"):
        of_links(linked, "target")
    assert of_links(linked, "own").class_names == ["inlier"]
    (linked / "own" / "20.png").symlink_to(linked / "all" / "b" / "3.png")
    with pytest.raises(DataError, match=r"all/b/3\.png is in data\.reference"):
        of_links(linked, "own")
    with pytest.raises(DataError, match=r"rows\.npz#\d+ is in data\.reference"):
        of_links(linked, "other.npz:images:0", "rows.npz")


def checkpoint(data):
    return Checkpoint(Path("best.ckpt"), "", {}, recipe(), {}, fingerprints=data.fingerprints)


def test_a_checkpoint_knows_both_sets():
    data = data_of(recipe().data, seed=0)
    assert set(data.fingerprints) == {"train", "reference"}
    trained = checkpoint(data)
    require_same_images(trained, data_of(recipe().data, seed=0))
    other = data_of(recipe(reference={"limit": 190}).data, seed=0)
    with pytest.raises(DataError, match=r"data\.reference holds other images than best\.ckpt was trained on"):
        require_same_images(trained, other)
    require_same_images(trained, ImageData(other.config))  # which is what a bundle is made of
    with pytest.raises(DataError, match=r"data\.train holds other images than best\.ckpt .* \(--data\.root DIR\), or"):
        require_same_images(trained, data_of(recipe().data, seed=1))


def test_validation_takes_few_large_images_at_once(monkeypatch):
    monkeypatch.setattr("lit_od.training.data.image_data.EVALUATION_PIXELS", 28 * 28 * 3)
    reference, target = data_of(recipe().data, seed=0).val_dataloader()
    assert {len(labels) for loader in (reference, target) for _, labels in loader} <= {1, 2, 3}


def test_a_share_that_is_none():
    with pytest.raises(ConfigError, match=r"data\.reference\.validation must be a share in \(0, 1\), got 0"):
        data_of(recipe(reference={"validation": 0.0}).data, seed=0)


def test_a_validation_part_of_one_image_is_refused():
    data = data_of(recipe(data={"limit": 20, "split": {"validation": 0.01, "calibration": 0.1}}).data, seed=0)
    with pytest.raises(DataError, match="1 validation images do not do: wanted at least 2 of each set"):
        data.val_dataloader()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pth": "x"}, r"unknown key `pth` - at `data\.reference`"),
        ({"limit": "all"}, r"Expected `int \| null`, got `str` - at `data\.reference\.limit`"),
        ({"exclude": [7]}, r"Expected `str`, got `int` - at `data\.reference\.exclude\[0\]`|\[\.\.\.\]"),
    ],
)
def test_a_recipe_says_where_its_reference_set_is_wrong(change, message):
    with pytest.raises(ConfigError, match=message):
        recipe(reference=change)


def test_a_graph_takes_no_reference_set():
    graph = tree() | {"model": None, "backbone": "graph.onnx"}
    with pytest.raises(ConfigError, match=r"data\.reference is for training, and this recipe's backbone is an ONNX"):
        from_tree(graph, "twins")
