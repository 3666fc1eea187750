"""Model files: one ONNX graph that gives a bundle's verdicts in any runtime, and is read back as the bundle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from lit_od import Bundle, Preparation, Scorer
from lit_od.bundle import model_file
from lit_od.deploy import one_file
from lit_od.deploy.one_file import compile_bundle
from lit_od.errors import BundleError, ConfigError, DataError
from lit_od.fitting.fit import Origin
from lit_od.images.batching import load
from lit_od.images.sources import Source
from tests.support.bundles import make_bundle, mapped_bundle
from tests.support.graphs import features_graph

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def mapped(digits: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that gives maps."""
    return mapped_bundle(tmp_path_factory.mktemp("bundles") / "mapped", digits)


@pytest.fixture(params=["made_bundle", "mapped"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    found: Bundle = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def model(bundle: Bundle, tmp_path: Path) -> Path:
    out = tmp_path / "model.onnx"
    compile_bundle(bundle, out)
    return out


def run(path: Path, pixels: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pixels}), strict=True))


def test_a_bare_runtime_gives_the_bundles_verdicts(bundle: Bundle, model: Path, digits: list[Source]) -> None:
    scorer = Scorer.of(bundle, threads=1)
    pixels = load(digits[1200:1260], scorer.preparation, threads=1)
    pixels[40:] = 255 - pixels[40:]
    wanted, found = scorer.score(pixels, maps=True), run(model, pixels)
    room = 1e-5 * np.abs(wanted.score).max()
    assert found["score"].dtype == found["p_value"].dtype == np.float64
    np.testing.assert_allclose(found["score"], wanted.score, atol=room, rtol=0)
    sure = np.abs(wanted.score - bundle.calibration.threshold) > room
    np.testing.assert_array_equal(found["is_outlier"][sure], wanted.is_outlier[sure])
    assert set(wanted.is_outlier.tolist()) == {True, False}
    assert (found["p_value"] >= bundle.calibration.p_values(wanted.score + room)).all()
    assert (found["p_value"] <= bundle.calibration.p_values(wanted.score - room)).all()
    if wanted.maps is None:
        assert set(found) == {"score", "p_value", "is_outlier"}
    else:
        np.testing.assert_allclose(found["map"], wanted.maps, atol=1e-5 * np.abs(wanted.maps).max())
        np.testing.assert_array_equal(found["map"].reshape(len(pixels), -1).max(axis=1), found["score"])
    alone = [run(model, pixels[row : row + 1])["score"][0] for row in range(3)]
    np.testing.assert_allclose(alone, found["score"][:3], rtol=1e-6)


def test_it_keeps_the_standard(model: Path) -> None:
    graph = onnx.load(model)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.ir_version <= 10
    assert {each.domain: each.version for each in graph.opset_import}.get("") in range(18, 21)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [port.name for port in graph.graph.input] == ["image"]
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    assert tensors["threshold"].dtype == tensors["calibration"].dtype == np.float64
    assert tensors["threshold"].shape == ()
    assert {each.key for each in graph.metadata_props} == {"lit_od", "lit_od_golden"}


def test_it_is_read_back_as_the_bundle(bundle: Bundle, model: Path, digits: list[Source]) -> None:
    ours, theirs = Scorer.load(model, threads=1), Scorer.of(bundle, threads=1)
    sources = digits[1200:1230]
    for maps in (False, True):
        (a,), (b,) = (list(each.stream(sources, maps=maps)) for each in (ours, theirs))
        np.testing.assert_allclose(a.score, b.score, rtol=1e-5)
        np.testing.assert_array_equal(a.is_outlier, b.is_outlier)
        if maps and b.maps is not None:
            np.testing.assert_allclose(a.maps, b.maps, rtol=1e-4, atol=1e-5)
            assert [len(each) for each in a.regions or ()] == [len(each) for each in b.regions or ()]
    found = model_file.open_bundle(model)
    np.testing.assert_array_equal(found.calibration.scores, bundle.calibration.scores)
    assert found.manifest.provenance == bundle.manifest.provenance


