"""Read and change model files: bundles that are compiled into one ONNX file.

The file's metadata hold the bundle's manifest, which lists the nodes and each tensor in place of files, and the golden
images. Threshold and calibration scores are read from the tensors of these names, which any tool may change.
"""

import base64
import binascii
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.compiled import OUTPUTS, CompiledGraph
from lit_od.backbone.model import Backbone
from lit_od.bundle import manifest as manifests
from lit_od.bundle.detector_state import ascending, with_folds
from lit_od.bundle.folder import BACKBONE, GOLDEN, Bundle, golden_arrays
from lit_od.bundle.golden import golden_files, pixel_differences, relative_difference
from lit_od.bundle.manifest import FileEntry, Manifest
from lit_od.bundle.validate import check_golden, check_mask, check_model
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import check_rule
from lit_od.detectors.compiled import CompiledMaps, CompiledScores
from lit_od.errors import BackboneError, BundleError, ConfigError, DataError, LitODError
from lit_od.formats import onnx_writer
from lit_od.formats import safetensors_file as safetensors
from lit_od.formats.atomic import atomic_file
from lit_od.formats.onnx_cut import cut, tensor_names
from lit_od.formats.onnx_file import read_graph
from lit_od.formats.onnx_parts import Parts, take_apart
from lit_od.formats.text import one_line
from lit_od.images.preparation import frame, open_image
from lit_od.types import Arrays

MODEL = "model.onnx"
"""Key of the file among the files of a bundle that was read from it."""

METADATA, GOLDEN_METADATA, MASK_METADATA = "lit_od", "lit_od_golden", "lit_od_mask"
"""Keys of the manifest, of the golden images and of the mask in the file's metadata."""

CALIBRATION_METADATA = "lit_od_calibration"
"""Key of the calibration scores in the metadata of a file for tiles, whose verdict on an image is its reader's."""

TOLERANCE = 1e-5
"""Largest difference of scores between a model file and its bundle: max |a - b| / max |a| over the golden images."""

NODES = "nodes"
"""Name of all nodes together among the manifest's files."""

THRESHOLD, PIXELS, CALIBRATION = "threshold", "pixel_threshold", "calibration"
"""Names of the tensors that decide, float64."""


def open_bundle(path: str | Path, *, trust: Collection[str] = (), whole: bool = False) -> Bundle:
    """Read a bundle from its folder, or from the model file that it became.

    Args:
        path: The folder or the file.
        trust: Import paths of detectors that may be followed; importing a module runs its code.
        whole: As `Bundle.read` takes it.

    Raises:
        BundleError: If it is neither, or anything in it is missing, changed or invalid.
    """
    return read_model(Path(path)) if Path(path).is_file() else Bundle.read(path, trust=trust, whole=whole)


def open_graph(bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None) -> Backbone:
    """Open the graph of a bundle or of a model file.

    Args:
        bundle: The bundle.
        threads: As `Backbone.load`.
        providers: As `Backbone.load`.

    Raises:
        BackboneError: If the graph cannot be loaded.
        ConfigError: If a provider is absent.
    """
    if MODEL in bundle.files:
        return CompiledGraph.load(_behind_resizing(bundle), threads=threads, providers=providers)
    return Backbone.load(bundle.files[BACKBONE], threads=threads, providers=providers)


def read_model(path: Path) -> Bundle:
    """Read a model file as a bundle of two files: model and golden images.

    Raises:
        BundleError: If it is no ONNX file, or none that lit_od compiled.
    """
    try:
        data = path.read_bytes()
        parts = take_apart(data)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from None
    except BackboneError as error:
        raise BundleError(f"{path}: {error}") from None
    return bundle_of(path, data, parts)


