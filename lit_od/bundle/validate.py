"""Check a bundle's files against its manifest: graph, detector and golden images.

Each check reads only descriptions (types, shapes, names) before anything is allocated or run.
"""

from collections.abc import Mapping, Sequence

from msgspec import UNSET

from lit_od.backbone.compiled import OUTPUTS
from lit_od.bundle.manifest import Manifest, with_mask
from lit_od.detectors import Detector
from lit_od.errors import BackboneError, BundleError, DataError, ImageError
from lit_od.formats import safetensors_file as safetensors
from lit_od.formats.onnx_file import BOOL, DOUBLE, FLOAT, FLOAT16, UINT8, Graph, Port, read_graph
from lit_od.formats.text import one_line
from lit_od.images.roi import decode_mask

MAX_GOLDEN = 256
"""Largest number of golden images of a bundle."""

_FLOATS = {FLOAT: "F32", FLOAT16: "F16", DOUBLE: "F64"}
"""Element types of a backbone's output: ONNX's numbers and safetensors' names."""

_VERDICTS = dict(zip(OUTPUTS, ({DOUBLE: "double"}, {DOUBLE: "double"}, {BOOL: "bool"}, {FLOAT: "float"}), strict=True))
"""Element types of a model file's outputs: ONNX's numbers and names."""


def check_graph(name: str, data: bytes) -> Graph:
    """Read the interface of a bundle's ONNX file.

    Raises:
        BundleError: If the file is refused.
    """
    try:
        return read_graph(data)
    except BackboneError as error:
        raise BundleError(f"{name}: {one_line(error)}") from None


def check_backbone(name: str, graph: Graph, manifest: Manifest) -> None:
    """Check that the graph's input and output match the manifest.

    A side that the graph leaves free is fixed by the manifest: the images are prepared to its size.

    Args:
        name: Name of the file, for messages.
        graph: The graph's interface.
        manifest: The bundle's manifest.

    Raises:
        BundleError: If they do not.
    """
    model = manifest.model
    for direction, ports, wanted, shape, elements in (
        ("input", graph.inputs, model.input, model.input_shape, {UINT8}),
        ("output", graph.outputs, model.output, model.output_shape, set(_FLOATS)),
    ):
        if len(ports) != 1:
            found = ", ".join(port.name for port in ports[:4]) or "none"
            raise BundleError(f"{name} must have one {direction}, {one_line(repr(wanted))}, got {one_line(found)}")
        port = ports[0]
        if port.name != wanted:
            raise BundleError(
                f"{name} has the {direction} {one_line(repr(port.name))}, its manifest says {one_line(repr(wanted))}"
            )
        kind = "uint8" if direction == "input" else "floating point"
        _check_port(name, direction, port, shape, dict.fromkeys(elements, kind))
    if model.opset is not None and model.opset != graph.opset:
        raise BundleError(f"{name} is of opset {graph.opset or 'none'}, its manifest says {model.opset}")


def check_model(graph: Graph, manifest: Manifest, *, maps: bool) -> None:
    """Check that a model file's graph takes the manifest's images and gives verdicts.

    Args:
        graph: The graph's interface.
        manifest: The manifest.
        maps: True where it gives maps too.

    Raises:
        BundleError: If it does not.
    """
    image, names = list(manifest.model.input_shape), OUTPUTS[: 3 + maps]
    if manifest.preparation.resizes_in_graph:
        image[1:3] = [None, None]
    given = tuple(port.name for port in graph.outputs)
    if len(graph.inputs) != 1 or given != names:
        raise BundleError(
            f"the graph of a model file has one input and gives {', '.join(names)}; this one has "
            f"{len(graph.inputs)} and gives {one_line(', '.join(given[:5])) or 'none'}"
        )
    _check_port("the graph", "input", graph.inputs[0], image, {UINT8: "uint8"})
    for port in graph.outputs:
        shape = [None, *manifest.preparation.size] if port.name == OUTPUTS[3] else [None]
        _check_port("the graph", "output", port, shape, _VERDICTS[port.name])


