"""Bundles over patches of torch modules: frozen, classifiers and twin networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lit_od import Bundle, Scorer
from lit_od.errors import ConfigError
from lit_od.images.preparation import prepare
from lit_od.recipes.load import override, read
from lit_od.training import ImageData, LitAutoencoder, LitClassifier, export_bundle, fit
from tests.support.small_training import demo
from tests.support.twins import tree

TINY = "tests.support.transformers:TinyDino"
PATCHES = "tests.support.patch_detectors:PatchDeviation"


def test_a_classifier_gives_patches(tmp_path: Path):
    recipe = demo("--export.patches.layers=[convolutions.0, convolutions.2]", f"--detector={{kind: '{PATCHES}'}}")
    torch.manual_seed(0)
    module, data = LitClassifier(classes=8), ImageData(recipe.data, seed=recipe.seed)
    bundle = export_bundle(module, data, recipe, tmp_path / "b", trust=[PATCHES], threads=1)
    assert bundle.manifest.model.output_shape == [None, 28, 28, 160]
    assert bundle.manifest.provenance.metrics["export_parity"] < 1e-4
    images = np.stack([prepare(each.decode(), recipe.data.prepare) for each in data.sources("calibration")[:2]])
    first = module.eval().network.body.convolutions[0]
    with torch.no_grad():
        maps = first(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    wanted = torch.nn.functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1).numpy()
    got = Scorer.load(tmp_path / "b", trust=[PATCHES]).backbone(images)
    np.testing.assert_allclose(got[..., :32], wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_checkpoint_of_twin_networks_gives_patches(tmp_path: Path, command):
    file, chain = tmp_path / "twins.yaml", "tests.support.twins:Chain"
    file.write_text(yaml.safe_dump(tree(cache_trunk=False)))
    trusted = ["--trust", chain, "--trust", PATCHES]
    assert command("train", file, "--out", tmp_path / "run", "--trust", chain).status == 0
    words = ["--detector", PATCHES, "--out", tmp_path / "b", "--threads", "1", *trusted]
    layers = ["--export.patches.layers=[norm, blocks.0]", "--export.patches.grid=[7, 14]"]
    status, _, err = command("export", tmp_path / "run" / "best.ckpt", *words, *layers)
    assert status == 0, err
    bundle = Bundle.read(tmp_path / "b", trust=[PATCHES])
    assert bundle.manifest.model.output_shape == [None, 7, 14, 14]
    assert bundle.manifest.provenance.recipe["export"]["patches"]["layers"] == ["norm", "blocks.0"]
    status, _, err = command("export", tmp_path / "run" / "best.ckpt", *words)
    assert (status, "LitDOC gives features, and detector" in err) == (2, True)
    status, _, err = command("export", tmp_path / "run" / "best.ckpt", *words, "--export.patches.layers=[block]")
    assert (status, "no layer 'block': did you mean one of blocks" in err) == (2, True)


def test_the_recipe_over_dinov2_with_a_small_transformer_of_its_kind(tmp_path: Path):
    words = ["--data.root=lit_od:assets", "--data.train=digits.npz:train_images", "--data.limit=40"]
    words += ["--data.prepare.size=[42, 56]", f"--detector={{kind: '{PATCHES}'}}"]
    words += ["--model.init_args.pretrained=false", f"--model.init_args.network={TINY}"]
    recipe = read("defects-dinov2", words)
    bundle = fit(recipe, tmp_path / "b", trust=[PATCHES, TINY], threads=1)
    assert bundle.manifest.model.output_shape == [None, 3, 4, 32]
    for word, message in (
        ("--detector={kind: knn}", "FrozenBackbone gives patches, and detector knn reads features"),
        ("--model.init_args.output=features", "FrozenBackbone gives features, and detector .* reads patches"),
        ("--export.patches.layers=[norm]", r"export\.patches is for trained modules: give FrozenBackbone"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(override(recipe, [word]), tmp_path / "c", trust=[PATCHES, TINY], threads=1)


def test_errors_give_no_patches(tmp_path: Path):
    recipe = demo("--export.patches.layers=[encoder]", f"--detector={{kind: '{PATCHES}'}}")
    module = LitAutoencoder(architecture="conv", channels=1)
    with pytest.raises(ConfigError, match=r"export\.patches goes with modules of features, LitAutoencoder gives err"):
        export_bundle(module, ImageData(recipe.data, seed=0), recipe, tmp_path / "b", trust=[PATCHES])
