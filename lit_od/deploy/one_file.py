"""Compile a bundle into one ONNX file.

Backbone, detector and calibration become one graph. It takes prepared images and gives scores, p-values, verdicts and,
where the detector has them, maps, in any runtime of ONNX: all operators are those of ONNX' own domain. The file carries
the bundle's manifest and golden images as metadata.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lit_od.backbone.compiled import INPUT, OUTPUTS
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, GOLDEN, Bundle, golden_arrays
from lit_od.bundle.golden import golden_files
from lit_od.bundle.manifest import Manifest
from lit_od.bundle.model_file import (
    CALIBRATION,
    PIXELS,
    THRESHOLD,
    bundle_of,
    encoded_golden,
    entries,
    metadata,
    model_differences,
)
from lit_od.bundle.plain_files import require_outside
from lit_od.deploy.onnx_forms.maps import over_patches
from lit_od.deploy.onnx_forms.preparing import prepared
from lit_od.deploy.onnx_forms.rows import add_form
from lit_od.detectors.base import PixelDetector
from lit_od.detectors.patch_maps import PatchDetector
from lit_od.errors import ConfigError, DataError
from lit_od.formats import onnx_writer
from lit_od.formats import safetensors_file as safetensors
from lit_od.formats.atomic import atomic_file
from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.formats.onnx_cut import cut, header_of, tensor_names
from lit_od.formats.onnx_file import MAX_BYTES
from lit_od.formats.onnx_parts import take_apart, versions_of
from lit_od.images.preparation import open_image, prepare

OPSETS = range(18, 21)
"""Operator sets of model files."""

IR_VERSION = 10
"""Newest file format of model files: that which ONNX Runtime 1.20 reads."""

MOST_MOVED = 0.01
"""Largest move of a golden image's score by resizing in the graph, in interquartile ranges of calibration scores."""

PREFIX = "lit_od."
"""Names of the tensors that are added to a backbone begin so."""

RESERVED = frozenset((*OUTPUTS, THRESHOLD, PIXELS, CALIBRATION))
"""Names of the other tensors that are added."""


def compile_bundle(bundle: Bundle, out: Path, *, resize: bool = False) -> bytes:
    """Write a bundle as one ONNX file, once it is proven to score as the bundle does.

    Args:
        bundle: The bundle.
        out: The file; one that is there is replaced.
        resize: Resize in the graph though the bundle's images are resized by Pillow; the difference of scores is
            measured on the golden images and kept in the manifest's metrics.

    Returns:
        The file's bytes.

    Raises:
        BackboneError: If ONNX Runtime cannot run the graph.
        ConfigError: If the bundle cannot be one graph, or the file cannot be written.
        DataError: If the graph does not score the golden images as the bundle does, or resizing in the graph moves
            a score by more than `MOST_MOVED`.
    """
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"the model file cannot be {out}: wanted a file in a folder that exists")
    require_outside(out)
    if bundle.manifest.preparation.has_tiles:
        _require_tiles(bundle, resize=resize)
    if resize and not bundle.manifest.preparation.resizes_in_graph:
        bundle = _resized_in_graph(bundle)
    data = model_file(bundle)
    _require_same(data, bundle, out)
    try:
        with atomic_file(out) as file:
            file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write the model file {out}: {error.strerror or error}") from error
    return data


def _require_tiles(bundle: Bundle, *, resize: bool) -> None:
    """Raise ConfigError unless the tiles of a bundle can be scored by one graph."""
    if resize:
        raise ConfigError("the file takes tiles, which nothing resizes: leave --resize out")
    if bundle.manifest.preparation.region is not None:
        raise ConfigError(
            "a region of interest differs from tile to tile, and one graph knows one: score by the bundle"
        )


