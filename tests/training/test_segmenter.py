"""A head trained on synthetic defects: its loss, its training, and its bundle."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit

from lit_od import Scorer
from lit_od.errors import ConfigError
from lit_od.images.batching import load
from lit_od.images.preparation import prepare
from lit_od.recipes.load import override, read
from lit_od.training import ImageData, LitSegmenter, fit, train
from lit_od.training.segmenter import HARD, SegmentationHead, covered, segmentation_loss

CHAIN = "tests.support.twins:Chain"


def small(*words: str):
    """The shipped recipe over a small network, on the packaged digits."""
    return read(
        "defects-trained",
        [
            "--data.root=lit_od:assets",
            "--data.train=digits.npz:train_images",
            "--data.limit=60",
            "--data.prepare.size=[56, 56]",
            "--model.init_args.pretrained=false",
            f"--model.init_args.network={CHAIN}",
            "--model.init_args.layers=[stem, blocks.0]",
            "--detector.members=[{kind: padim}, {kind: patchcore, coreset: 100}, {kind: patch_channel}]",
            "--trainer.max_epochs=2",
            *words,
        ],
    )


def test_the_loss_is_the_cross_entropy_of_both_and_of_the_hardest() -> None:
    rng = np.random.default_rng(0)
    defective, normal = rng.normal(size=30), rng.normal(size=400)
    losses = -np.log(1 - expit(normal))
    wanted = -np.log(expit(defective)).mean() + losses.mean() + np.sort(losses)[-round(HARD * 400) :].mean()
    got = segmentation_loss(torch.from_numpy(defective), torch.from_numpy(normal))
    assert float(got) == pytest.approx(wanted, rel=1e-9)
    assert float(segmentation_loss(torch.empty(0), torch.from_numpy(normal))) < wanted


def test_a_cell_is_covered_by_its_pixels() -> None:
    masks = torch.zeros(1, 8, 12, dtype=torch.bool)
    masks[0, :2, :3] = True
    shares = covered(masks, torch.zeros(1, 2, 3, 5))
    assert shares[0].tolist() == [[6 / 16, 0, 0], [0, 0, 0]]


def test_the_channel_weighs_what_the_others_do() -> None:
    torch.manual_seed(0)
    head, patches = SegmentationHead(6, 4).eval(), 3 * torch.randn(40, 3, 3, 6)
    head.level(patches)
    channels = head(patches).detach().flatten(0, 2)
    assert torch.equal(channels[:, :6], patches.flatten(0, 2))
    assert float(channels[:, 6].std()) == pytest.approx(float(channels[:, :6].std(0).mean()), rel=1e-4)


def test_the_recipe_trains_and_its_bundle_scores_verifies_refits_and_compiles(tmp_path: Path, command) -> None:
    recipe, trust = small(), ["--trust", CHAIN]
    run = train(recipe, tmp_path / "run", trust=[CHAIN])
    assert {"train_loss", "val_loss"} <= set(run.metrics) | {"train_loss"}
    words = ["--detector", "patch_channel", "--out", tmp_path / "b", "--threads", "1", *trust]
    assert command("export", tmp_path / "run" / "best.ckpt", *words).status == 0
    scorer = Scorer.load(tmp_path / "b", threads=1)
    pixels = np.stack([prepare(each.decode(), recipe.data.prepare) for each in run.data.sources("calibration")[:3]])
    with torch.no_grad():
        patches = run.module.eval()(torch.from_numpy(pixels)).numpy()
    assert patches.shape == (3, 28, 28, 15)
    result = scorer.score(pixels, maps=True)
    np.testing.assert_allclose(result.score, result.maps.max((1, 2)))
    cells = patches[..., -1].reshape(3, -1)
    assert (result.score <= cells.max(1) + 1e-4).all()
    assert (result.score >= cells.mean(1)).all()
    assert command("verify", tmp_path / "b").status == 0
    assert command("compile", tmp_path / "b", "--out", tmp_path / "m.onnx").status == 0


def test_what_lies_outside_the_region_of_interest_plays_no_part(tmp_path: Path) -> None:
    region = np.zeros((56, 56), bool)
    region[:, :28] = True
    Image.fromarray(region).save(tmp_path / "region.png")
    recipe = small(f"--data.mask={tmp_path / 'region.png'}", "--data.limit=30")
    module = LitSegmenter(**recipe.model.init_args, image_size=(56, 56), views=2)
    data = ImageData(recipe.data)
    module._trainer = SimpleNamespace(datamodule=data)
    module.setup("fit")
    images = torch.from_numpy(load(data.sources("train")[:8], data.prepare))
    changed, masks = module._with_defects(images, torch.Generator().manual_seed(0))
    assert torch.equal(changed[:, :, 28:], images[:, :, 28:])
    assert masks[:, :, :28].any()
    assert not masks[:, :, 28:].any()
    shares = module._shares(torch.zeros_like(masks), module._patches(images))
    assert (shares[:, :, :14] == 0).all()
    assert shares[:, :, 14:].isnan().all()
    module.on_fit_start()
    assert len(module._normal) == len(data.sources("train")) * 28 * 14
    assert 0 < len(module._defective) < 2 * len(module._normal)


def test_what_it_cannot_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wanted hidden, views and defects >= 1"):
        LitSegmenter(hidden=0)
    recipe = small()
    module = LitSegmenter(**recipe.model.init_args, image_size=(56, 56))
    module._trainer = SimpleNamespace(datamodule=None)
    with pytest.raises(ConfigError, match="pass it as datamodule"):
        module.on_fit_start()
    with pytest.raises(ConfigError, match="LitSegmenter gives patches, and detector knn reads features"):
        fit(override(recipe, ["--detector={kind: knn}"]), tmp_path / "b", trust=[CHAIN])
