"""Words of a command line, and the values that they stand for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.recipes.overrides import parse_overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("1e-3", 0.001),
        ("1E5", 100_000.0),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("e5", "e5"),
        ("1e", "1e"),
        ("true", True),
        ("null", None),
        ("", None),
        ("a=b", "a=b"),
        ("[0.7, 1e0]", [0.7, 1.0]),
        ("{lr: 1e-4}", {"lr": 0.0001}),
        ("16-mixed", "16-mixed"),
        ('"3"', "3"),
        ("日本", "日本"),
    ],
)
def test_values_are_yaml(text: str, value: object) -> None:
    assert list(parse_overrides([f"--a.b={text}"])) == [("a.b", value)]
    if text:
        assert list(parse_overrides(["--a.b", text])) == [("a.b", value)]


@pytest.mark.parametrize("word", ["good #2", "2024", "no", "1e3", "null", "a: b", "@x", "&a", "[0]", '"q"', "~", "{a}"])
@pytest.mark.parametrize(
    "key",
    [
        "name",
        "data.root",
        "data.train",
        "data.reference.path",
        "evaluation.inliers.path",
        "evaluation.outliers.mine.path",
        "model.class_path",
    ],
)
def test_a_key_that_is_a_string_takes_the_word_as_typed(key: str, word: str) -> None:
    assert list(parse_overrides([f"--{key}", word])) == [(key, word)]
    assert list(parse_overrides([f"--{key}={word}"])) == [(key, word)]


@pytest.mark.parametrize("key", ["data.test", "backbone", "model.init_args.checkpoint_path"])
def test_a_string_that_may_be_missing_is_left_out_by_null(key: str) -> None:
    assert list(parse_overrides([f"--{key}", "null"])) == [(key, None)]
    assert list(parse_overrides([f"--{key}="])) == [(key, None)]
    assert list(parse_overrides([f"--{key}", "2024 #1"])) == [(key, "2024 #1")]


@pytest.mark.parametrize(
    "key", ["data.classes", "data.outlier_classes", "data.reference.exclude", "calibration.outliers"]
)
def test_a_list_of_strings_holds_words_as_typed(key: str) -> None:
    assert list(parse_overrides([f"--{key}", '[0, no, 1e3, "a, b", x#1]'])) == [
        (key, ["0", "no", "1e3", "a, b", "x#1"])
    ]


def test_a_path_of_outliers_is_taken_as_typed() -> None:
    assert list(parse_overrides(["--calibration.outliers", "bad #2"])) == [("calibration.outliers", "bad #2")]
    assert list(parse_overrides(["--data.classes", "null"])) == [("data.classes", None)]


def test_no_text_is_cut_off_at_a_comment_sign() -> None:
    assert list(parse_overrides(["--model.init_args.x", "a #b"])) == [("model.init_args.x", "a #b")]


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read(value: float) -> None:
    ((_, came),) = parse_overrides([f"--x.y={value!r}"])
    assert math.isclose(came, value, rel_tol=0, abs_tol=0)
