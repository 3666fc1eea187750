"""Every runner gives a golden set what it must give, and the comparison notices what differs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import ABSENT, chromium
from tests.support.runtimes import RUNNERS, require_node, require_packages


def conformance(folder: Path, runner: str, program: object = "absent") -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, RUNNERS / "conformance", folder / "model.onnx", folder / "golden", "--runner", runner]
    return subprocess.run([*words, "--c", str(program), "--json"], capture_output=True, text=True, timeout=200)


def program_of(runner: str, request: pytest.FixtureRequest) -> object:
    """Programs and packages of a runner; the test is skipped without them."""
    if runner == "c":
        return request.getfixturevalue("built") / "lit-od-score"
    if runner == "node":
        require_node()
    if runner == "web":
        require_packages("web")
        if not chromium():
            pytest.skip(ABSENT)
    return "absent"


def found_by(folder: Path, runner: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    done = conformance(folder, runner, program_of(runner, request))
    assert (done.returncode, done.stderr) == (0, "")
    figures: dict[str, Any] = json.loads(done.stdout)[runner]
    return figures


@pytest.mark.parametrize("runner", ["c", "python", "node", "web"])
def test_a_golden_set_with_maps(runner: str, mapped: Path, request: pytest.FixtureRequest) -> None:
    figures = found_by(mapped, runner, request)
    assert figures["score"] <= 1e-5
    assert figures["map"] <= 1e-4
    assert (figures["verdicts"], figures["p_values"]) == (0, 0)


@pytest.mark.parametrize("prepared", ["cropped", "graph"], indirect=True)
@pytest.mark.parametrize("runner", ["c", "python", "node"])
def test_a_golden_set_of_images_that_are_not_cropped_again(
    runner: str, prepared: Path, request: pytest.FixtureRequest
) -> None:
    figures = found_by(prepared, runner, request)
    assert figures["score"] <= 1e-5
    assert figures["map"] is None
    assert (figures["verdicts"], figures["p_values"]) == (0, 0)


@pytest.mark.parametrize(("key", "value"), [("score", 1e9), ("is_outlier", None), ("p_value_most", 0.0)])
def test_a_difference_is_noticed(key: str, value: float | None, mapped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mapped, tmp_path / "changed"))
    golden = json.loads((folder / "golden" / "golden.json").read_text())
    first = next(each for each in golden["images"] if each["sure"])
    first[key] = not first[key] if value is None else value
    (folder / "golden" / "golden.json").write_text(json.dumps(golden))
    assert conformance(folder, "python").returncode == 1


def test_a_runner_that_is_named_must_run(mapped: Path) -> None:
    done = conformance(mapped, "c")
    assert done.returncode == 2
    assert "is not built" in json.loads(done.stdout)["c"]
