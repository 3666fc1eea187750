"""Every detector's nodes give its scores, in ONNX Runtime and by the standard's own rules."""

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from lit_od.deploy.onnx_forms.maps import over_patches
from lit_od.deploy.onnx_forms.rows import add_form
from lit_od.detectors import KNN, Detector, FeatureEnsemble, Mahalanobis
from lit_od.detectors.bank.onnx_search import ExactSearch
from lit_od.detectors.map_mask import pack
from lit_od.detectors.registry import DETECTORS
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_builder import GraphBuilder
from tests.support.detectors import MEAN_DISTANCE

ROWS, WIDTH = 160, 8
SHAPE = (5, 4, 2)
GRID = (4, 5, 6)

MASK = pack(np.hypot(*(np.mgrid[:12, :15] - np.array([5, 6]).reshape(2, 1, 1))) < 5)

TREES: list[dict[str, Any]] = [
    {"kind": "mahalanobis"},
    {"kind": "knn"},
    {"kind": "knn", "k": 3, "reduce": "kth", "metric": "cosine", "precision": "fp16"},
    {"kind": "knn", "k": 200, "coreset": None},
    {"kind": "knn", "standardise": True, "precision": "fp16"},
    {"kind": "knn", "precision": "int8", "metric": "cosine"},
    {"kind": "lof"},
    {"kind": "lof", "k": 7, "metric": "cosine"},
    {"kind": "local_residual"},
    {"kind": "local_residual", "k": 5, "metric": "cosine", "precision": "fp16", "standardise": True},
    {"kind": "gmm"},
    {"kind": "gmm", "covariance": "tied"},
    {"kind": "gmm", "covariance": "diag"},
    {"kind": "gmm", "covariance": "spherical"},
    {"kind": "gmm", "components": 3},
    {"kind": "gmm", "components": 2, "covariance": "tied"},
    {"kind": "gmm", "components": 2, "covariance": "spherical"},
    {"kind": "pca_residual"},
    {"kind": "pca_residual", "components": 3, "whiten": False},
    {"kind": "ensemble", "weights": [1, 2, 0.5], "members": [{"kind": kind} for kind in ("mahalanobis", "gmm", "knn")]},
    {"kind": "reconstruction"},
    {"kind": "reconstruction", "metric": "rmse", "outlier_perc": 17.5},
    {"kind": "reconstruction", "outlier_perc": 30, "mask": pack(np.arange(20).reshape(SHAPE[:2]) % 3 > 0)},
    {"kind": "padim", "components": 4, "size": [12, 15]},
    {"kind": "padim", "precision": "fp16", "smooth": 1.5},
    {"kind": "patchcore", "coreset": 60, "size": [12, 15]},
    {"kind": "patchcore", "coreset": 0.2, "whiten": True, "reweight": True, "precision": "fp16"},
    {"kind": "patchcore", "coreset": 100, "k": 3, "reweight": True, "aggregate": "top_share", "share": 0.07},
    {"kind": "knn", "over": "patches", "k": 2, "aggregate": "top_share", "share": 0.1},
    {"kind": "gmm", "over": "patches"},
    {"kind": "patch_channel", "channel": -2, "size": [12, 15]},
    {"kind": "ensemble", "size": [12, 15], "members": [{"kind": "padim"}, {"kind": "patchcore", "coreset": 50}]},
    {"kind": "padim", "components": 4, "size": [12, 15], "smooth": 1.0, "mask": MASK},
    {"kind": "patchcore", "coreset": 60, "whiten": True, "reweight": True, "size": [12, 15], "mask": MASK},
    {"kind": "gmm", "over": "patches", "aggregate": "top_share", "share": 0.2, "size": [12, 15], "mask": MASK},
    {
        "kind": "ensemble",
        "size": [12, 15],
        "mask": MASK,
        "members": [{"kind": "padim"}, {"kind": "patchcore", "coreset": 50}, {"kind": "gmm", "over": "patches"}],
    },
]  # fmt: skip

every_tree = pytest.mark.parametrize("tree", TREES, ids=json.dumps)


def outputs_of(reads: str, n: int, seed: int = 0, spread: float = 1.0) -> NDArray[np.float32]:
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    if reads == "patches":
        rows = rng.standard_normal((n, *GRID)) * spread
        return np.einsum("nhwd,hwde->nhwe", rows, fixed.standard_normal((*GRID, GRID[2]))).astype(np.float32)
    if reads == "errors":
        return (rng.standard_normal((n, *SHAPE)) ** 2 * spread).astype(np.float32)
    return (rng.standard_normal((n, WIDTH)) @ fixed.standard_normal((WIDTH, WIDTH)) * spread + 12).astype(np.float32)


def fitted(tree: dict[str, Any]) -> Detector:
    spec = DetectorSpec.parse(tree)
    return spec.fit(outputs_of(spec.reads(), 40 if spec.reads() == "patches" else 240))


