"""Float graphs as people have them, wrapped into backbones.

A backbone takes uint8 (n, h, w, c): nodes before the graph make its numbers of them. The graph's own tensors get a
prefix, so that no name of theirs is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.independence import relative_gap
from lit_od.backbone.pixel_input import PixelInput
from lit_od.errors import BackboneError, ConfigError
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.formats.onnx_cut import cut, tensor_names
from lit_od.formats.onnx_file import FLOAT, FLOAT16, UINT8, Port, read_graph
from lit_od.formats.onnx_names import prefixed
from lit_od.formats.onnx_parts import take_apart
from lit_od.runtime.onnx_session import Session, run_session

LEAST_OPSET = 13
"""Oldest operator set of graphs that are wrapped."""

OWN = "net."
"""Names of a wrapped graph's own tensors begin so."""

TOLERANCE, HALF_TOLERANCE = 1e-5, 1e-2
"""Largest max |a - b| / max |a| between the file, a, and its wrapped form, b; the second where it computes in float16,
whose last bits differ with the order in which ONNX Runtime fuses operators."""

BATCHES = (1, 2, 3)
"""Batch sizes of the proof."""

_KINDS: dict[int, Any] = {FLOAT: np.float32, FLOAT16: np.float16}

_INPUT = "images"


def features_graph(
    model: bytes, pixels: PixelInput | None, output: str | None, image_shape: tuple[int, int, int]
) -> bytes:
    """Wrap a graph so that it gives features of one of its tensors.

    Maps of features are averaged over their places. The graph's outputs have the layout of its input; any other tensor
    of four sides is (n, c, h, w), as ONNX' operators compute it.

    Args:
        model: Bytes of an ONNX file with one input.
        pixels: Numbers that it takes; None where it takes uint8 (n, h, w, c).
        output: Name of one of its outputs or of any other tensor, (n, d), or maps; None takes the only output.
        image_shape: (h, w, c) of the prepared images.

    Returns:
        Bytes of an ONNX file that takes uint8 (n, h, w, c) and gives "features" (n, d).

    Raises:
        BackboneError: If the graph takes other images, or computes other features once it is wrapped.
        ConfigError: If `pixels` does not fit the images, or no output that gives features is named.
    """
    outputs = [port.name for port in read_graph(model).outputs]
    if output is None and len(outputs) != 1:
        raise ConfigError(
            f"the graph has {len(outputs)} outputs, {_listed(model, pixels, outputs, image_shape)}: name one by "
            "backbone.output"
        )
    chosen = output or outputs[0]
    computed = tensor_names(model)
    if chosen not in computed:
        raise ConfigError(
            f"the graph computes no {chosen!r}; its outputs are {_listed(model, pixels, outputs, image_shape)}: name "
            "one by backbone.output"
        )
    found = _computed(model, pixels, [chosen], image_shape)[chosen]
    if found.dtype not in _KINDS.values() or found.ndim not in (2, 4) or len(found) != 1 or not found.size:
        raise ConfigError(
            f"{chosen} is {found.dtype} {found.shape} for one image, and features are floats (n, d) or maps of them: "
            f"name another tensor by backbone.output; the outputs are {_listed(model, pixels, outputs, image_shape)}"
        )
    last = found.ndim == 4 and chosen in outputs and (pixels is None or pixels.layout == "nhwc")
    if last and pixels is None:
        raise ConfigError(
            f"{chosen} is {found.shape} for one image, maps of a graph that takes uint8: average them inside the "
            "graph, or name a tensor before it by backbone.output"
        )
    graph, parts = GraphBuilder("wrapped."), _uint8_parts(model, pixels, [chosen], image_shape)
    features = OWN + chosen
    if found.ndim == 4:
        if last:
            features = graph.op("Transpose", features, perm=[0, 3, 1, 2])
        graph.op("Flatten", graph.op("GlobalAveragePool", features), to="features", axis=1)
    else:
        graph.op("Identity", features, to="features")
    width = found.shape[3 if last else 1]
    port = onnx_writer.port("features", found.dtype, ("n", width))
    wrapped = parts.model(graph.nodes, [port])

    def finished(maps: NDArray[Any]) -> NDArray[Any]:
        places = (1, 2) if last else (2, 3)
        return maps.mean(places, dtype=np.float64).astype(maps.dtype) if maps.ndim == 4 else maps

    _require_same(model, wrapped, pixels, {chosen: "features"}, image_shape, finished)
    return wrapped


