"""Model files with their golden sets, and the runners that are programs."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lit_od import Bundle, Preparation
from lit_od.bundle.model_file import read_model
from lit_od.deploy.golden_set import write_golden_set
from lit_od.deploy.one_file import compile_bundle
from lit_od.fitting.fit import Origin
from lit_od.formats.onnx_writer import node
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle, mapped_bundle
from tests.support.graphs import FLOAT, model_bytes
from tests.support.once import made_once
from tests.support.runtimes import RUNNERS, build_c, require_node

PREPARATIONS = {
    "cropped": Preparation(size=(20, 24), mode="rgb", crop_fraction=0.8),
    "bicubic": Preparation(size=(24, 20), mode="grey", resize="bicubic", crop=(20, 26), grey="luminosity"),
    "graph": Preparation(size=(20, 24), mode="rgb", resize="graph", crop_fraction=0.9),
}


def projected(out: Path, preparation: Preparation, digits: list[Source]) -> Bundle:
    """A bundle whose scores change with every pixel."""
    shape = preparation.shape
    weights = np.random.default_rng(0).normal(size=(int(np.prod(shape)), 12)).astype(np.float32)
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Flatten", ["floats"], ["flat"]),
        node("MatMul", ["flat", "weights"], ["features"]),
    ]
    return make_bundle(
        out,
        model=model_bytes(nodes, shape, {"features": (12,)}, {"weights": weights}),
        preparation=preparation,
        fit=digits[:200],
        calibration=digits[800:840],
        detector={"kind": "mahalanobis"},
        rule={"rule": "percentile", "q": 90},
        origin=Origin(name="projected", seed=0),
        opset=20,
        threads=1,
    )


def compiled(bundle: Bundle, folder: Path) -> Path:
    """A folder with a model file and its golden set."""
    folder.mkdir()
    compile_bundle(bundle, folder / "model.onnx")
    write_golden_set(bundle, read_model(folder / "model.onnx").manifest.preparation, folder / "golden")
    return folder


@pytest.fixture(scope="session")
def mapped(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with maps, which takes images of one size."""
    bundles = tmp_path_factory.mktemp("mapped")
    return compiled(mapped_bundle(bundles / "bundle", digits), bundles / "compiled")


@pytest.fixture(scope="session")
def flat(made_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file without maps."""
    return compiled(made_bundle, tmp_path_factory.mktemp("flat") / "compiled")


@pytest.fixture(scope="session", params=PREPARATIONS)
def prepared(request: pytest.FixtureRequest, digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose images are cropped and resized in one of several ways."""
    bundles = tmp_path_factory.mktemp("prepared")
    return compiled(projected(bundles / "bundle", PREPARATIONS[request.param], digits), bundles / "compiled")


@pytest.fixture(scope="session")
def built(of_all: Path) -> Path:
    """The folder in which the runner in C is built."""
    return made_once(of_all / "runner-c", build_c)


@pytest.fixture
def words(request: pytest.FixtureRequest) -> list[str]:
    """The words that start a runner, by its name."""
    if request.param == "c":
        return [str(request.getfixturevalue("built") / "lit-od-score")]
    if request.param == "node":
        return [require_node(), str(RUNNERS / "node" / "score.js")]
    return [sys.executable, str(RUNNERS / "python" / "score.py")]
