"""Recipes over an ONNX file, and the backbone that ships: images to bundle without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lit_od import Bundle, Scorer
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file, shipped_backbones
from lit_od.cli import main
from lit_od.deploy.one_file import compile_bundle
from lit_od.errors import BackboneError, ConfigError, DataError
from lit_od.fitting.from_recipe import fit_onnx
from lit_od.formats.onnx_file import read_graph
from lit_od.images.augment import Augment
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray, SetOpener, Source
from lit_od.recipes import onnx_images
from lit_od.recipes.load import from_tree, override, portable_tree, read
from lit_od.recipes.onnx_images import NAMED_SETS
from lit_od.recipes.schema import DataConfig, Recipe, Split
from tests.support.graphs import float_graph
from tests.support.images import ASSETS

SHIPPED = "lit_od:tf_efficientnet_lite0"


def config(train: str = "digits.npz:train_images", **changed: object) -> DataConfig:
    options = {"root": "lit_od:assets", "split": Split(calibration=0.2), **changed}
    return DataConfig(train=train, prepare=Preparation(size=(28, 28), mode="grey"), **options)


def divided(data: DataConfig, *, seed: int, sets: SetOpener | None = None) -> tuple[list[Source], list[Source]]:
    return onnx_images.divided(onnx_images.inliers_to_fit(data, seed=seed, sets=sets), data, seed=seed)


@pytest.fixture
def small_recipe(small_graph: bytes, tmp_path: Path) -> Recipe:
    (tmp_path / "net.onnx").write_bytes(small_graph)
    return Recipe(name="small", data=config(limit=60), backbone=str(tmp_path / "net.onnx"))


# Division


def test_all_that_does_not_calibrate_fits_and_the_seed_decides():
    names = [[source.name for source in part] for part in divided(config(), seed=3)]
    assert [len(part) for part in names] == [3200, 800]
    assert not set(names[0]) & set(names[1])
    again = divided(config(), seed=3)
    other = divided(config(), seed=4)
    assert [[source.name for source in part] for part in again] == names
    assert [source.name for source in other[1]] != names[1]


def test_classes_and_a_limit():
    fit, calibration = divided(config(outlier_classes=["8"], classes=["7", "8", "9"], limit=100), seed=0)
    assert {source.label for source in [*fit, *calibration]} == {"7", "9"}
    assert [len(fit), len(calibration)] == [80, 20]
    rows = [int(source.name.partition("#")[2]) for source in fit]
    assert rows == sorted(rows)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"split": Split(test=0.1)}, ConfigError, r"data\.split\.test goes with a `model`.*data\.test"),
        ({"split": Split(calibration=0.0)}, ConfigError, r"calibration share must lie in \(0, 1\)"),
        ({"limit": 0}, ConfigError, r"data\.limit must be at least 1, got 0"),
        ({"limit": 2}, DataError, r"wanted at least 3 normal images.*or give calibration\.method cross"),
        ({"classes": ["x"]}, DataError, "no image of class 'x'"),
        ({"outlier_classes": ["x"]}, DataError, "no image of class 'x'"),
        ({"classes": ["1"], "outlier_classes": ["1"]}, DataError, "leaves no inlier"),
        ({"train": ".", "root": None}, ConfigError, r"which folder of images\? Give --data\.root FOLDER"),
        ({"train": "mnist:train:0"}, ConfigError, r"mnist:train:0: torchvision's sets are read only for a recipe with"),
    ],
)
def test_images_that_cannot_serve_are_refused(changed: dict[str, object], error: type[Exception], message: str):
    with pytest.raises(error, match=message) as caught:
        divided(config(**changed), seed=0)
    assert "\n" not in str(caught.value)


def test_sets_are_opened_where_the_caller_can_and_folders_may_bear_their_names(tmp_path: Path, digit_files: Path):
    from lit_od.training.data.torchvision_sets import SETS

    assert sorted(SETS) == list(NAMED_SETS)
    rows: list[Source] = [ImageArray(np.zeros((28, 28), np.uint8), f"row {row}") for row in range(5)]
    fit, _ = divided(config("mnist:train"), seed=0, sets=lambda path: rows if path == "mnist:train" else None)
    assert {source.name for source in fit} < {source.name for source in rows}
    (tmp_path / "mnist").symlink_to(digit_files)
    assert len(divided(config("mnist", root=str(tmp_path)), seed=0)[0]) == 32


# An ONNX file of the user's own


def test_an_onnx_file_of_the_users_own(small_recipe: Recipe, tmp_path: Path):
    bundle = fit_onnx(override(small_recipe, ["--calibration.method=split"]), tmp_path / "bundle", threads=1)
    assert (bundle.manifest.detector.images, bundle.calibration.scores.size) == (48, 12)
    assert bundle.calibration.folds is None
    assert bundle.manifest.model.opset == 20
    tree = bundle.manifest.provenance.recipe
    assert tree is not None
    assert tree["backbone"] == "net.onnx"
    assert main(["verify", str(tmp_path / "bundle")]) == 0


def test_few_images_are_cross_fitted_unless_the_recipe_says_otherwise(small_recipe: Recipe, tmp_path: Path):
    """A rule's own method goes with any rule; of mean_std, which asks for no rate, some images are held out."""
    found = {}
    for words in ([], ["--calibration.rule=mean_std"], ["--calibration.rule=mean_std", "--calibration.method=cross"]):
        bundle = fit_onnx(override(small_recipe, words), tmp_path / "bundle", threads=1)
        found[" ".join(words)] = bundle.manifest.calibration.folds, bundle.manifest.detector.images
    assert [*found.values()] == [(60, 60), (msgspec.UNSET, 48), (60, 60)]
    crossed = override(small_recipe, ["--calibration.method=cross"])
    assert override(crossed, ["--calibration.rule=mean_std"]).calibration == {"rule": "mean_std", "method": "cross"}


