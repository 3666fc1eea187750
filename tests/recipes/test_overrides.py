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


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read(value: float) -> None:
    ((_, came),) = parse_overrides([f"--x.y={value!r}"])
    assert math.isclose(came, value, rel_tol=0, abs_tol=0)