def model_file(bundle: Bundle) -> bytes:
    """Return the bytes of a bundle's model file, unproven.

    Raises:
        ConfigError: If the bundle cannot be one graph.
    """
    backbone, manifest = bundle.files[BACKBONE], bundle.manifest
    _require_portable(backbone)
    part = cut(backbone, [manifest.model.output])
    graph = GraphBuilder(PREFIX)
    first, image = _image(manifest)
    outputs = graph.cast(manifest.model.output, np.float32)
    maps = None
    if isinstance(bundle.detector, PatchDetector):
        scores, maps = over_patches(graph, bundle.detector, outputs)
    elif isinstance(bundle.detector, PixelDetector):
        scores, maps = add_form(graph, bundle.detector, outputs)
    else:
        scores = add_form(graph, bundle.detector, outputs)
    ports = _verdicts(graph, bundle, scores, maps)
    nodes = [*first.nodes, *part.nodes, *graph.nodes]
    tensors = [*first.initializers, *part.initializers, *graph.initializers]
    header = header_of(backbone, ir_version=min(IR_VERSION, versions_of(backbone).ir))
    parts = take_apart(onnx_writer.model(nodes, [image], ports, initializers=tensors, header=header))
    data = parts.encoded(metadata(manifest, encoded_golden(golden_arrays(bundle)), entries(parts), bundle.calibration))
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"the model file would have {len(data):,} bytes, and ONNX holds {MAX_BYTES:,}: take a smaller coreset or "
            "precision fp16"
        )
    return data


def _image(manifest: Manifest) -> tuple[GraphBuilder, bytes]:
    """Return the nodes from the file's input to the backbone's, and the input's port."""
    graph, preparation, taken = GraphBuilder(f"{PREFIX}image."), manifest.preparation, manifest.model.input
    if not preparation.resizes_in_graph:
        if preparation.region is not None:
            raise ConfigError("a region of interest is laid on frames before they are resized: give --resize graph")
        if taken != INPUT:
            graph.op("Identity", INPUT, to=taken)
        return graph, onnx_writer.port(INPUT, np.uint8, ("n", *preparation.shape))
    if taken == INPUT:
        raise ConfigError(f"the backbone's own input is named {INPUT}: name it otherwise to resize before it")
    prepared(graph, preparation, INPUT, to=taken)
    return graph, onnx_writer.port(INPUT, np.uint8, ("n", "h", "w", preparation.channels))


def _resized_in_graph(bundle: Bundle) -> Bundle:
    """Return the bundle resizing in the graph, its golden images made anew.

    Raises:
        DataError: If a golden image's score moves by more than `MOST_MOVED`.
    """
    manifest, golden = bundle.manifest, golden_arrays(bundle)
    way: Any = "graph-bicubic" if manifest.preparation.resize == "bicubic" else "graph"
    preparation = msgspec.structs.replace(manifest.preparation, resize=way)
    pixels = np.stack([prepare(open_image(file), preparation) for file in golden_files(golden)])
    outputs = Backbone.load(bundle.files[BACKBONE], providers=["cpu"])(pixels)
    scores = bundle.detector.score(outputs)
    low, high = np.percentile(bundle.calibration.scores, (25, 75))
    moved = float(np.abs(scores - golden["scores"]).max() / max(high - low, np.finfo(float).tiny))
    if not moved <= MOST_MOVED:
        raise DataError(
            f"resizing in the graph moves a golden image's score by {moved:.2%} of the calibration scores' "
            f"interquartile range, allowed {MOST_MOVED:.0%}: fit anew with --data.prepare.resize {way}"
        )
    metrics = {**manifest.provenance.metrics, "resize_in_graph": {"largest_move_of_iqr": moved}}
    provenance = msgspec.structs.replace(manifest.provenance, metrics=metrics)
    changed = {**golden, "pixels": pixels, "outputs": outputs, "scores": scores}
    return replace(
        bundle,
        manifest=msgspec.structs.replace(manifest, preparation=preparation, provenance=provenance),
        files={**bundle.files, GOLDEN: safetensors.save(changed)},
    )


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
    for name in (*tensor_names(model), *take_apart(model).initializers):
        if name.startswith(PREFIX) or name in RESERVED:
            raise ConfigError(
                f"the backbone has a tensor named {name}, as a model file's own are: rename it and fit anew"
            )


def _require_same(data: bytes, bundle: Bundle, out: Path) -> None:
    """Raise DataError unless the graph gives the golden images the bundle's verdicts."""
    if found := model_differences(bundle_of(out, data, take_apart(data)), providers=["cpu"]):
        raise DataError(f"the model file does not score as the bundle does: {found[0]}")
