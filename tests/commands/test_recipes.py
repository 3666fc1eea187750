"""`lit-od recipes`: the shipped ones, and one to start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lit_od.recipes.load import read

Command = Callable[..., Any]


def test_every_recipe_is_a_line(recipes: dict[str, Path], command: Command) -> None:
    status, out, err = command("recipes")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(recipes)
    for name, line in zip(recipes, out.splitlines(), strict=True):
        assert line.endswith(read(name).description)


def test_one_recipe_is_printed_as_it_is(recipes: dict[str, Path], command: Command, tmp_path: Path) -> None:
    for name, file in recipes.items():
        status, out, _ = command("recipes", name)
        assert status == 0
        assert out == file.read_text(encoding="utf-8")
        own = tmp_path / "own.yaml"
        own.write_text(out)
        assert read(own) == read(name)
        assert yaml.safe_load(out)["name"] == name


def test_a_recipe_that_is_not_shipped_is_refused(recipes: dict[str, Path], command: Command) -> None:
    known = ", ".join(recipes)
    assert command("recipes", "magic") == (2, "", f"lit-od: no shipped recipe 'magic': there are {known}\n")
    assert command("recipes", "--data.root", "x").status == 2