def model_of(detector: Detector, opset: int = 18) -> bytes:
    graph = GraphBuilder("lit_od.")
    if detector.reads == "patches":
        scores, maps = over_patches(graph, detector, "outputs")  # type: ignore[arg-type]  # detectors of patches
    elif detector.reads == "errors":
        scores, maps = add_form(graph, detector, "outputs")
    else:
        scores, maps = add_form(graph, detector, "outputs"), None
    graph.op("Identity", scores, to="score")
    ports = [onnx_writer.port("score", np.float64, ("n",))]
    if maps is not None:
        graph.op("Identity", maps, to="map")
        ports.append(onnx_writer.port("map", np.float32, ("n", "h", "w")))
    header = onnx_writer.number(1, 9) + onnx_writer.message(8, onnx_writer.number(2, opset))
    taken = onnx_writer.port("outputs", np.float32, ("n", *detector.input_shape))
    return onnx_writer.model(graph.nodes, [taken], ports, initializers=graph.initializers, header=header)


def run(model: bytes, rows: NDArray[np.float32]) -> list[Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, {"outputs": rows})
    return found


def test_every_detector_of_the_registry_is_tried() -> None:
    assert {DetectorSpec.parse(tree).kind for tree in TREES} == set(DETECTORS)


@every_tree
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_nodes_give_the_scores_and_maps(tree: dict[str, Any], spread: float) -> None:
    detector = fitted(tree)
    rows = outputs_of(detector.reads, 23, seed=1, spread=spread)
    model = model_of(detector)
    found = run(model, rows)
    limit = 1e-12 if detector.reads == "features" else 1e-6
    wanted = detector.score(rows)
    np.testing.assert_allclose(found[0], wanted, rtol=limit, atol=limit * np.abs(wanted).max())
    alone = np.concatenate([run(model, rows[row : row + 1])[0] for row in range(3)])
    np.testing.assert_allclose(alone, found[0][:3], rtol=limit, atol=limit * np.abs(wanted).max())
    if len(found) > 1:
        maps = detector.score_map(rows)[1]  # type: ignore[attr-defined]  # a detector of maps
        np.testing.assert_allclose(found[1], maps, rtol=1e-5, atol=1e-6 * np.abs(maps).max())


@every_tree
@pytest.mark.parametrize("opset", [18, 20])
def test_the_graph_keeps_the_standard(tree: dict[str, Any], opset: int) -> None:
    model = onnx.load_from_string(model_of(fitted(tree), opset))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}


def test_class_means_and_a_background_are_in_the_nodes() -> None:
    rows, labels = outputs_of("features", ROWS), np.arange(ROWS) % 3
    rows[labels == 1] += 4
    rows[labels == 2] -= 5
    queries = outputs_of("features", 23, seed=1)
    for relative in (False, True):
        detector = Mahalanobis.fit(rows, labels=labels, relative=relative)
        np.testing.assert_allclose(run(model_of(detector), queries)[0], detector.score(queries), rtol=1e-11)


def test_rows_far_from_the_origin_are_compared_to_the_whole_bank() -> None:
    """Two clusters close together and far away: the product proposes wrong rows, and the bound says so."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(60, 3)) * 1e-4 + side for side in (-3e3, 3e3)]).astype(np.float32)
    queries = rows[::7] + np.float32(1e-3)
    detector = DetectorSpec.parse({"kind": "knn", "k": 2}).fit(rows)
    assert isinstance(detector, KNN)
    prepared = detector.bank.prepare(queries)
    search = ExactSearch.of(detector.bank.rows, cosine=False)
    assert len(search.incomplete(prepared, search.nearest(prepared, 6)[0], 2)) > 0
    np.testing.assert_allclose(run(model_of(detector), queries)[0], detector.score(queries), rtol=1e-12)


def test_a_trained_index_and_a_detector_without_a_form_are_refused() -> None:
    detector = DetectorSpec.parse({"kind": "knn", "index": "HNSW8"}).fit(outputs_of("features", ROWS))
    with pytest.raises(ConfigError, match=r"has the index HNSW8: fit it anew with lit-od refit --detector.index flat"):
        model_of(detector)

    elsewhere = DetectorSpec(MEAN_DISTANCE, {}, (MEAN_DISTANCE,)).fit(outputs_of("features", ROWS))
    with pytest.raises(ConfigError, match="has no ONNX form"):
        model_of(elsewhere)


def test_members_of_ensembles_use_their_own_form() -> None:
    detector = FeatureEnsemble.fit(outputs_of("features", ROWS), members=[{"kind": "lof"}, {"kind": "pca_residual"}])
    queries = outputs_of("features", 9, seed=2)
    np.testing.assert_allclose(run(model_of(detector), queries)[0], detector.score(queries), rtol=1e-11)