def test_views_fit_as_the_recipe_says(small_recipe: Recipe, tmp_path: Path):
    words = ["--data.augment.turns=true", "--data.augment.brightness=[0.9, 1.1]", "--data.augment.views=3"]
    bundle = fit_onnx(override(small_recipe, words), tmp_path / "bundle", threads=1)
    augment = bundle.manifest.detector.augment
    assert augment == Augment(turns=True, brightness=(0.9, 1.1), views=3)
    assert bundle.manifest.detector.images == bundle.calibration.scores.size == 60
    assert main(["verify", str(tmp_path / "bundle")]) == 0


def test_how_many_processes_fit_leaves_no_trace(small_recipe: Recipe, tmp_path: Path):
    bundle = fit_onnx(override(small_recipe, ["--trainer.devices=2"]), tmp_path / "bundle", threads=1)
    assert bundle.manifest.provenance.recipe["trainer"] == {}  # type: ignore[index]  # it has one


def test_max_f1_takes_the_recipes_outliers(small_recipe: Recipe, tmp_path: Path):
    words = ["--calibration.rule=max_f1", "--calibration.outliers=garments.npz:images"]
    bundle = fit_onnx(override(small_recipe, words), tmp_path / "bundle", threads=1)
    assert bundle.calibration.rule == {"rule": "max_f1", "outliers": 1000}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.max_epochs=1"], "trainer goes with training, and over an ONNX backbone nothing is trained"),
        (["--data.augment.flip=false"], r"data\.augment changes nothing: give flip, turns"),
        (
            ["--data.augment.flip=true", "--data.augment.views=3"],
            r"data\.augment has 2 poses, got views 3, which would",
        ),
        (["--backbone=gone.onnx"], r"backbone gone\.onnx is no file: wanted an ONNX file, or one of lit_od:tf_effi"),
        (["--backbone=lit_od:lite0"], r"no backbone 'lit_od:lite0'; .*lit_od:tf_efficientnet_lite0"),
        (["--detector.kind=kn"], "unknown detector 'kn'"),
        (["--calibration.rule=fp"], "unknown threshold rule 'fp'"),
        (["--calibration.method=loo"], r"calibration\.method must be one of split, cross, got 'loo'"),
        (
            ["--export.precision=int8", "--calibration.method=cross"],
            r"calibration\.method cross: an int8 graph is chosen and judged by images that are held out\. Leave cal",
        ),
    ],
)
def test_recipes_that_cannot_be_carried_out_are_refused(
    small_recipe: Recipe, words: list[str], message: str, tmp_path: Path
):
    with pytest.raises(ConfigError, match=message) as caught:
        fit_onnx(override(small_recipe, words), tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_recipe_with_a_model_and_a_file_that_is_no_graph_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="the recipe has a `model`, not an ONNX backbone"):
        fit_onnx(read("demo"), tmp_path / "bundle")
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(BackboneError, match=r"backbone .*no\.onnx: .*Give an ONNX file that takes uint8"):
        fit_onnx(read("folder", [f"--backbone={tmp_path}/no.onnx", "--data.root=lit_od:assets"]), tmp_path / "bundle")


