"""The graph, the detector and the golden images against the manifest, whose hashes are right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from lit_od.bundle.folder import BACKBONE, DETECTOR, GOLDEN, MAPS, Bundle, golden_arrays
from lit_od.errors import BundleError
from tests.support.commands import Outcome

Seal = Callable[..., None]


def with_graph(folder: Path, seal: Seal, change: Callable[[onnx.ModelProto], Any], name: str = BACKBONE) -> None:
    made = onnx.load_model(folder / BACKBONE)
    change(made)
    (folder / name).write_bytes(made.SerializeToString())
    seal(folder, lambda tree: tree["files"].setdefault(name, {}))
    seal(folder)  # with the hash of a file that has only just been named


def refused(folder: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.read(folder)
    assert str(caught.value).isprintable()


def dimension(made: onnx.ModelProto, side: str, number: int) -> Any:
    return getattr(made.graph, side)[0].type.tensor_type.shape.dim[number]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: setattr(made.graph.input[0], "name", "pictures"), "has the input 'pictures', .* says 'images'"),
        (lambda made: setattr(made.graph.input[0], "name", "a\nb"), r"has the input 'a\\nb'"),
        (lambda made: setattr(made.graph.output[0], "name", "errors"), "has the output 'errors', .* says 'features'"),
        (
            lambda made: made.graph.input.append(made.graph.input[0]),
            "must have one input, 'images', got images, images",
        ),
        (lambda made: made.graph.ClearField("output"), "must have one output, 'features', got none"),
        (
            lambda made: setattr(dimension(made, "input", 1), "dim_value", 29),
            r"has the input shape \(n, 29, 28, 1\), its manifest says \(n, 28, 28, 1\)",
        ),
        (lambda made: setattr(dimension(made, "input", 3), "dim_value", 3), r"input shape \(n, 28, 28, 3\)"),
        (lambda made: setattr(dimension(made, "input", 0), "dim_value", 1), r"input shape \(1, 28, 28, 1\)"),
        (lambda made: setattr(dimension(made, "output", 1), "dim_value", 17), r"output shape \(n, 17\), .* \(n, 16\)"),
        (lambda made: made.graph.input[0].type.tensor_type.ClearField("shape"), r"input shape \(unknown\)"),
        (lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", 1), "input 'images' must be uint8"),
        (
            lambda made: setattr(made.graph.output[0].type.tensor_type, "elem_type", 7),
            "output 'features' must be floating point, got ONNX' element type 7",
        ),
        (lambda made: setattr(made.opset_import[0], "version", 19), "is of opset 19, its manifest says 20"),
        (lambda made: made.ClearField("opset_import"), "is of opset none, its manifest says 20"),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(
    own_bundle: Path, seal: Seal, change: Callable[[onnx.ModelProto], Any], message: str
) -> None:
    with_graph(own_bundle, seal, change)
    refused(own_bundle, rf"^{BACKBONE}.*{message}")


def test_sides_that_the_graph_leaves_free_are_the_manifests(own_bundle: Path, seal: Seal) -> None:
    def free(made: onnx.ModelProto) -> None:
        for number in (1, 2):
            dimension(made, "input", number).Clear()
        made.graph.output[0].type.tensor_type.ClearField("shape")

    with_graph(own_bundle, seal, free)
    seal(own_bundle, lambda tree: tree["model"].update(opset=None))
    assert Bundle.read(own_bundle).manifest.preparation.size == (28, 28)


@pytest.mark.parametrize("name", [BACKBONE, MAPS])
def test_graphs_must_keep_their_data_to_themselves(own_bundle: Path, seal: Seal, name: str) -> None:
    def outside(made: onnx.ModelProto) -> None:
        tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        branch = helper.make_graph([], "below", [], [], [tensor])
        made.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))

    with_graph(own_bundle, seal, outside, name)
    refused(own_bundle, f"^{name}: tensor 'w' of the ONNX file keeps its data in another file")


def test_a_refusal_is_one_line_and_status_2(
    own_bundle: Path, seal: Seal, digit_files: Path, command: Callable[..., Outcome]
) -> None:
    weights = numpy_helper.from_array(np.zeros(3, np.float32), "w\n\x1b[31m")
    weights.dims[:] = [2**62]
    with_graph(own_bundle, seal, lambda made: made.graph.initializer.append(weights))
    came = command("score", own_bundle, digit_files)
    assert came.status == 2
    assert came.out == ""
    assert came.err == (
        "lit-od: backbone.onnx: tensor 'w\\n\\x1b[31m' of the ONNX file is larger than the file: "
        "[4611686018427387904]\n"
    )


# The manifest's own words


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.input_shape", [None, 28, 28], r"model.input_shape|input_shape must be \[null, h, w, c\]"),
        ("model.input_shape", [1, 28, 28, 1], r"input_shape must be \[null, h, w, c\] with sides in 1\.\.16384"),
        ("model.input_shape", [None, 0, 28, 1], r"got \[null, 0, 28, 1\] - at `\$\.model`"),
        ("model.input_shape", [None, -28, 28, 1], r"got \[null, -28, 28, 1\]"),
        ("model.input_shape", [None, 10**9, 28, 1], r"got \[null, 1000000000, 28, 1\]"),
        ("model.input_shape", [None] * 1000, r"got \[null, null, null, null, null, null, null, null, \"...\"\]"),
        ("model.input_shape", [None, 16_384, 16_384, 3], "must hold at most 89,478,485 pixels of 3 channels"),
        ("model.input_shape", [None, 28, 28, 3], r"must be \[null, 28, 28, 1\], as the images are prepared"),
        ("preparation.size", [27, 28], r"must be \[null, 27, 28, 1\], as the images are prepared, got \[null, 28"),
        ("model.output_shape", [None, 2**25], r"output_shape must be \[null, d\] with d in 1\.\.16777216"),
        ("model.output_shape", [None, None], r"output_shape must be \[null, d\]"),
        ("model.output_shape", [None, 2, 2, 1], r"output_shape must be \[null, d\]"),
        ("model.output", "patches", r"output_shape must be \[null, gh, gw, d\] of 1\.\.16777216 values, as patches"),
        ("model.output", "errors", r"output_shape must be \[null, h, w, c\]"),
        ("model.input", "", r"Expected `str` of length >= 1 - at `\$\.model\.input`"),
        ("model.opset", 0, r"Expected `int` >= 1 - at `\$\.model\.opset`"),
        ("model.opset", 10**6, r"Expected `int` <= 1000"),
        ("tolerance.pixels", -1, r"Expected `int` >= 0 - at `\$\.tolerance\.pixels`"),
        ("tolerance.pixels", 256, r"Expected `int` <= 255"),
        ("tolerance.outputs", -1e-9, r"Expected `float` >= 0.0 - at `\$\.tolerance\.outputs`"),
        ("tolerance.scores", 1.5, r"Expected `float` <= 1.0 - at `\$\.tolerance\.scores`"),
        ("detector.images", -1, r"Expected `int` >= 0 - at `\$\.detector\.images`"),
        ("calibration.images", -1, r"Expected `int` >= 0 - at `\$\.calibration\.images`"),
        ("detector.kind", "k" * 257, r"Expected `str` of length <= 256"),
        ("calibration.threshold", None, r"Expected `float`, got `null`"),
        ("provenance.data", {"a": [[[]]] * 3}, None),
    ],
)
def test_the_manifest_stays_within_its_bounds(
    own_bundle: Path, seal: Seal, path: str, value: object, message: str | None
) -> None:
    part, key = path.split(".")
    seal(own_bundle, lambda tree: tree[part].update({key: value}))
    if message is None:
        Bundle.read(own_bundle)
    else:
        refused(own_bundle, rf"^manifest\.json: .*{message}")


def test_the_detector_must_read_what_the_graph_gives(own_bundle: Path, seal: Seal) -> None:
    def change(made: onnx.ModelProto) -> None:
        dimension(made, "output", 1).Clear()

    with_graph(own_bundle, seal, change)
    seal(own_bundle, lambda tree: tree["model"].update(output_shape=[None, 17]))
    golden = safetensors.numpy.load((own_bundle / GOLDEN).read_bytes())
    golden["outputs"] = np.zeros((7, 17), np.float32)
    (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save(golden))
    seal(own_bundle)
    refused(
        own_bundle,
        rf"^{DETECTOR}: mahalanobis reads features of shape \(n, 16\), the backbone gives \(n, 17\)$",
    )


# Golden images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": None}, "lacks the array 'pixels'"),
        ({"file.3": None, "other": np.zeros(1, np.uint8)}, r"lacks the array 'file\.3'"),
        ({"more": np.zeros(1)}, r"lacks the array 'file\.7'"),
        ({"file.7": np.zeros(1, np.uint8)}, r"'pixels' must be U8 \(8, 28, 28, 1\), got U8 \(7, 28, 28, 1\)"),
        ({"pixels": np.zeros((7, 28, 28, 3), np.uint8)}, r"must be U8 \(7, 28, 28, 1\), got U8 \(7, 28, 28, 3\)"),
        ({"pixels": np.zeros((7, 28, 28, 1))}, r"must be U8 \(7, 28, 28, 1\), got F64"),
        (
            {"outputs": np.zeros((7, 15), np.float32)},
            r"'outputs' must be F16 or F32 or F64 \(7, 16\), got F32 \(7, 15\)",
        ),
        ({"outputs": np.zeros((7, 16), np.int64)}, "'outputs' must be F16 or F32 or F64"),
        ({"scores": np.zeros((7, 1))}, r"'scores' must be F64 \(7\), got F64 \(7, 1\)"),
        ({"file.0": np.zeros((2, 2), np.uint8)}, r"'file\.0' must be U8 \(n\), got U8 \(2, 2\)"),
        ({"file.0": np.zeros(2)}, r"'file\.0' must be U8 \(n\), got F64 \(2\)"),
    ],
)
def test_golden_images_must_fit_the_manifest(
    own_bundle: Path, seal: Seal, changes: dict[str, np.ndarray | None], message: str
) -> None:
    golden = safetensors.numpy.load((own_bundle / GOLDEN).read_bytes())
    golden.update({name: array for name, array in changes.items() if array is not None})
    kept = {name: array for name, array in golden.items() if changes.get(name, array) is not None}
    (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save(kept))
    seal(own_bundle)
    refused(own_bundle, rf"^{GOLDEN}:? .*{message}")


@pytest.mark.parametrize("name", ["outputs", "scores"])
def test_golden_values_must_be_finite(own_bundle: Path, seal: Seal, name: str) -> None:
    golden = {key: array.copy() for key, array in safetensors.numpy.load((own_bundle / GOLDEN).read_bytes()).items()}
    golden[name].flat[3] = np.nan
    (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save(golden))
    seal(own_bundle)
    read = Bundle.read(own_bundle)
    with pytest.raises(BundleError, match=f"^{GOLDEN}: array '{name}' must be finite, but it holds NaN or infinity$"):
        golden_arrays(read)


def test_golden_images_must_be_some_and_not_too_many(own_bundle: Path, seal: Seal) -> None:
    golden = safetensors.numpy.load((own_bundle / GOLDEN).read_bytes())
    none = {name: golden[name] for name in ("pixels", "outputs", "scores")}
    many = golden | {f"file.{row}": golden["file.0"] for row in range(257)}
    for arrays, message in (
        ({}, r"^golden\.safetensors lacks the array 'pixels'$"),
        ({"pixels": golden["pixels"]}, r"^golden\.safetensors lacks the array 'outputs'$"),
        (none, r"^golden\.safetensors lacks the array 'file\.0'$"),
        (many, r"^golden\.safetensors must hold at most 256 images, got 257$"),
    ):
        (own_bundle / GOLDEN).write_bytes(safetensors.numpy.save(arrays))
        seal(own_bundle)
        refused(own_bundle, message)
