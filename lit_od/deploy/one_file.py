"""Compile a bundle into one ONNX file.

Backbone, detector and calibration become one graph. It takes prepared images and gives scores, p-values, verdicts and,
where the detector has them, maps, in any runtime of ONNX: all operators are those of ONNX' own domain. The file carries
the bundle's manifest and golden images as metadata.
"""

from pathlib import Path

import numpy as np

from lit_od.backbone.compiled import INPUT, CompiledGraph
from lit_od.bundle.folder import BACKBONE, Bundle, golden_arrays
from lit_od.bundle.model_file import (
    CALIBRATION,
    PIXELS,
    THRESHOLD,
    encoded_golden,
    entries,
    metadata,
    verdict_difference,
)
from lit_od.deploy.onnx_forms.maps import over_patches
from lit_od.deploy.onnx_forms.rows import add_form
from lit_od.detectors.base import PixelDetector
from lit_od.detectors.patch_maps import PatchDetector
from lit_od.errors import ConfigError, DataError
from lit_od.formats import onnx_writer
from lit_od.formats.atomic import atomic_file
from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.formats.onnx_cut import cut, header_of, tensor_names
from lit_od.formats.onnx_file import MAX_BYTES
from lit_od.formats.onnx_parts import take_apart, versions_of

OPSETS = range(18, 21)
"""Operator sets of model files."""

IR_VERSION = 10
"""Newest file format of model files: that which ONNX Runtime 1.20 reads."""

PREFIX = "lit_od."
"""Names of the tensors that are added to a backbone begin so."""


def compile_bundle(bundle: Bundle, out: Path) -> bytes:
    """Write a bundle as one ONNX file, once it is proven to score as the bundle does.

    Args:
        bundle: The bundle.
        out: The file; one that is there is replaced.

    Returns:
        The file's bytes.

    Raises:
        BackboneError: If ONNX Runtime cannot run the graph.
        ConfigError: If the bundle cannot be one graph, or the file cannot be written.
        DataError: If the graph does not score the golden images as the bundle does.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"the model file cannot be {out}: wanted a file in a folder that exists")
    data = model_file(bundle)
    _require_same(data, bundle)
    try:
        with atomic_file(out) as file:
            file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write the model file {out}: {error.strerror or error}") from error
    return data


def model_file(bundle: Bundle) -> bytes:
    """Return the bytes of a bundle's model file, unproven.

    Raises:
        ConfigError: If the bundle cannot be one graph.
    """
    backbone, manifest = bundle.files[BACKBONE], bundle.manifest
    _require_portable(backbone)
    part = cut(backbone, [manifest.model.output])
    graph = GraphBuilder(PREFIX)
    taken = manifest.model.input
    first = [] if taken == INPUT else [onnx_writer.node("Identity", [INPUT], [taken])]
    outputs = graph.cast(manifest.model.output, np.float32)
    maps = None
    if isinstance(bundle.detector, PatchDetector):
        scores, maps = over_patches(graph, bundle.detector, outputs)
    elif isinstance(bundle.detector, PixelDetector):
        scores, maps = add_form(graph, bundle.detector, outputs)
    else:
        scores = add_form(graph, bundle.detector, outputs)
    ports = _verdicts(graph, bundle, scores, maps)
    nodes, tensors = [*first, *part.nodes, *graph.nodes], [*part.initializers, *graph.initializers]
    image = onnx_writer.port(INPUT, np.uint8, ("n", *manifest.preparation.shape))
    header = header_of(backbone, ir_version=min(IR_VERSION, versions_of(backbone).ir))
    parts = take_apart(onnx_writer.model(nodes, [image], ports, initializers=tensors, header=header))
    data = parts.encoded(metadata(manifest, encoded_golden(golden_arrays(bundle)), entries(parts)))
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"the model file would have {len(data):,} bytes, and ONNX holds {MAX_BYTES:,}: take a smaller coreset or "
            "precision fp16"
        )
    return data


def _verdicts(graph: GraphBuilder, bundle: Bundle, scores: str, maps: str | None) -> list[bytes]:
    """Add p-values and verdicts, and return the ports of all outputs."""
    calibration = bundle.calibration
    graph.op("Identity", scores, to="score")
    bag = graph.constant(calibration.scores, to=CALIBRATION)
    at_least = graph.op("GreaterOrEqual", bag, graph.op("Unsqueeze", "score", graph.integers(1)))  # (n, m)
    count = graph.sum(graph.cast(at_least, np.float64), 1)
    one = graph.constant(1.0)
    graph.op("Div", graph.op("Add", count, one), graph.constant(1.0 + calibration.scores.size), to="p_value")
    threshold = graph.constant(calibration.threshold, to=THRESHOLD)
    graph.op("Not", graph.op("LessOrEqual", "score", threshold), to="is_outlier")  # True for what is not finite
    ports = [
        onnx_writer.port("score", np.float64, ("n",)),
        onnx_writer.port("p_value", np.float64, ("n",)),
        onnx_writer.port("is_outlier", np.bool_, ("n",)),
    ]
    if maps is not None and bundle.manifest.calibration.pixel_threshold is not None:
        graph.constant(bundle.manifest.calibration.pixel_threshold, to=PIXELS)
        graph.op("Identity", maps, to="map")
        ports.append(onnx_writer.port("map", np.float32, ("n", *bundle.manifest.preparation.size)))
    return ports


def _require_portable(model: bytes) -> None:
    """Raise ConfigError for a backbone whose operators other runtimes lack."""
    versions = versions_of(model)
    if versions.opset not in OPSETS:
        raise ConfigError(
            f"a model file has opset {OPSETS[0]} to {OPSETS[-1]}, the backbone has {versions.opset or 'none'}: "
            f"export it anew with --export.opset {OPSETS[-1]}"
        )
    if versions.foreign:
        raise ConfigError(
            f"the backbone has operators of {', '.join(versions.foreign)}, which other runtimes lack: export it with "
            "ONNX' own operators"
        )
    if any(name.startswith(PREFIX) for name in tensor_names(model)):
        raise ConfigError(f"the bundle's backbone has tensors whose names begin with {PREFIX}: rename them")


def _require_same(data: bytes, bundle: Bundle) -> None:
    """Raise DataError unless the graph gives the golden images the bundle's verdicts."""
    golden = golden_arrays(bundle)
    found = CompiledGraph.load(data, providers=["cpu"]).verdicts(golden["pixels"])
    if difference := verdict_difference(golden["scores"], found, bundle.calibration):
        raise DataError(f"the model file does not score as the bundle does: {difference}")
