"""Recipes: the shipped ones, overrides of a command line, and each refusal with the path of its key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_od.calibration.rules import check_rule
from lit_od.detectors.registry import accumulator
from lit_od.errors import ConfigError
from lit_od.images.preparation import Preparation
from lit_od.recipes.load import from_tree, override, read, read_tree, shipped, to_tree
from lit_od.recipes.named_code import code_of_training
from lit_od.recipes.schema import Recipe

SMALL = """
name: mine
data:
  train: images
  prepare: {size: [28, 30], mode: grey}
backbone: net.onnx
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(SMALL)
    return file


def test_a_recipe_and_its_defaults(small: Path) -> None:
    recipe = read(small)
    assert recipe.name == "mine"
    assert recipe.data.prepare == Preparation(size=(28, 30), mode="grey")
    assert recipe.backbone == "net.onnx"
    assert recipe.model is None
    assert recipe.detector == {"kind": "mahalanobis"}
    assert recipe.calibration == {"rule": "percentile", "q": 99}
    assert (recipe.data.split.validation, recipe.data.split.calibration, recipe.data.split.test) == (0.1, 0.1, 0.0)
    assert from_tree(to_tree(recipe), "again") == recipe


def test_defaults_are_not_shared(small: Path) -> None:
    one = read(small)
    one.detector["kind"] = "other"
    one.trainer["x"] = 1
    assert read(small).detector == {"kind": "mahalanobis"}
    assert read(small).trainer == {}


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = read(name)
    assert recipe.name == name
    assert recipe.description
    assert "\n" not in recipe.description
    check_rule(recipe.calibration)
    options = dict(recipe.detector)
    kind = options.pop("kind")
    accumulator(kind, options)
    for each in recipe.evaluation.outliers.values():
        Preparation(**{**to_tree(recipe)["data"]["prepare"], **each.prepare})
    assert from_tree(yaml.safe_load(yaml.safe_dump(to_tree(recipe))), name) == recipe


# Overrides


def test_overrides_in_both_forms(small: Path) -> None:
    words = [
        "--trainer.max_epochs",
        "3",
        "--data.root=/some where",
        "--detector.kind=knn",
        "--detector.k",
        "7",
        "--seed=4",
    ]
    recipe = read(small, words)
    assert recipe.trainer == {"max_epochs": 3}
    assert recipe.data.root == "/some where"
    assert recipe.detector == {"kind": "knn", "k": 7}
    assert recipe.seed == 4
    assert override(read(small), words) == recipe
    assert override(recipe, ["--detector.components", "2"], detector="gmm").detector == {"kind": "gmm", "components": 2}