def check_detector(detector: Detector, manifest: Manifest) -> None:
    """Raise DataError unless the detector reads the backbone's output."""
    output, sides = manifest.model.output, manifest.model.output_shape[1:]
    if detector.reads != output:
        raise DataError(f"{detector.kind} reads {detector.reads}, the backbone gives {output}")
    if manifest.preparation.has_tiles and output != "patches":
        raise DataError(f"the preparation has tiles, whose maps {detector.kind} over {output} cannot join")
    wanted = list(detector.input_shape)
    if wanted != sides:
        raise DataError(f"{detector.kind} reads {output} of shape {_shown([None, *wanted])}, the backbone gives "
                        f"{_shown([None, *sides])}")  # fmt: skip


def check_golden(name: str, data: bytes, manifest: Manifest, *, outputs: bool = True) -> None:
    """Check that the golden images' arrays match the manifest.

    Args:
        name: Name of the file, for messages.
        data: Its contents.
        manifest: The bundle's manifest.
        outputs: True where they hold the backbone's outputs too.

    Raises:
        BundleError: If they do not.
    """
    try:
        found = safetensors.check_header(data)
    except DataError as error:
        raise BundleError(f"{name}: {one_line(error)}") from None
    count = len(found) - 2 - outputs  # all but pixels, outputs and scores
    wanted: dict[str, tuple[set[str], tuple[int | None, ...]]] = {
        "pixels": ({"U8"}, (count, *manifest.preparation.shape)),
        "outputs": (set(_FLOATS.values()), (count, *manifest.model.output_shape[1:])),
        "scores": ({"F64"}, (count,)),
        **{f"file.{row}": ({"U8"}, (None,)) for row in range(max(1, count))},
    }
    if not outputs:
        del wanted["outputs"]
    if count > MAX_GOLDEN:
        raise BundleError(f"{name} must hold at most {MAX_GOLDEN} images, got {count}")
    if missing := [array for array in wanted if array not in found]:
        raise BundleError(f"{name} lacks the array {missing[0]!r}")
    for array, (kinds, shape) in wanted.items():
        kind, sides = found[array]
        fits = len(sides) == len(shape) and all(want in (None, got) for want, got in zip(shape, sides, strict=True))
        if kind not in kinds or not fits:
            kind_wanted = " or ".join(sorted(kinds))
            raise BundleError(
                f"{name}: array {array!r} must be {kind_wanted} {_shown(shape)}, got {kind} {_shown(sides)}"
            )


def _check_port(name: str, direction: str, port: Port, shape: Sequence[int | None], kinds: Mapping[int, str]) -> None:
    """Raise BundleError unless element type and shape of a port are as wanted.

    Args:
        name: Name of the file, for messages.
        direction: Input or output.
        port: The port.
        shape: The manifest's shape, which that of an input must state.
        kinds: The element types, with their names for messages.
    """
    if port.element not in kinds:
        raise BundleError(
            f"{name}: {direction} {one_line(repr(port.name))} must be {next(iter(kinds.values()))}, got ONNX' element "
            f"type {port.element}"
        )
    if not _fits(port, shape, known=direction == "input"):
        raise BundleError(f"{name} has the {direction} shape {_shown(port.shape)}, its manifest says {_shown(shape)}")


def check_mask(name: str, data: bytes | None, manifest: Manifest) -> Manifest:
    """Return the manifest with the mask of its region of interest.

    Args:
        name: Name of the file, for messages.
        data: Its contents; None where the bundle has none.
        manifest: The bundle's manifest.

    Raises:
        BundleError: If one of file and manifest knows no mask, or the file is none.
    """
    has_colour = manifest.preparation.mask_colour is not UNSET
    if data is None:
        if has_colour:
            raise BundleError(f"{name} is missing, and its manifest has a mask_colour")
        return manifest
    if not has_colour:
        raise BundleError(f"{name} needs a mask_colour in the manifest's preparation, which has none")
    try:
        decode_mask(data)
    except ImageError as error:
        raise BundleError(f"{name}: {one_line(error)}") from None
    return with_mask(manifest, data)


def _fits(port: Port, shape: Sequence[int | None], *, known: bool) -> bool:
    """Return True if a port's shape agrees with the manifest's.

    A port without a shape agrees unless its shape must be `known`.
    """
    if port.shape is None:
        return not known
    return (
        len(port.shape) == len(shape)
        and port.shape[0] is None
        and all(got in (None, want) for got, want in zip(port.shape, shape, strict=True))
    )


def _shown(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "(unknown)"
    sides = [
        "n" if row == 0 and side is None else "any" if side is None else str(side) for row, side in enumerate(shape)
    ]
    return f"({', '.join(sides[:8])}{', ...' if len(sides) > 8 else ''})"
