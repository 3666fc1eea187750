"""scripts/gpu_check: in short on the CPU, what it installs, and its refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "gpu"))
from wheels import install, missing, requirements  # noqa: E402

sys.path.pop(0)


pytestmark = pytest.mark.torch


def check(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the check without a GPU; PYTHON is the interpreter of the tests."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    words = (str(ROOT / "scripts" / "gpu_check"), *words)
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_without_a_gpu_it_says_so_and_checks_the_cpu() -> None:
    came = check("--eager")
    assert came.returncode == 0, came.stdout + came.stderr
    lines = came.stdout.splitlines()
    assert lines[0].startswith("GPU: none")
    figures = json.loads(lines[-1])
    assert figures["agrees"] is True
    found = [(each["module"], each["precision"], each["mode"]) for each in figures["trainings"]]
    modules = ("LitClassifier", "LitAutoencoder", "LitDOC")
    wanted = [(module, precision, "eager") for module in modules for precision in ("32-true", "bf16-mixed")]
    assert found == [*wanted, ("LitClassifier", "32-true", "gloo")]
    for each in figures["trainings"]:
        assert each["images_per_second"] > 0
        assert each["plain"] > 0
        assert 0 < each["loading"] < 1
        assert each["error"] == ""
        assert (each["difference"] == 0) == (each["precision"] == "32-true")
    assert figures["features"]["agrees"] is True


def test_an_interpreter_without_packages_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    came = check(PYTHON=str(tmp_path / "python"))
    assert came.returncode == 2
    assert "error: wanted numpy>=2.2, pillow>=13.0" in came.stderr
    assert came.stderr.splitlines()[-1].endswith("gather them with --wheels DIR, and give --install DIR")


def test_floors_are_those_of_the_project() -> None:
    wanted = requirements(ROOT)
    assert wanted["pillow"] == "pillow>=13.0"
    assert wanted["matplotlib"].startswith("matplotlib>=")
    assert missing(ROOT) == []
    assert not {"torch", "torchvision", "scipy", "onnx"} & set(wanted)


def test_a_folder_without_the_wheels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"gpu_check: pip install failed with status 1"):
        install(["lit-od-absent>=1"], tmp_path, tmp_path / "site")
