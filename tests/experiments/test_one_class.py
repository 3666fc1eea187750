"""`lit-od reproduce one-class` and `vgg16-gmm`, from the command line, on the packaged digits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_od.experiments.one_class import table
from lit_od.recipes.load import read
from tests.support.detectors import MEAN_DISTANCE

Command = Callable[..., Any]

DIGITS = [
    "--data.root=lit_od:assets",
    "--data.train=digits.npz:train_images",
    "--data.test=digits.npz:test_images",
    "--threads=1",
    "--quick",
]
RANDOM = ["--model.init_args.network=test_resnet", "--model.init_args.pretrained=false"]


@pytest.fixture
def onnx_recipe(small_graph: bytes, tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(small_graph)
    tree = {
        "name": "small",
        "data": {"train": "digits", "prepare": {"size": [28, 28], "mode": "grey"}},
        "backbone": str(tmp_path / "net.onnx"),
        "detector": {"kind": "knn", "k": 1},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "small.yaml"


def test_patches_are_refused(command: Command, onnx_recipe: Path, tmp_path: Path):
    tree = yaml.safe_load(onnx_recipe.read_text())
    tree["backbone"] = {"file": tree["backbone"], "output": "patches", "layers": ["pooled"]}
    onnx_recipe.write_text(yaml.safe_dump(tree))
    frozen = ["--model.init_args={network: test_resnet, layers: [layer1], output: patches, pretrained: false}"]
    for words in (["one-class", "--recipe", onnx_recipe], ["vgg16-gmm", *frozen]):
        status, _, err = command("reproduce", *words, *DIGITS, "--out", tmp_path / "out")
        assert status == 2
        assert "gives patches, and this protocol takes features: name another recipe" in err


def test_a_frozen_network_with_random_weights_from_end_to_end(command: Command, tmp_path: Path):
    words = [*DIGITS, *RANDOM, "--model.init_args.layers=[layer1]", "--data.prepare.size=[32, 32]"]
    status, out, err = command("reproduce", "vgg16-gmm", *words, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "vgg16-gmm, digits.npz:test_images: AUROC %, all test images"
    assert [line.split()[0] for line in lines[2:5]] == ["seed", "published", "difference"]
    assert "published: fit 117, score 204" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["normal"] for each in report["classes"]] == [str(digit) for digit in range(10)]
    for each, gap, published in zip(
        report["classes"], report["compared"]["gap"], report["compared"]["published"], strict=True
    ):
        assert each["images"] == 40
        assert 0.5 < each["auroc"][0] <= 1
        assert 100 * each["auroc"][0] - published == pytest.approx(gap)
        assert len(each["contaminated_auroc"]) == 2
        assert each["fit_process_seconds"] > 0
    assert report["seeds"] == [0]
    assert report["process_seconds"]["published"] == {"fit": 116.921875, "score": 204.03125}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()}
    assert len(kept) == 4
    assert command("reproduce", "vgg16-gmm", *words, "--out", tmp_path / "out").out.splitlines()[:12] == lines[:12]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()} == kept


def test_an_onnx_file_on_a_folder_of_classes(command: Command, onnx_recipe: Path, digit_files: Path, tmp_path: Path):
    for part in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / part).symlink_to(digit_files)
    words = ["reproduce", "one-class", "--recipe", onnx_recipe, "--data", "set", f"--data.root={tmp_path}"]
    words += ["--threads", "1", "--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    status, out, err = command(*words, "--contamination", "0.5")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "small, set/test: AUROC %, all test images"
    assert "3 seeds, all the same" in out
    assert "Contaminated test sets: AUROC %, 10 draws" in out
    assert not (tmp_path / "out" / "features").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 2  # both parts hold the same images
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["recipe"]["backbone"] == "net.onnx"
    assert report["mean_auroc"] == [pytest.approx(1.0, abs=0.02)] * 3  # a nearest neighbour finds the image itself
    assert "Contaminated" not in command(*words, "--data.limit=2").out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert max(each["images"] for each in report["classes"]) == 2
    assert len(set(report["mean_auroc"])) > 1


def test_a_detector_of_ones_own_is_measured_where_it_is_trusted(
    command: Command, onnx_recipe: Path, digit_files: Path, tmp_path: Path
):
    words = ["reproduce", "one-class", "--recipe", onnx_recipe, f"--data.root={digit_files.parent}", "--threads", 1]
    words += ["--data.test", digit_files.name, "--data.train", digit_files.name, "--out", tmp_path / "out", "--quick"]
    words += [f"--detector.kind={MEAN_DISTANCE}"]
    assert command(*words).err.endswith(f"add --trust {MEAN_DISTANCE}\n")
    status, out, err = command(*words, "--trust", MEAN_DISTANCE)
    assert status == 0, err
    assert err == f"lit-od: {MEAN_DISTANCE} is imported, which --trust allows\n"
    assert out.startswith("small, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one-class"], "one-class needs a recipe: give --recipe NAME"),
        (["one-class", "--recipe", "mnist-digits"], "lit_od.training.LitClassifier is trained, and this protocol"),
        (["one-class", "--recipe", "folder"], "recipe folder names no data.test: give --data SET"),
        (["one-class", "--recipe", "one-class-mnist", "--contamination", "2"], "contamination rate must be a number"),
        (["one-class", "--recipe", "one-class-mnist", "--detector.k=1"], "k must be an integer of at least 2"),
        (["one-class", "--recipe", "one-class-mnist", "--data.test=garments.npz:images:9x"], "no image of class '9x'"),
        (["vgg16-gmm", "--recipe", "folder"], "vgg16-gmm takes no --recipe: leave it out"),
        (["mnist-digits", "--cache", "x"], "mnist-digits takes no --cache: leave it out"),
        (["mnist-digits", "--trust", "a:B"], "mnist-digits takes no --trust: leave it out"),
        (["mnist-digits", "--detector.k=1"], "unknown option --detector.k"),
    ],
)
def test_what_cannot_be_is_refused(command: Command, tmp_path: Path, words: list[str], message: str):
    images = [] if words[-1] == "folder" else DIGITS[1:3]
    images = [] if words[0] == "mnist-digits" else [DIGITS[0], *images]
    chosen = [word for word in images if word.partition("=")[0] not in " ".join(words)]
    status, out, err = command("reproduce", *words, *chosen, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_images_without_a_class_are_refused(command: Command, onnx_recipe: Path, digit_files: Path, tmp_path: Path):
    (tmp_path / "set").mkdir()
    for part in ("train", "test"):
        (tmp_path / "set" / part).symlink_to(next(digit_files.iterdir()))
    words = ["--data", "set", f"--data.root={tmp_path}", "--out", tmp_path / "out"]
    status, _, err = command("reproduce", "one-class", "--recipe", onnx_recipe, *words)
    assert status == 2
    assert "has no class: wanted class folders" in err


def test_a_table_of_many_classes_is_broken_into_lines():
    text = table("Title", [str(number) for number in range(12)], {"row": [0.5] * 12})
    assert [line.split() for line in text.splitlines()] == [
        ["Title"],
        [str(number) for number in range(11)],
        ["row", *["50.00"] * 11],
        ["11", "mean"],
        ["row", *["50.00"] * 2],
    ]


def test_the_shipped_recipes_differ_in_what_was_chosen_for_them():
    one, other = read("one-class-mnist"), read("one-class-fashion-mnist")
    assert one.detector == other.detector == {"kind": "local_residual", "k": 30, "ridge": 0.05}
    assert read("one-class-mnist", ["--data.classes", '["3"]']).data.classes == ["3"]
    assert read("cats-dogs").data.classes == ["cats"]