def test_numbers_in_files_may_have_an_exponent_alone(small: Path) -> None:
    small.write_text(SMALL + "trainer: {gradient_clip_val: 1e-3, name: v1e3}\n")
    assert read(small).trainer == {"gradient_clip_val": 0.001, "name": "v1e3"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stray"], r"expected an override such as --trainer\.max_epochs 3, got 'stray'"),
        (["--"], "expected an override"),
        (["--data.root"], r"--data\.root needs a value, as in --data\.root VALUE"),
        (["--data.root", "--seed=1"], r"--data\.root needs a value"),
        (["--data.limit=[1"], r"--data\.limit: '\[1' is not a YAML value"),
        (["--data.rot=x"], r"recipe .*mine\.yaml: unknown key `rot` - at `data`"),
        (["--name.x=1"], r"--name\.x: 'name' holds a value, not further keys"),
        (["--data.batch_size=many"], r"Expected `int`, got `str` - at `data\.batch_size`"),
        (["--data.split.test=x"], r"Expected `float`, got `str` - at `data\.split\.test`"),
    ],
)
def test_overrides_that_cannot_be_are_refused(small: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(small, words)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "recipe here: unknown key `extra`"),
        ({"data": {"train": "x", "prepare": {"size": [8, 8]}, "extra": 1}}, "unknown key `extra` - at `data`"),
        ({"data": {"train": "x"}}, "missing required field `prepare` - at `data`"),
        ({"data": {"train": "x", "prepare": {"size": [0, 8]}}}, r"size must be height and width in 1\.\.16384"),
        ({"data": {"train": "x", "prepare": {"size": 8}}}, r"Expected `array`, got `int` - at `data\.prepare\.size`"),
        ({"seed": "0"}, "Expected `int`, got `str` - at `seed`"),
        ({"seed": True}, "Expected `int`, got `bool` - at `seed`"),
        ({"model": {"class_path": "a.B"}}, "needs either `model`"),
        ({"backbone": None}, "needs either `model`"),
        ({"detector": {}}, "a recipe's `detector` needs `kind`"),
        ({"calibration": {"q": 3}}, "a recipe's `calibration` needs `rule`"),
        ({1: 2}, "recipe here: "),
    ],
)
def test_recipes_that_cannot_be_are_refused(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_tree({**yaml.safe_load(SMALL), **change}, "here")


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    for text, message in (
        ("a: [1", r"x\.yaml is not YAML: .*"),
        ("- 1\n- 2\n", r"x\.yaml must hold a mapping of keys, got list"),
        ("", r"x\.yaml must hold a mapping of keys, got NoneType"),
        ("!!python/object/apply:os.system [id]", r"is not YAML: could not determine a constructor"),
    ):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            read_tree(tmp_path / "x.yaml")
        assert "\n" not in str(caught.value)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml is not YAML"):
        read_tree(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        (SMALL + "seed: 1\nname: yours\n", "name", "2 and 8"),
        (SMALL + "trainer: {max_epochs: 1, max_epochs: 2}\n", "max_epochs", "7 and 7"),
        (SMALL.replace("mode: grey", 'mode: grey, "mode": rgb'), "mode", "5 and 5"),
        (SMALL + "trainer:\n  plugins:\n    - {a: 1}\n    - a: 1\n      b: 2\n      a: 1\n", "a", "10 and 12"),
        (SMALL + "<<: {seed: 1}\n<<: {seed: 2}\n", "<<", "7 and 8"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, key: str, lines: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    message = rf"x\.yaml is not YAML: the key '{key}' is given twice, in lines {lines}: leave one out$"
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"--trainer: '\{a: 1, a: 2\}' is not a YAML value"):
        read("demo", ["--trainer={a: 1, a: 2}"])


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    anchors = "trainer:\n  a: &a {x: 1, y: 1}\n  b: &b {<<: *a, x: 2}\n  c: {<<: *b, y: 3, [1]: 4, [2]: 5}\n"
    (tmp_path / "x.yaml").write_text(anchors)
    with pytest.raises(ConfigError, match=r"is not YAML: .*unhashable"):  # two lists are two keys; neither can be one
        read_tree(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text(anchors.replace(", [1]: 4, [2]: 5", ""))
    tree = read_tree(tmp_path / "x.yaml")["trainer"]
    assert (tree["b"], tree["c"]) == ({"x": 2, "y": 1}, {"x": 2, "y": 3})


def test_a_name_that_is_almost_one(recipes: dict[str, Path]) -> None:
    name = next(iter(recipes))
    with pytest.raises(ConfigError, match=rf"no recipe '{name}s': .*: did you mean {name}\?"):
        read_tree(f"{name}s")
    with pytest.raises(ConfigError, match=r"is a folder and no recipe: .*, and give --data.root \S+$"):
        read_tree(Path(__file__).parent)
    with pytest.raises(ConfigError, match=rf"no recipe 'zzzzzz': .*; shipped are .*{name}"):
        read_tree("zzzzzz")


def test_no_option_is_an_object_of_python(small: Path) -> None:
    recipe = read(small)
    assert isinstance(recipe, Recipe)
    assert yaml.safe_load(yaml.safe_dump(to_tree(recipe)))["data"]["prepare"]["size"] == [28, 30]


@pytest.mark.parametrize(
    "words", [["--detector.k=3", "--detector.kind=knn"], ["--detector.kind=knn", "--detector.k=3"]]
)
def test_another_kind_or_rule_leaves_the_old_options_behind(words: list[str]):
    recipe = read("demo", [*words, "--calibration.rule=mean_std"])
    assert recipe.detector == {"kind": "knn", "k": 3}
    assert recipe.calibration == {"rule": "mean_std"}


def test_the_same_kind_keeps_the_options_of_the_recipe():
    recipe = read("demo", ["--detector.kind=mahalanobis", "--detector.shrinkage=0.5"])
    assert recipe.detector == {"kind": "mahalanobis", "class_conditional": True, "shrinkage": 0.5}


def test_a_network_beside_the_class_is_an_argument_of_it() -> None:
    network = {"class_path": "small-cnn", "init_args": {"width": 2}}
    tree = {"name": "r", "data": {"train": "x", "prepare": {"size": [28, 28]}}}
    for init_args in ({}, {"init_args": {"l2": 0.5, "network": "deep-cnn"}}):
        given = tree | {"model": {"class_path": "lit_od.training.LitClassifier", "network": network, **init_args}}
        recipe = from_tree(given, "r")
        assert recipe.model is not None
        assert recipe.model.init_args == init_args.get("init_args", {}) | {"network": network}
        assert from_tree(to_tree(recipe), "again") == recipe
        assert given["model"]["network"] == network  # what was given stays


def test_code_of_a_training_is_all_that_a_recipe_names() -> None:
    model = {"class_path": "mine.Module", "network": {"class_path": "mine.Net"}}
    data = {"train": "x", "prepare": {"size": [28, 28]}, "class_path": "mine.Data"}
    trainer = {"logger": [{"class_path": "mine.Log"}, "csv"], "callbacks": "mine.Call", "profiler": None}
    recipe = from_tree({"name": "r", "data": data, "model": model, "trainer": trainer}, "r")
    assert list(code_of_training(recipe)) == ["mine.Module", "mine.Net", "mine.Data", "mine.Log", "csv", "mine.Call"]
    with pytest.raises(ConfigError, match=r"data\.class_path gives batches to a training, and nothing is trained here"):
        from_tree({"name": "r", "data": data, "backbone": "lit_od:tf_efficientnet_lite0"}, "r")
