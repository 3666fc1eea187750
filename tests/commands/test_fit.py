"""`lit-od fit` and `export`: the execution provider, and options without effect."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lit_od.commands import export, fit
from lit_od.commands._arguments import session_options


@pytest.mark.parametrize("module", [fit, export])
def test_a_provider_may_be_asked_for(module: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    args = parser.parse_args(["what", "--out", "b", "--provider", "cuda", "--threads", "2"])
    assert session_options(args) == {"threads": 2, "providers": ["cuda"]}


def test_a_fit_refuses_a_provider_that_is_absent(
    digit_files: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    words = ["--data.root", digit_files, "--data.prepare.size", "[32,32]", "--out", tmp_path / "b"]
    status, _, err = command("fit", "folder", *words, "--provider", "magic")
    assert (status, "provider magic is not in this ONNX Runtime; here are cpu" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.batch_size", "4"], "--data.batch_size has no effect over lit_od.training.FrozenBackbone, over which"),
        (["--data.memory=4"], "--data.memory has no effect"),
        (["--data.split.validation", "0.2"], "nothing is validated (data.split.calibration is what is set aside)"),
        (
            ["--early-stopping", "3"],
            "--early-stopping goes with training, and over lit_od.training.FrozenBackbone nothing",
        ),
    ],
)
def test_a_frozen_module_refuses_options_of_a_training(
    words: list[str], message: str, tmp_path: Path, command: Callable[..., Any]
) -> None:
    status, _, err = command("fit", "vgg16-gmm", "--out", tmp_path / "b", *words)
    assert (status, message in err, err.count("\n")) == (2, True, 1)
