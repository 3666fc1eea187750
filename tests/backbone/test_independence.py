"""Graphs whose rows depend on each other are refused wherever a graph is taken in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.backbone.independence import relative_gap, require_independent
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.errors import BackboneError, ConfigError
from lit_od.fitting.fit import Origin
from lit_od.formats.onnx_writer import node
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle
from tests.support.graphs import centred_graph, features_graph, graph_of, model_bytes

REFUSED = "output for an image must not depend on the other images of its batch"

IMAGES = np.random.default_rng(1).integers(90, 160, (4, 28, 28, 1), dtype=np.uint8)


def dependent_graph(nodes: list[bytes]) -> bytes:
    """Return a backbone for 28x28 grey images: 49 sums of pixels, as `flat`, go through the nodes to `features`."""
    first = [
        node("Cast", ["images"], ["floats"], to=1),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["planes"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["pooled"], ["flat"]),
    ]
    constants: dict[str, Any] = {
        "scale": np.ones(49, np.float32),
        "shift": np.zeros(49, np.float32),
        "weights": np.random.default_rng(0).normal(size=(49, 49)).astype(np.float32),
    }
    return model_bytes([*first, *nodes], (28, 28, 1), {"features": (49,)}, constants)


TRAINING = [
    node(
        "BatchNormalization",
        ["flat", "scale", "shift", "shift", "scale"],
        ["features", "new_mean", "new_variance"],
        training_mode=1,
    )
]
DYNAMIC = [
    node("MatMul", ["flat", "weights"], ["sums"]),
    node("DynamicQuantizeLinear", ["sums"], ["levels", "step", "zero"]),
    node("DequantizeLinear", ["levels", "step", "zero"], ["features"]),
]


@pytest.mark.parametrize("model", [centred_graph(), dependent_graph(TRAINING), dependent_graph(DYNAMIC)])
def test_rows_that_depend_on_each_other_are_refused(model: bytes) -> None:
    backbone = Backbone.load(model, threads=1)
    for images in (IMAGES, IMAGES[:1]):
        with pytest.raises(BackboneError, match=REFUSED):
            require_independent(backbone, images)


@pytest.mark.parametrize("model", [features_graph(), graph_of(["errors"])])
def test_rows_of_their_own_pass(model: bytes) -> None:
    for threads in (1, 2):
        require_independent(Backbone.load(model, threads=threads), IMAGES)


def test_an_output_that_is_not_finite_is_compared_too() -> None:
    nan = np.array([[1.0, np.nan], [2.0, np.inf]], np.float32)
    assert relative_gap(nan, nan) == 0.0
    assert relative_gap(nan, np.ones_like(nan)) == np.inf
    assert relative_gap(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)) == 0.0


def fitted(out: Path, model: bytes, digits: list[Source], kind: str = "knn") -> Bundle:
    return make_bundle(
        out,
        model=model,
        fit=digits[:20],
        calibration=digits[20:40],
        detector={"kind": kind},
        rule={"rule": "percentile"},
        origin=Origin(name="b"),
        threads=1,
    )


def test_a_fit_and_a_refit_refuse_such_a_graph_before_the_work(digits: list[Source], tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=REFUSED):
        fitted(tmp_path / "b", centred_graph(), digits)
    assert not (tmp_path / "b").exists()


def test_verify_refuses_such_a_graph(
    own_bundle: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a bundle of an earlier version may hold; here no graph is good enough."""
    assert command("verify", own_bundle).status == 0
    monkeypatch.setattr("lit_od.backbone.independence.TOLERANCE", -1.0)
    status, out, _ = command("verify", own_bundle)
    assert (status, REFUSED in out) == (1, True)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (graph_of(["errors"], (28, 28, 1)), "knn", "the graph gives errors, and detector knn reads features: choose"),
        (features_graph(), "reconstruction", "the graph gives features, and detector reconstruction reads errors"),
    ],
)
def test_a_detector_of_another_output_is_refused_before_the_work(
    model: bytes, kind: str, message: str, digits: list[Source], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fitted(tmp_path / "b", model, digits, kind)
