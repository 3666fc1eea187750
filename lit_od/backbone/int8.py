"""A backbone in int8: static quantisation by ONNX Runtime.

Its algorithms need the package `onnx`, which is imported when it is used.
Weights are quantised per channel and symmetrically, activations per tensor, as uint8, by fixed ranges (QDQ form):
what an image's features are does not depend on the images beside it.

References:
    Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference.
    Migacz 2017, 8-bit Inference with TensorRT: ranges by entropy.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from lit_od.backbone.patches import AVERAGES
from lit_od.errors import BackboneError, first_line
from lit_od.runtime.onnx_session import fold_constants, onnx_quantization
from lit_od.types import Images, WeightBits

Method: TypeAlias = Literal["min-max", "entropy", "percentile"]

METHODS: dict[Method, tuple[str, dict[str, Any]]] = {
    "min-max": ("MinMax", {}),
    "entropy": ("Entropy", {}),
    "percentile": ("Percentile", {"percentile": 99.99}),
}
"""Names of the calibration methods in ONNX Runtime, and their options."""

OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
"""Operators that run in int8; scaling, normalisation and the end of the graph stay in float."""

_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")

LEAST_OPSET = 13
"""First opset whose QuantizeLinear works per channel."""

CALIBRATION_BATCH = 8
"""Images whose activations are in memory at once while ranges are found."""


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """A float graph that can be quantised.

    Attributes:
        model: The graph, constants folded, an onnx.ModelProto.
        layers: Names of its nodes with weights, in their order.
        averages: Names of the nodes that bring layers to one grid of patches, which stay in float: they cost little.
        input: Name of its input.
    """

    model: Any
    layers: tuple[str, ...]
    averages: tuple[str, ...]
    input: str

    @classmethod
    def read(cls, model: bytes) -> Self:
        """Read a graph.

        Raises:
            BackboneError: If the graph cannot be loaded, its opset is too old, or no layer of it can be quantised.
            MissingExtra: If onnx is not installed.
        """
        onnx_quantization()
        import onnx

        read = onnx.load_from_string(fold_constants(model))
        used = {node.domain for node in read.graph.node}
        opsets = [each for each in read.opset_import if each.domain in used]
        del read.opset_import[:]
        read.opset_import.extend(opsets)
        opset = next((each.version for each in opsets if each.domain in ("", "ai.onnx")), 0)
        if opset < LEAST_OPSET:
            raise BackboneError(f"int8 wants a graph of opset {LEAST_OPSET} or later, got {opset}: export it anew")
        for number, node in enumerate(read.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"
        constants = {each.name for each in read.graph.initializer}
        averages = tuple(node.name for node in read.graph.node if node.output[0].startswith(AVERAGES))
        layers = tuple(
            node.name
            for node in read.graph.node
            if node.op_type in _WITH_WEIGHTS and node.input[1] in constants and node.name not in averages
        )
        if not layers:
            raise BackboneError(f"the graph has no layer to quantise: wanted {', '.join(_WITH_WEIGHTS)} with weights")
        return cls(read, layers, averages, read.graph.input[0].name)

    def ranges(self, images: Images, method: Method) -> Any:
        """Find the ranges of the activations.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            method: The calibration method.

        Returns:
            The ranges, as `quantised` takes them.
        """
        tools = onnx_quantization()
        kind, options = METHODS[method]
        with self._files(self.model) as (file,), _quietly(f"ranges by {method}"):
            calibrator = tools.create_calibrator(
                Path(file),
                list(OPERATORS),
                augmented_model_path=f"{file}.augmented",
                calibrate_method=getattr(tools.CalibrationMethod, kind),
                extra_options=options,
            )
            for start in range(0, len(images), CALIBRATION_BATCH):
                calibrator.collect_data(_Reader(self.input, [images[start : start + CALIBRATION_BATCH]]))
            return calibrator.compute_data()

    def quantised(self, ranges: Any, *, weight_bits: WeightBits = 7, kept: Sequence[str] = ()) -> bytes:
        """Return the graph in int8.

        Args:
            ranges: Ranges of the activations.
            weight_bits: 7 gives the same sums on every processor; 8 needs VNNI, or is slower.
            kept: Names of layers that stay in float.

        Raises:
            BackboneError: If ONNX Runtime cannot quantise the graph.
        """
        import onnx

        tools = onnx_quantization()
        model = onnx.ModelProto()
        model.CopyFrom(self.model)  # the quantiser works in place
        with _quietly("quantisation"):
            quantiser = tools.QDQQuantizer(
                model,
                True,  # per channel
                weight_bits == 7,  # reduce_range
                tools.QuantType.QInt8,
                tools.QuantType.QUInt8,
                ranges,
                [],  # all nodes
                [*kept, *self.averages],
                list(OPERATORS),
                {},
            )
            quantiser.quantize_model()
            data: bytes = quantiser.model.model.SerializeToString()
            return data

    def named(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Return nodes by the names of their weights."""
        weights = {node.name: node.input[1].removesuffix(".weight") for node in self.model.graph.node if node.input[1:]}
        return tuple(weights[node] for node in nodes)

    def layer_errors(self, int8: bytes, images: Images) -> dict[str, float]:
        """Compare the activations of the int8 graph to the float graph's, layer by layer.

        Args:
            int8: This graph in int8.
            images: A few prepared images, (n, h, w, c) uint8: all activations are in memory at once.

        Returns:
            Root mean square of the difference over that of the float activation, by the name of the layer's weights,
            or of a node without, in the order of the graph.
        """
        import onnx

        debug = onnx_quantization().qdq_loss_debug
        with self._files(self.model, onnx.load_from_string(int8)) as files, _quietly("comparison of layers"):
            found = []
            for file in files:
                debug.modify_model_output_intermediate_tensors(file, f"{file}.augmented")
                reader = _Reader(self.input, [image[None] for image in images])
                found.append(debug.collect_activations(f"{file}.augmented", reader))
            errors = debug.compute_activation_error(debug.create_activation_matching(found[1], found[0]), _relative_rms)
        names = self._layer_names()
        return {
            name: errors[tensor]["xmodel_err"]
            for tensor, name in names.items()
            if "xmodel_err" in errors.get(tensor, {})
        }

    def _layer_names(self) -> dict[str, str]:
        """Map activations, in the order of the graph, to the names of their layers."""
        names: dict[str, str] = {}
        for node in self.model.graph.node:
            weighted = node.name in self.layers
            follows = node.op_type in ("Clip", "Relu") and names.get(node.input[0])
            name = self.named([node.name])[0] if weighted else follows or node.name
            names.update(dict.fromkeys(node.output, name))
        return names

    @staticmethod
    @contextlib.contextmanager
    def _files(*models: Any) -> Iterator[list[str]]:
        """Write graphs to files, which some of the algorithms read."""
        import onnx

        with tempfile.TemporaryDirectory(prefix="lit_od-int8-") as folder:
            files = [str(Path(folder) / f"{number}.onnx") for number in range(len(models))]
            for model, file in zip(models, files, strict=True):
                onnx.save_model(model, file)
            yield files


class _Reader:
    """Batches for ONNX Runtime's algorithms, which ask for one after another."""

    def __init__(self, name: str, batches: Sequence[Images]) -> None:
        self._batches = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, Images] | None:
        """Return the next batch; None after the last."""
        return next(self._batches, None)

    def __iter__(self) -> Iterator[dict[str, Images]]:
        return self._batches


def _relative_rms(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    a = np.concatenate([each.ravel() for each in wanted]).astype(np.float64)
    b = np.concatenate([each.ravel() for each in got]).astype(np.float64)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-30))


@contextlib.contextmanager
def _quietly(task: str) -> Iterator[None]:
    """Keep the algorithms' own lines back, and turn their errors into one of ours."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise BackboneError(f"the graph cannot be brought to int8: {task}: {first_line(error)}") from error
