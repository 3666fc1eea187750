"""`lit-od benchmark`: a row a recipe and category, taken up where it is done, and bad categories told apart."""

import csv
import json
import shutil

import pytest

from tests.support import categories
from tests.support.graphs import graph_of

RECIPE = """\
name: {name}
seed: 0
data:
  train: "."
  prepare: {{size: [28, 28], mode: grey}}
  split: {{validation: 0.0, calibration: 0.3}}
backbone: {backbone}
detector: {detector}
calibration: {{rule: percentile, q: 90}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two categories, one of them deeper."""
    folder = tmp_path_factory.mktemp("data")
    categories.mvtec(folder / "nut", defects=3)
    categories.mvtec(folder / "more" / "bolt", seed=1, defects=3)
    return folder


@pytest.fixture(scope="module")
def recipes(small_graph, tmp_path_factory):
    """One recipe with maps, and one without."""
    folder = tmp_path_factory.mktemp("recipes")
    graphs = {"grey": (graph_of(["errors"], (28, 28, 1)), "{kind: reconstruction}")}
    graphs["near"] = (small_graph, "{kind: knn, k: 1}")
    for name, (graph, detector) in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph)
        text = RECIPE.format(name=name, backbone=folder / f"{name}.onnx", detector=detector)
        (folder / f"{name}.yaml").write_text(text)
    return [folder / "grey.yaml", folder / "near.yaml"]


def test_every_recipe_on_every_category(command, root, recipes, tmp_path):
    out = tmp_path / "out"
    done = command("benchmark", root, "--recipe", *recipes, "--out", out, "--threads", "1")
    assert done.status == 0
    rows = json.loads((out / "benchmark.json").read_text())["rows"]
    assert [(row["recipe"], row["category"]) for row in rows] == [
        (recipe, category) for recipe in ("grey", "near") for category in ("more/bolt", "nut")
    ]
    for row in rows:
        assert (row["layout"], row["train"], row["good"], row["defective"]) == (
            "MVTec AD",
            24,
            5,
            6,
        )
        metrics = json.loads((out / row["recipe"] / row["category"] / "metrics.json").read_text())["defects"][
            "together"
        ]
        expected = metrics["image"] | (metrics["pixels"] or {"figures": {}})["figures"]
        assert {name: values[0] for name, values in row["figures"].items()} == {
            name: each["value"] for name, each in expected.items()
        }
        assert ("aupro_0.3" in row["figures"]) == (row["recipe"] == "grey")
    table = (out / "benchmark.md").read_text()
    assert table in done.out
    lines = table.splitlines()
    heads = (
        "category | recipe | train | test | AUROC | AUPR | F1-max | pixel AUROC | AUPRO 0.3 | AUPRO 0.05 | fit s | MB"
    )
    assert lines[0] == f"| {heads} |"
    assert len(lines) == 8
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| mean of 2"] * 2
    mean = sum(row["figures"]["auroc"][0] for row in rows[:2]) / 2
    assert lines[-2].split(" | ")[4] == f"{100 * mean:.2f}"
    with (out / "benchmark.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [float(cell["auroc_low"]) for cell in cells] == [row["figures"]["auroc"][1] for row in rows]
    assert [cell["aupro_0.3"] == "" for cell in cells] == [False, False, True, True]


def test_what_is_done_is_taken_up(command, root, recipes, tmp_path):
    out, data = tmp_path / "out", shutil.copytree(root, tmp_path / "data")
    words = ["benchmark", data, "--recipe", recipes[1], "--out", out, "--threads", "1"]
    first = command(*words)
    assert "taken up" not in first.out
    table = (out / "benchmark.md").read_text()
    again = command(*words)
    assert again.out.count("taken up") == 2
    assert (out / "benchmark.md").read_text() == table
    (data / "nut" / "test" / "hole" / "000.png").unlink()
    changed = command(*words)
    assert [line for line in changed.out.splitlines() if "taken up" in line] == [
        line for line in again.out.splitlines() if line.startswith("near on more/bolt")
    ]
    assert command(*words, "--detector.k=2").out.count("taken up") == 0
    (out / "near" / "nut" / "row.json").write_text("{")
    assert command(*words, "--detector.k=2").out.count("taken up") == 1


def test_a_category_that_cannot_be_evaluated_is_a_row_with_its_cause(command, root, recipes, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    (data / "nut" / "ground_truth" / "hole" / "000_mask.png").unlink()
    for kind in categories.KINDS:
        shutil.rmtree(data / "more" / "bolt" / "test" / kind)
    done = command("benchmark", data, "--recipe", recipes[0], "--out", tmp_path / "out")
    assert done.status == 1
    assert "grey on more/bolt: " in done.out
    assert "holds no defective test image" in done.out
    assert "test/hole/000.png has no mask in" in done.out
    assert [row["error"] != "" for row in json.loads((tmp_path / "out" / "benchmark.json").read_text())["rows"]] == [
        True,
        True,
    ]


def test_one_category_without_a_folder_of_results(command, root, recipes):
    done = command("benchmark", root / "nut", "--recipe", recipes[1])
    assert (done.status, done.out.count("| nut |")) == (0, 1)
    assert "mean of" not in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{root}"], "--recipe names what is compared"),
        (["{root}/none", "--recipe", "folder"], "/none is not a folder"),
        (["{root}/nut/test", "--recipe", "folder"], "holds no folder in the layout of MVTec AD (train/good, test)"),
        (
            ["{root}", "--recipe", "folder", "folder"],
            "recipes need different names, that are names of folders, got folder",
        ),
        (["{root}", "--recipe", "folder", "--data.root", "x"], "--data.root is each category's own here: leave it out"),
        (["{root}", "--recipe", "nonsense"], "no recipe 'nonsense'"),
    ],
)
def test_what_makes_no_table_is_refused(command, root, words, message):
    done = command("benchmark", *(word.format(root=root) for word in words))
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
