"""Examples of every command, JSON of every table, and completion of all of it."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from lit_od.cli import main, split_overrides
from lit_od.commands._catalogue import COMMANDS, load_command, parser_of
from tests.support.commands import Outcome

TABLES = (
    "bench benchmark check compare doctor evaluate history inspect monitor recipes report reproduce threshold verify"
)
"""Commands that print a table."""


def examples(name: str) -> list[list[str]]:
    """The words of a command's examples, without what is said of them."""
    lines = re.findall(
        rf"^ *lit-od ({name}\b.*)$", import_module(f"lit_od.commands.{name}").__doc__ or "", re.MULTILINE
    )
    return [shlex.split(re.split(r"  +| > ", line)[0]) for line in lines]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_two_examples_and_they_are_understood(name: str) -> None:
    found = examples(name)
    assert len(found) >= 2
    for words in found:
        plain, overrides = split_overrides(words[1:])
        parser_of(name, load_command(name)).parse_args(plain)
        if overrides:
            assert name in ("fit", "train", "export", "refit", "evaluate", "report", "benchmark", "reproduce")


def test_every_command_that_prints_a_table_prints_json() -> None:
    declared = [name for name in COMMANDS if "--json" in parser_of(name, load_command(name))._option_string_actions]
    assert sorted(declared) == sorted(TABLES.split())


def test_json_of_a_bundle(own_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = {}
    for name in ("threshold", "history", "verify"):
        assert main([name, str(own_bundle), "--json"]) == 0
        trees[name] = json.loads(capsys.readouterr().out)
    rows = trees["threshold"]["thresholds"]
    assert [row["threshold"] for row in rows] == sorted(row["threshold"] for row in rows)
    assert all(row["low"] <= row["flagged"] <= row["high"] for row in rows)
    assert trees["history"] == {"present": 0, "changes": []}
    assert trees["verify"] == {"sound": True, "differences": [], "changed": []}
    assert main(["threshold", str(own_bundle), "--value", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] == 7
    assert main(["history", str(own_bundle), "--json"]) == 0
    assert [each["command"] for each in json.loads(capsys.readouterr().out)["changes"]] == ["threshold"]


def test_json_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"].startswith("A folder of normal images")
    assert main(["recipes", "folder", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "folder"


def test_doctor_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^providers    .*CPUExecutionProvider", told, re.MULTILINE)
    assert main(["doctor", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["threads"] >= 1
    assert tree["packages"]["numpy"]
    assert tree["extras"]["cpu"]["missing"] == []


def test_doctor_names_what_is_missing_or_too_old(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = import_module("lit_od.commands.doctor")
    lines = [
        "numpy>=2.0",
        'onnxruntime>=1.20; extra == "cpu"',
        'onnxruntime-gpu>=1.20; extra == "gpu"',
        'torch<9.9,>=9.8; extra == "train"',
        'lit-od[evaluate]; extra == "train"',
        'matplotlib>=3.9; extra == "evaluate"',
        'absent>=1; extra == "serve"',
    ]
    monkeypatch.setattr(doctor, "versions", lambda: {"python": "3.11.0", "torch": "9.7.1+cpu"})
    versions = {"numpy": "2.4.0", "onnxruntime-gpu": "1.20.1", "torch": "9.7.1+cpu", "matplotlib": "3.9"}
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "_version", versions.get)
    assert main(["doctor", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["packages"] == {"numpy": "2.4.0", "torch": "9.7.1+cpu"}
    extras = {name: each["missing"] for name, each in tree["extras"].items()}
    assert extras == {"cpu": [], "train": ["torch <9.9,>=9.8 (has 9.7.1+cpu)"], "evaluate": [], "serve": ["absent"]}
    assert tree["extras"]["train"]["packages"].keys() == {"torch", "matplotlib"}
    assert main(["doctor"]) == 0
    assert 'missing absent: serve\n            pip install "lit-od[serve,cpu]"' in capsys.readouterr().out


@pytest.mark.skipif(find_spec("shtab") is None, reason="needs shtab")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", script)
    assert "min-area" in script or "min_area" in script


@pytest.mark.skipif(find_spec("shtab") is None, reason="needs shtab")
def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    asked = {"lit-od sco": "score", "lit-od score --reg": "--regions", "lit-od fit fold": "folder"}
    for line, wanted in asked.items():
        words = line.split()
        code = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; source ./script; _shtab_lit_od; echo $COMPREPLY"
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.split() == [wanted]


def test_completion_without_shtab_gives_the_pip_line(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, out, err = command("completion", "bash")
    assert (status, out) == (2, "")
    assert 'Run: pip install "lit-od[completion,cpu]"' in err