def test_verify_accepts_it_and_what_other_tools_wrote_again(model: Path, command: Command) -> None:
    status, out, _ = command("verify", model)
    assert (status, out) == (0, f"{model}: 7 golden images score as they must (scores within 1e-05)\n")
    onnx.save(onnx.load(model), model)
    assert command("verify", model) == (0, out, "")


def test_a_threshold_that_another_tool_moved_is_in_force_and_said(made_bundle, tmp_path, command: Command) -> None:
    path = tmp_path / "model.onnx"
    compile_bundle(made_bundle, path)
    graph = onnx.load(path)
    (tensor,) = (each for each in graph.graph.initializer if each.name == "threshold")
    tensor.CopyFrom(numpy_helper.from_array(np.array(1e6), "threshold"))
    onnx.save(graph, path)
    status, out, _ = command("verify", path)
    assert status == 0
    assert out.splitlines()[0] == f"{path}: initializer threshold was changed since lit-od compile"
    scorer = Scorer.load(path)
    assert scorer.calibration.rule == {"rule": "value", "value": 1e6}
    assert not scorer.score(np.full((1, 28, 28, 1), 255, np.uint8)).is_outlier.any()


def test_changed_weights_are_found_by_the_golden_images(mapped: Bundle, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "model.onnx"
    compile_bundle(mapped, path)
    graph = onnx.load(path)
    tensor = next(each for each in graph.graph.initializer if numpy_helper.to_array(each).ndim == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(graph, path)
    status, out, _ = command("verify", path)
    assert status == 1
    assert f"initializer {tensor.name} was changed" in out
    assert "golden scores differ by" in out


def test_another_threshold_leaves_the_graph_alone(bundle: Bundle, model: Path, command: Command) -> None:
    before = onnx.load(model)
    status, out, _ = command("threshold", model, "--rule", "percentile", "--q", 50)
    assert (status, out[: len(str(model))]) == (0, str(model))
    after, expected = onnx.load(model), bundle.calibration.with_rule({"rule": "percentile", "q": 50}).threshold
    assert after.graph.node == before.graph.node
    moved = {a.name for a, b in zip(after.graph.initializer, before.graph.initializer, strict=True) if a != b}
    assert moved == {"threshold"} | ({"pixel_threshold"} if bundle.manifest.name == "mapped" else set())
    tensors = {each.name: numpy_helper.to_array(each) for each in after.graph.initializer}
    assert all(tensors[name] == expected for name in moved)
    assert model_file.changed_parts(model_file.open_bundle(model)) == []
    assert json.loads(after.metadata_props[0].value)["calibration"]["rule"] == {"rule": "percentile", "q": 50}
    assert command("verify", model)[0] == 0


def test_commands_take_it(model: Path, digit_files: Path, command: Command) -> None:
    status, out, err = command("score", model, digit_files)
    assert (status, err, len(out.splitlines())) == (0, "", 41)
    status, out, _ = command("inspect", model)
    assert status == 0
    assert "| nodes |" in out
    assert command("inspect", model, "--json")[0] == 0
    for words in (("refit", model, digit_files, "--out", "x"), ("compile", model, "--out", "y.onnx")):
        status, _, err = command(*words)
        assert status == 2
        assert "is a model file: give the folder of the bundle" in err


def test_the_command_writes_and_describes_it(made_bundle: Bundle, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "model.onnx"
    status, text, _ = command("compile", made_bundle.path, "--out", out)
    assert status == 0
    assert text.startswith(f"{out}: mahalanobis, ")
    assert command("compile", made_bundle.path, "--out", tmp_path / "model.bin")[2].endswith("must end in .onnx\n")
    (tmp_path / "folder.onnx").mkdir()
    for place in (tmp_path / "folder.onnx", tmp_path / "none" / "model.onnx"):
        status, _, err = command("compile", made_bundle.path, "--out", place)
        assert status == 2
        assert "wanted a file in a folder that exists" in err


def test_a_graph_that_scores_otherwise_is_not_written(made_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(model_file, "verdict_difference", lambda *_: "scores differ by 1")
    with pytest.raises(DataError, match="does not score as the bundle does: scores differ by 1"):
        compile_bundle(made_bundle, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_old_opset_and_foreign_operators_are_refused(digits: list[Source], tmp_path: Path) -> None:
    old = onnx.load_from_string(features_graph())
    old.opset_import[0].version = 17
    foreign = onnx.load_from_string(features_graph())
    foreign.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    foreign.graph.node[-1].output[0] = "before"
    foreign.graph.node.append(onnx.helper.make_node("Gelu", ["before"], ["features"], domain="com.microsoft"))
    for number, (graph, message) in enumerate(((old, "export.opset 20"), (foreign, "operators of com.microsoft"))):
        bundle = make_bundle(
            tmp_path / f"{number}",
            model=graph.SerializeToString(),
            fit=digits[:40],
            calibration=digits[40:60],
            detector={"kind": "knn"},
            rule={"rule": "percentile"},
            origin=Origin(name="x"),
        )
        with pytest.raises(ConfigError, match=message):
            compile_bundle(bundle, tmp_path / "model.onnx")


def test_files_that_are_none_are_refused_in_one_line(made_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = compile_bundle(made_bundle, path)
    graph = onnx.load(path)
    plain, wrong, odd = (onnx.ModelProto() for _ in range(3))
    for each in (plain, wrong, odd):
        each.CopyFrom(graph)
    del plain.metadata_props[:]
    wrong.metadata_props[1].value = "%%%"
    (tensor,) = (each for each in odd.graph.initializer if each.name == "calibration")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), "calibration"))
    for content, message in (
        (data[: len(data) // 2], "damaged"),
        (b"", "holds no graph"),
        (plain.SerializeToString(), "none that lit_od compiled"),
        (wrong.SerializeToString(), "golden images are damaged"),
        (odd.SerializeToString(), "'calibration' must be ascending"),
    ):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=message):
            Scorer.load(path)


@pytest.mark.parametrize(
    "options", [{}, {"crop": (20, 24)}, {"crop_fraction": 0.7}, {"resize": "graph-bicubic"}], ids=json.dumps
)
def test_a_bundle_that_resizes_in_the_graph_takes_frames_of_any_size(options, digits, tmp_path, small_graph) -> None:
    preparation = Preparation(**{"size": (28, 28), "mode": "grey", "resize": "graph", **options})
    bundle = make_bundle(
        tmp_path / "bundle",
        model=small_graph,
        preparation=preparation,
        fit=digits[:300],
        calibration=digits[800:900],
        detector={"kind": "knn"},
        rule={"rule": "percentile"},
        origin=Origin(name="x"),
        opset=20,
    )
    path = tmp_path / "model.onnx"
    compile_bundle(bundle, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    scorer, rng = Scorer.of(bundle, threads=1), np.random.default_rng(0)
    for size in ((28, 28), (64, 48), (25, 90)):
        frame = rng.integers(0, 256, (*size, 1), dtype=np.uint8)
        found = run(path, frame[None])
        np.testing.assert_allclose(found["score"], scorer.score([frame[..., 0]]).score, rtol=1e-6)
    np.testing.assert_allclose(Scorer.load(path).score([frame[..., 0]]).score, found["score"], rtol=1e-12)
    if preparation.crop is not None:
        with pytest.raises(Exception, match="Reshape"):
            run(path, np.zeros((1, 19, 40, 1), np.uint8))


def test_resizing_in_the_graph_is_measured_and_refused_where_it_moves_scores(
    made_bundle: Bundle, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    assert command("compile", made_bundle.path, "--resize", "graph", "--out", path)[0] == 0
    manifest = model_file.open_bundle(path).manifest
    assert manifest.preparation.resize == "graph"
    assert 0 <= manifest.provenance.metrics["resize_in_graph"]["largest_move_of_iqr"] <= 0.01
    assert run(path, np.zeros((2, 50, 61, 1), np.uint8))["score"].shape == (2,)
    assert command("verify", path)[0] == 0
    monkeypatch.setattr(one_file, "MOST_MOVED", -1.0)
    status, _, err = command("compile", made_bundle.path, "--resize", "graph", "--out", path)
    assert status == 2
    assert "fit anew with --data.prepare.resize graph" in err