def bundle_of(path: Path, data: bytes, parts: Parts) -> Bundle:
    """Make a bundle of a model file.

    Args:
        path: Its place, which is only noted.
        data: Its bytes.
        parts: Its parts.

    Raises:
        BundleError: If the file is none that lit_od compiled.
    """
    manifest, golden = _manifest(path, parts), _golden(path, parts)
    try:
        scores = ascending(parts.doubles(CALIBRATION), CALIBRATION, manifest)
        threshold = _double(parts, THRESHOLD)
        pixels = _double(parts, PIXELS) if PIXELS in parts.initializers else None
        rule = check_rule(manifest.calibration.rule)
        check_model(read_graph(data), manifest, maps=pixels is not None)
        check_golden("golden set", golden, manifest, outputs=False)
    except LitODError as error:
        raise BundleError(f"{path}: {one_line(error)}. Compile the bundle anew") from None
    if threshold != manifest.calibration.threshold:  # another tool has moved it
        rule = {"rule": "value", "value": threshold}
    entry = msgspec.structs.replace(manifest.calibration, threshold=threshold, rule=rule, pixel_threshold=pixels)
    manifest = msgspec.structs.replace(manifest, calibration=entry)
    about = manifest.detector
    detector: CompiledScores = CompiledScores(about.kind, about.options)
    if pixels is not None:
        detector = CompiledMaps(about.kind, about.options, manifest.preparation.size)
    calibration = with_folds(Calibration(scores, rule, threshold), manifest, detector)
    return Bundle(path, manifest, detector, calibration, {MODEL: data, GOLDEN: golden})


def _behind_resizing(bundle: Bundle) -> bytes:
    """Return a model file's graph without its crop and its resizing."""
    data, model, preparation = bundle.files[MODEL], bundle.manifest.model, bundle.manifest.preparation
    if not preparation.resizes_in_graph:
        return data
    given = [name for name in OUTPUTS if name in tensor_names(data)]
    parts, last = take_apart(data), cut(data, given, known=(model.input,))
    image = onnx_writer.port(model.input, np.uint8, ("n", *preparation.shape))
    tensors = list(last.initializers)
    return onnx_writer.model(last.nodes, [image], parts.outputs, initializers=tensors, header=parts.header)


def changed_parts(bundle: Bundle) -> list[str]:
    """Return the parts of a model file that were changed since it was compiled.

    They are "nodes", or "initializer NAME"; a tensor that was added or taken out counts too.
    """
    found = entries(take_apart(bundle.files[MODEL]))
    wanted = bundle.manifest.files
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def entries(parts: Parts) -> dict[str, FileEntry]:
    """Return a model file's entries: the nodes together, and each tensor."""
    named = {f"initializer {name}": data for name, data in parts.initializers.items()}
    return {name: FileEntry.of(data) for name, data in {NODES: b"".join(parts.nodes), **named}.items()}


def metadata(
    manifest: Manifest, golden: bytes, parts: Mapping[str, FileEntry], calibration: Calibration
) -> dict[str, str]:
    """Return the metadata of a model file.

    Args:
        manifest: The bundle's manifest.
        golden: The golden images' arrays, encoded.
        parts: Entries of the file's parts, in place of the bundle's files.
        calibration: The calibration.
    """
    encoded = manifests.encode(msgspec.structs.replace(manifest, files=dict(parts)))
    text = json.dumps(json.loads(encoded), separators=(",", ":"))
    region = manifest.preparation.region
    mask = {} if region is None else {MASK_METADATA: base64.b64encode(region[0]).decode()}
    found = {METADATA: text, GOLDEN_METADATA: base64.b64encode(golden).decode(), **mask}
    if manifest.preparation.has_tiles:
        found[CALIBRATION_METADATA] = base64.b64encode(calibration.scores.astype("<f8").tobytes()).decode()
    return found


def with_threshold(bundle: Bundle, calibration: Calibration) -> Bundle:
    """Write a model file again with another threshold; the graph is untouched.

    Args:
        bundle: The model file's bundle.
        calibration: The new calibration, of the same scores.

    Raises:
        ConfigError: If the file cannot be written.
    """
    parts = take_apart(bundle.files[MODEL])
    tensors, entry = dict(parts.initializers), bundle.manifest.calibration
    values = {THRESHOLD: calibration.threshold}
    if isinstance(bundle.detector, CompiledMaps) and bundle.detector.score_is_peak:
        values[PIXELS] = calibration.threshold
    for name, value in values.items():
        tensors[name] = onnx_writer.tensor(name, np.array(value, np.float64))
    changed = Parts(parts.nodes, tensors, parts.inputs, parts.outputs, parts.header, parts.metadata)
    entry = msgspec.structs.replace(
        entry,
        threshold=calibration.threshold,
        rule=calibration.rule,
        pixel_threshold=values.get(PIXELS, entry.pixel_threshold),
    )
    manifest = msgspec.structs.replace(bundle.manifest, calibration=entry)
    whole = changed.encoded(metadata(manifest, bundle.files[GOLDEN], entries(changed), calibration))
    try:
        with atomic_file(bundle.path) as file:
            file.write_bytes(whole)
    except OSError as error:
        raise ConfigError(f"cannot write the model file {bundle.path}: {error.strerror or error}") from error
    return bundle_of(bundle.path, whole, take_apart(whole))