def test_a_portable_recipe_names_no_folder_of_this_machine():
    recipe = read("demo", ["--data.root=/data", "--model.init_args.checkpoint_path=/weights/net.pt"])
    tree = portable_tree(recipe)
    assert tree["data"]["root"] is None
    assert tree["model"]["init_args"]["checkpoint_path"] == "net.pt"
    assert portable_tree(read("demo"))["data"]["root"] == "lit_od:assets"
    assert portable_tree(read("folder"))["backbone"] == SHIPPED


# A float graph of another's


def test_a_float_graph_is_wrapped_as_the_recipe_says(tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(float_graph(outputs={"logits": 2, "maps": 4}))
    backbone = {
        "file": str(tmp_path / "net.onnx"), "layout": "nchw", "mean": "imagenet", "std": [0.2, 0.3, 0.4], "scale": 255,
        "channels": "bgr", "output": "pooled",
    }  # fmt: skip
    data = {"train": "digits.npz:train_images", "root": "lit_od:assets", "limit": 60, "prepare": {"size": [28, 28]}}
    recipe = from_tree({"name": "wrapped", "data": data, "backbone": backbone}, "wrapped")
    bundle = fit_onnx(recipe, tmp_path / "bundle", threads=1)
    assert bundle.manifest.model.output_shape == [None, 4]
    assert bundle.manifest.provenance.recipe["backbone"] == {  # type: ignore[index]  # it has one
        **backbone, "file": "net.onnx", "layers": [], "grid": None, "neighbourhood": 3
    }  # fmt: skip
    assert main(["verify", str(tmp_path / "bundle")]) == 0
    compile_bundle(bundle, tmp_path / "model.onnx")  # a network whose own input is named as that of a model file
    scores = Scorer.load(tmp_path / "model.onnx", threads=1).score([np.zeros((28, 28, 3), np.uint8)]).score
    np.testing.assert_allclose(scores, Scorer.of(bundle, threads=1).score([np.zeros((28, 28, 3), np.uint8)]).score)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"net\.onnx takes float32 \(any, 3, any, any\), .*\{file: .*net\.onnx, layout: nchw, mean: imagenet"),
        (["--backbone.output=logits"], "takes float32 .* layout: nchw"),
        (["--backbone.mean=0.5"], r"backbone\.mean, std, .* are for a float graph: say backbone\.layout, nchw or"),
        (["--backbone.layout=hwc"], r"Invalid enum value 'hwc' - at `backbone\.layout`"),
        (["--backbone.layout=nchw", "--backbone.std=0"], "std must be finite and above 0, got 0.0 - at `backbone`"),
        (["--backbone.layout=nchw", "--backbone.mean=imagnet"], r"Invalid enum value 'imagnet' - at `backbone\.mean`"),
        (["--backbone.layout=nchw", "--data.prepare.mode=grey"], r"prepared to \(28, 28, 1\) .* or backbone\.layout"),
    ],
)  # fmt: skip
def test_a_float_graph_needs_what_it_was_trained_on(words: list[str], message: str, tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(float_graph())
    data = ["--data.root=lit_od:assets", "--data.train=digits.npz:train_images", "--data.prepare.size=[28, 28]"]
    with pytest.raises((BackboneError, ConfigError), match=message) as caught:
        fit_onnx(read("folder", [*data, f"--backbone={tmp_path}/net.onnx", *words]), tmp_path / "bundle", threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["--backbone", "--backbone.file"])
def test_a_float_graph_from_the_command_line(
    option: str, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "net.onnx").write_bytes(float_graph())
    words = ["fit", "folder", "--data.root", str(digit_files), "--data.prepare.size", "[28, 28]", "--threads", "1"]
    words += [option, str(tmp_path / "net.onnx"), "--out", str(tmp_path / "b")]
    assert main(words) == 2
    assert "layout: nchw, mean: imagenet, std: imagenet" in capsys.readouterr().err
    assert main([*words, "--backbone.layout", "nchw", "--backbone.mean", "imagenet", "--backbone.std", "imagenet"]) == 0
    assert Bundle.read(tmp_path / "b").manifest.model.output_shape == [None, 5]


# The backbone that ships


def test_the_shipped_backbone_is_small_and_takes_any_size():
    file = backbone_file(SHIPPED)
    assert shipped_backbones() == {SHIPPED: file}
    assert file.stat().st_size <= 8_000_000
    graph = read_graph(file.read_bytes())
    assert graph.inputs[0].shape == (None, None, None, 3)
    backbone = Backbone.load(file, threads=1)
    widths = set()
    for size in ((32, 32), (61, 97), (128, 128)):
        pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
        features = backbone(pixels)
        np.testing.assert_allclose(backbone(pixels[1:2])[0], features[1], atol=1e-4 * np.abs(features).max())
        widths.add(features.shape[1])
    assert len(widths) == 1


PROBE = """
import sys
from lit_od.cli import main
from lit_od.deploy.one_file import compile_bundle
status = main(sys.argv[1:])
loaded = {"torch", "lightning", "timm", "onnx", "sklearn", "scipy"} & sys.modules.keys()
sys.exit(f"loaded {loaded}" if loaded else status)
"""


def test_a_folder_of_images_and_nothing_else(digit_files: Path, tmp_path: Path):
    words = ["fit", "folder", "--data.root", str(digit_files), "--out", str(tmp_path / "bundle"), "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    first, second = done.stderr.splitlines(keepends=True)
    assert first.startswith(f"lit-od: {digit_files}: read 40 images (40 .png) of 8 folders: ")
    assert second == (
        "lit-od: percentile 99 asks for a false-positive rate of 1 %, which takes 99 calibration inliers: 40 support "
        "2.44 % at the least\n"
    )
    assert (
        "calibration: cross, each left out; 40 calibration inliers support 2.44% at the least; promised" in done.stdout
    )
    bundle = Bundle.read(tmp_path / "bundle")
    assert (bundle.manifest.detector.images, bundle.calibration.scores.size) == (40, 40)
    assert bundle.manifest.calibration.folds == 40
    assert (
        json.loads((tmp_path / "bundle" / "manifest.json").read_text())["provenance"]["recipe"]["data"]["root"] is None
    )
    scorer = Scorer.load(tmp_path / "bundle", threads=1)
    digits = scorer.score(sorted(digit_files.rglob("*.png"))).score
    with np.load(ASSETS / "garments.npz") as garments:
        others = scorer.score([*garments["images"][::100]]).score
    assert np.median(others) > np.quantile(digits, 0.9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which folder of images?"),
        (["--data.root", "EMPTY"], "no image found in"),
        (["--data.root", "gone"], "data.root gone is not a folder"),
        (["--data.root", "EMPTY", "--run", "runs"], "leave out --run"),
        (["--data.root", "EMPTY", "--backbone", "gone.onnx"], "backbone gone.onnx is no file"),
        (["--data.root", "EMPTY", "--seed", "99999999999999999999"], "seed must be below 2**64"),
        (["--export.opset", "17"], "--export.opset has no effect over an ONNX backbone, which is used as it is"),
        (
            ["--data.batch_size=4"],
            "--data.batch_size has no effect over an ONNX backbone, over which nothing is trained",
        ),
        (["--data.memory=4"], "--data.memory has no effect over an ONNX backbone"),
        (["--data.split.validation", "0.1"], "over which nothing is validated (data.split.calibration is what"),
    ],
)
def test_fit_folder_refuses_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    assert main(["fit", "folder", "--out", str(tmp_path / "bundle"), *given]) == 2
    refusal = capsys.readouterr().err
    assert message in refusal
    assert refusal.count("\n") == 1


@pytest.mark.parametrize("name", ["good #2", "2024", "no", "1e3", "null", "a: b", "@x", "&a"])
def test_the_root_is_the_folder_of_that_very_name(
    small_graph: bytes, name: str, digit_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "net.onnx").write_bytes(small_graph)
    shutil.copytree(digit_files / "0", tmp_path / name)
    shutil.copytree(digit_files / "1", tmp_path / "good")
    monkeypatch.chdir(tmp_path)
    words = ["--out", "b", "--backbone", "net.onnx", "--data.prepare", "{size: [28, 28], mode: grey}"]
    assert main(["fit", "folder", "--data.root", name, *words]) == 0
    count = len(list((tmp_path / name).iterdir()))
    bundle = Bundle.read("b")
    assert bundle.manifest.detector.images == bundle.calibration.scores.size == count


def test_the_variable_names_the_folder_too(
    small_graph: bytes, digit_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "net.onnx").write_bytes(small_graph)
    monkeypatch.setenv("LIT_OD_DATA", str(digit_files))
    words = ["--backbone", str(tmp_path / "net.onnx"), "--data.prepare", "{size: [28, 28], mode: grey}"]
    assert main(["fit", "folder", *words, "--out", str(tmp_path / "b")]) == 0
    assert Bundle.read(tmp_path / "b").manifest.detector.images == 40


@pytest.mark.matplotlib
def test_a_bundle_of_class_folders_is_evaluated_by_its_own_recipe(
    small_graph: bytes, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Classes of few images, and test images of no class, which a training could not divide."""
    (tmp_path / "net.onnx").write_bytes(small_graph)
    for number in ("3", "5"):
        (tmp_path / "root" / "train" / number).mkdir(parents=True)
        for file in sorted((digit_files / number).iterdir())[:2]:
            shutil.copy(file, tmp_path / "root" / "train" / number)
    shutil.copytree(digit_files / "1", tmp_path / "root" / "test")
    shutil.copytree(digit_files / "0", tmp_path / "root" / "bad")
    words = ["--backbone", str(tmp_path / "net.onnx"), "--data.prepare", "{size: [28, 28], mode: grey}"]
    words += ["--data.root", str(tmp_path / "root"), "--data.train", "train", "--evaluation.outliers.bad.path", "bad"]
    where = ["--data.root", str(tmp_path / "root")]
    assert main(["fit", "folder", *words, "--data.test", "test", "--out", str(tmp_path / "b")]) == 0
    assert main(["evaluate", str(tmp_path / "b"), *where]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inliers"))
    assert int(row.split()[1]) == len(list((digit_files / "1").iterdir()))
    assert main(["fit", "folder", *words, "--out", str(tmp_path / "c")]) == 0
    assert main(["evaluate", str(tmp_path / "c"), *where]) == 2
    assert "names no test images: give --data.test PATH" in capsys.readouterr().err


def test_a_list_with_several_labels_needs_the_inliers_label(
    small_graph: bytes, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "net.onnx").write_bytes(small_graph)
    rows = [f"{file},{file.parent.name}" for number in ("0", "1") for file in sorted((digit_files / number).iterdir())]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    words = ["--backbone", str(tmp_path / "net.onnx"), "--data.prepare", "{size: [28, 28], mode: grey}"]
    words += ["--data.train", str(tmp_path / "list.csv"), "--out", str(tmp_path / "b")]
    assert main(["fit", "folder", *words]) == 2
    assert "list.csv lists images of several labels (0, 1), and all would count" in capsys.readouterr().err
    assert main(["fit", "folder", *words, "--label", "0"]) == 0
    bundle = Bundle.read(tmp_path / "b")
    assert bundle.manifest.detector.images == len(list((digit_files / "0").iterdir()))
    assert main(["fit", "folder", *words, "--data.classes", "[0, 1]"]) == 0


def test_another_onnx_file_in_the_recipes_place(
    small_graph: bytes, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "net.onnx").write_bytes(small_graph)
    words = ["--data.root", str(digit_files), "--out", str(tmp_path / "b"), "--backbone", str(tmp_path / "net.onnx")]
    assert main(["fit", "folder", *words]) == 2
    assert "the graph takes" in capsys.readouterr().err
    assert main(["fit", "folder", *words, "--data.prepare", "{size: [28, 28], mode: grey}"]) == 0
    assert Bundle.read(tmp_path / "b").manifest.model.output_shape == [None, 16]
    assert main(["fit", "demo", *words]) == 2
    assert "needs either `model`" in capsys.readouterr().err