def uint8_graph(
    model: bytes, pixels: PixelInput, tensors: Sequence[str], image_shape: tuple[int, int, int]
) -> tuple[bytes, dict[str, str]]:
    """Wrap a float graph so that it takes uint8 and gives some of its tensors.

    Args:
        model: Bytes of an ONNX file with one input.
        pixels: Numbers that it takes.
        tensors: Names of tensors that its nodes compute.
        image_shape: (h, w, c) of the prepared images.

    Returns:
        Bytes of the ONNX file, and the tensors' names in it by their names in the graph.

    Raises:
        BackboneError: As `features_graph`.
        ConfigError: If `pixels` does not fit the images, or a tensor may have its channels last.
    """
    named = {name: OWN + name for name in tensors}
    if pixels.layout == "nhwc" and (last := set(tensors).intersection(p.name for p in read_graph(model).outputs)):
        raise ConfigError(
            f"layer {min(last)} is an output of a graph nhwc, and layers are (n, c, h, w): name a tensor inside"
        )
    found = _computed(model, pixels, tensors, image_shape)
    for name, values in found.items():
        if values.dtype != np.float32 or values.ndim != 4:
            raise BackboneError(
                f"layer {name} gives {values.dtype} {values.shape} for one image, wanted maps of features, float32 "
                "(n, c, h, w): choose another layer"
            )
    ports = [onnx_writer.port(named[name], np.float32, ("n", *maps.shape[1:])) for name, maps in found.items()]
    wrapped = _uint8_parts(model, pixels, tensors, image_shape).model([], ports)
    _require_same(model, wrapped, pixels, named, image_shape, lambda values: values)
    return wrapped, named


