"""YAML's merge keys, against their definition in dictionaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.formats.strict_yaml import YAMLError, parse

MAPPINGS = st.dictionaries(st.sampled_from(["k", "n", "epochs", "batch_size"]), st.integers(0, 9), max_size=4)


def flow(mapping: dict[str, int], *merged: str) -> str:
    names = [f"<<: [{', '.join(f'*{name}' for name in merged)}]"] if merged else []
    return "{" + ", ".join([*names, *(f"{key}: {value}" for key, value in mapping.items())]) + "}"


@given(first=MAPPINGS, second=MAPPINGS, third=MAPPINGS, fourth=MAPPINGS)
def test_a_mappings_own_keys_win_then_those_of_the_earlier_mapping(
    first: dict[str, int], second: dict[str, int], third: dict[str, int], fourth: dict[str, int]
) -> None:
    lines = [
        f"a: &a {flow(first)}",
        f"b: &b {flow(second, 'a')}",
        f"c: &c {flow(third)}",
        f"d: {flow(fourth, 'b', 'c')}",
    ]
    found = parse("\n".join(lines))
    assert found["b"] == first | second
    assert found["d"] == third | first | second | fourth


def test_a_mapping_that_merges_itself_is_itself() -> None:
    assert parse("a: &a {<<: *a, k: 1}") == {"a": {"k": 1}}


@pytest.mark.parametrize("value", ["1", "[1]", "word"])
def test_what_is_no_mapping_cannot_be_merged(value: str) -> None:
    with pytest.raises(YAMLError, match="<< in line 2 needs a mapping or a list of them"):
        parse(f"k: 1\n<<: {value}\n")


def test_numbers_may_be_written_without_a_point() -> None:
    assert parse("[1e-3, -2E5, 1.5e+3, 1e, e3]") == [0.001, -200000.0, 1500.0, "1e", "e3"]