def model_differences(bundle: Bundle, *, providers: Sequence[str] | None = None) -> list[str]:
    """Decode, prepare and score a model file's golden images again.

    Where the graph resizes, it gets the decoded images, else the prepared ones.

    Args:
        bundle: The model file's bundle.
        providers: As `Backbone.load`.

    Returns:
        A line for each difference.

    Raises:
        BackboneError: If the graph cannot be loaded, or fails.
        ConfigError: If a provider is absent.
    """
    golden, preparation = golden_arrays(bundle), bundle.manifest.preparation
    graph = CompiledGraph.load(bundle.files[MODEL], providers=providers)
    if preparation.resizes_in_graph:
        frames = [frame(open_image(file), preparation)[None] for file in golden_files(golden)]
    else:
        frames = [golden["pixels"]]
    parts = [graph.verdicts(each) for each in frames]
    verdicts = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = pixel_differences(golden, preparation, bundle.manifest.tolerance)
    difference = verdict_difference(golden["scores"], verdicts, bundle.calibration)
    return found + ([difference] if difference else [])


def verdict_difference(wanted: NDArray[np.float64], found: Mapping[str, Any], calibration: Calibration) -> str | None:
    """Describe a difference of verdicts from those of wanted scores.

    None where they are within tolerance.

    Args:
        wanted: Scores of the golden images, (n,).
        found: A model file's outputs for them by name.
        calibration: Gives the wanted verdicts.
    """
    gap = relative_difference(wanted, found["score"])
    if not gap <= TOLERANCE:
        return f"golden scores differ by {gap:.3g} relative, allowed {TOLERANCE:g}"
    room = TOLERANCE * float(np.abs(wanted).max())
    sure = np.abs(wanted - calibration.threshold) > room
    if (np.asarray(found["is_outlier"]) != calibration.is_outlier(wanted))[sure].any():
        return "golden verdicts differ from those of the threshold"
    low, high = calibration.p_values(wanted + room), calibration.p_values(wanted - room)
    if ((found["p_value"] < low) | (found["p_value"] > high)).any():
        return "golden p-values differ from those of the calibration scores"
    return None


def _manifest(path: Path, parts: Parts) -> Manifest:
    if METADATA not in parts.metadata or GOLDEN_METADATA not in parts.metadata:
        raise BundleError(
            f"{path} is an ONNX file, but none that lit_od compiled: give a bundle or a file of lit-od compile"
        )
    text = parts.metadata[METADATA].encode()
    if len(text) > manifests.MAX_BYTES:
        raise BundleError(f"{path}: its manifest exceeds {manifests.MAX_BYTES:,} bytes")
    try:
        mask = parts.metadata.get(MASK_METADATA)
        png = None if mask is None else base64.b64decode(mask, validate=True)
        return check_mask("its mask", png, manifests.decode(text))
    except (BundleError, binascii.Error, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None


def _golden(path: Path, parts: Parts) -> bytes:
    try:
        return base64.b64decode(parts.metadata[GOLDEN_METADATA], validate=True)
    except ValueError as error:
        raise BundleError(f"{path}: its golden images are damaged: {error}") from None


def _double(parts: Parts, name: str) -> float:
    """Return the one value of a tensor.

    Raises:
        DataError: If it is missing, no float64 or not finite.
    """
    array = parts.doubles(name)
    if array is None or array.shape != () or not np.isfinite(array):
        raise DataError(f"tensor {name!r} must be finite float64 of shape ()")
    return float(array)


def encoded_golden(arrays: Arrays) -> bytes:
    """Encode the golden images' arrays without the backbone's outputs."""
    return safetensors.save({name: array for name, array in arrays.items() if name != "outputs"})