def require_uint8(model: bytes, name: str) -> None:
    """Raise BackboneError for a float graph, with the keys that a recipe needs.

    Args:
        model: Bytes of an ONNX file.
        name: Name of the file, for the message.
    """
    ports = read_graph(model).inputs
    if len(ports) != 1 or ports[0].element not in _KINDS or len(ports[0].shape or ()) != 4:
        return
    shape = ports[0].shape or ()
    layout = "nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw"
    raise BackboneError(
        f"backbone {name} takes {_text(ports[0])}, and images are uint8 (n, h, w, c): say in the recipe what it was "
        f"trained on, as in backbone: {{file: {name}, layout: {layout}, mean: imagenet, std: imagenet}}, with scale "
        "(255) and channels (rgb) where they are others; or --backbone.layout and so on"
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """A graph behind an input of uint8, ready for further nodes."""

    nodes: list[bytes]
    tensors: list[bytes]
    input: bytes
    header: bytes

    def model(self, nodes: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
        """Return the file with further nodes and these outputs."""
        every = [*self.nodes, *nodes]
        return onnx_writer.model(every, [self.input], outputs, initializers=self.tensors, header=self.header)


def _uint8_parts(
    model: bytes, pixels: PixelInput | None, tensors: Sequence[str], image_shape: tuple[int, int, int]
) -> _Parts:
    """Return the part of a graph that computes tensors, behind an input of uint8.

    The graph's own input is checked against the images.
    """
    taken, part = _taken(model, pixels, image_shape), prefixed(cut(model, tensors), OWN)
    graph = GraphBuilder("wrapped.pixels.")
    numbers = _INPUT
    if pixels is not None:
        numbers = graph.cast(pixels.add(graph, _INPUT, image_shape[2]), _KINDS[taken.element])
    graph.op("Identity", numbers, to=OWN + taken.name)
    port = onnx_writer.port(_INPUT, np.uint8, ("n", *image_shape))
    return _Parts([*graph.nodes, *part.nodes], [*graph.initializers, *part.initializers], port, part.header)


def _taken(model: bytes, pixels: PixelInput | None, image_shape: tuple[int, int, int]) -> Port:
    """Return a graph's input, if it takes such images.

    Raises:
        BackboneError: If it does not.
        ConfigError: If it takes uint8 and `pixels` says otherwise.
    """
    read = read_graph(model)
    if read.opset is None or read.opset < LEAST_OPSET:
        raise BackboneError(
            f"the graph has opset {read.opset or 'none'}, wanted {LEAST_OPSET} or later: export it anew"
        )
    kinds = (UINT8,) if pixels is None else tuple(_KINDS)
    if pixels is not None and len(read.inputs) == 1 and read.inputs[0].element == UINT8:
        raise ConfigError(
            "the graph takes uint8, whose scaling is inside: leave out backbone.layout, mean, std, scale and channels"
        )
    ports = [port for port in read.inputs if port.element in kinds and (port.shape is None or len(port.shape) == 4)]
    if len(ports) != 1 or len(read.inputs) != 1:
        found = ", ".join(f"{port.name}: {_text(port)}" for port in read.inputs) or "nothing"
        raise BackboneError(f"a backbone takes one input, images of four sides; this graph takes {found}")
    shape = ports[0].shape or (None,) * 4
    if shape[0] is not None:
        raise BackboneError(
            f"the graph takes {shape[0]} image{'s' if shape[0] != 1 else ''} at a time, {_text(ports[0])}: export it "
            "with a free first side, as torch.onnx.export does with dynamic_shapes=({0: 'n'},)"
        )
    height, width, channels = image_shape
    wanted = (channels, height, width) if pixels is not None and pixels.layout == "nchw" else image_shape
    if any(side not in (None, got) for side, got in zip(shape[1:], wanted, strict=True)):
        raise BackboneError(
            f"images are prepared to {image_shape} (h, w, c), the graph takes {_text(ports[0])}: change data.prepare"
            + ("" if pixels is None else " or backbone.layout")
        )
    return ports[0]


def _computed(
    model: bytes, pixels: PixelInput | None, tensors: Sequence[str], image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Return tensors of a graph as they are for one black image."""
    names = [OWN + name for name in tensors]
    parts = _uint8_parts(model, pixels, tensors, image_shape)
    session = Session(parts.model([], [onnx_writer.text(1, name) for name in names]), providers=["cpu"])
    found = run_session(session, names, {_INPUT: np.zeros((1, *image_shape), np.uint8)})
    return dict(zip(tensors, found, strict=True))


def _listed(model: bytes, pixels: PixelInput | None, outputs: Sequence[str], image_shape: tuple[int, int, int]) -> str:
    """Format a graph's outputs with their shapes for one image."""
    computed = [name for name in outputs if name in tensor_names(model)]
    found = _computed(model, pixels, computed, image_shape)
    return ", ".join(f"{name} ({', '.join(['n', *map(str, each.shape[1:])])})" for name, each in found.items())


def _require_same(
    model: bytes,
    wrapped: bytes,
    pixels: PixelInput | None,
    names: dict[str, str],
    image_shape: tuple[int, int, int],
    finished: Callable[[NDArray[Any]], NDArray[Any]],
) -> None:
    """Raise BackboneError unless a wrapped graph computes the file's outputs.

    The file gets the numbers that numpy prepares.

    Args:
        model: Bytes of the file.
        wrapped: Bytes of the wrapped form.
        pixels: Numbers that the file takes; None for uint8.
        names: Names of the wrapped form's outputs by names of the file's tensors.
        image_shape: (h, w, c) of the prepared images.
        finished: Makes the wrapped form's output of a tensor.
    """
    taken, part = read_graph(model).inputs[0], cut(model, list(names))
    inputs = take_apart(model).inputs
    plain = onnx_writer.model(
        part.nodes,
        [port for port in inputs if port.startswith(onnx_writer.text(1, taken.name))],
        [onnx_writer.text(1, name) for name in names],
        initializers=part.initializers,
        header=part.header,
    )
    sessions = Session(plain, providers=["cpu"]), Session(wrapped, providers=["cpu"])
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), *image_shape), dtype=np.uint8)
    tolerance = HALF_TOLERANCE if taken.element == FLOAT16 else TOLERANCE
    for count in BATCHES:
        given = images[:count] if pixels is None else pixels(images[:count]).astype(_KINDS[taken.element])
        try:
            wanted = run_session(sessions[0], list(names), {taken.name: given})
            got = run_session(sessions[1], list(names.values()), {_INPUT: images[:count]})
        except BackboneError as error:
            raise BackboneError(
                f"with {count} image{'s' if count > 1 else ''} {error}. Export it anew with a free number of images"
            ) from error
        for name, a, b in zip(names, wanted, got, strict=True):
            made = finished(a)
            if made.shape != b.shape or len(made) != count:
                raise BackboneError(
                    f"{name} of {count} images is {made.shape}, wanted a row an image: export the graph anew with a "
                    "free number of images"
                )
            if not (gap := relative_gap(made, b)) <= tolerance:
                raise BackboneError(
                    f"{name} of {count} images differs by {gap:.2g} relative from what the file computes of the same "
                    f"numbers, allowed {tolerance:g}: name another tensor by backbone.output"
                )


def _text(port: Port) -> str:
    """Format element type and shape of a port."""
    kinds = {**{number: np.dtype(kind).name for number, kind in _KINDS.items()}, UINT8: "uint8"}
    sides = (
        "of any shape" if port.shape is None else f"({', '.join('any' if s is None else str(s) for s in port.shape)})"
    )
    return f"{kinds.get(port.element, f'element type {port.element}')} {sides}"
