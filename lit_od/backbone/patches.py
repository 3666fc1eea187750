"""Patches: layers of a network on one grid, and graphs cut to give them.

A layer's maps (n, c, h, w) are averaged down or enlarged bilinearly to the grid, and each place is averaged with its
neighbours. Both are linear and separable, so each layer takes two constant matrices, L X R^T, whatever the sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import BackboneError, ConfigError
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_cut import CutGraph, cut, tensor_names
from lit_od.formats.onnx_file import UINT8, read_graph
from lit_od.runtime.onnx_session import Session, run_session

Side = tuple[int, int]
"""Height and width, in places."""


AVERAGES = "patches_"
"""Names of the tensors that bring layers to one grid begin so."""


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """Grid of patches, and the neighbourhood that each of them averages.

    Attributes:
        size: Places of both sides, or (gh, gw). None takes the size of the middle layer, ordered by size, and the
            finer of two in the middle.
        neighbourhood: Odd side of the square of places that each patch averages; places beyond the border do not
            count. 1 averages nothing.

    Raises:
        ConfigError: If a number is below 1, or the neighbourhood is even.
    """

    size: int | Sequence[int] | None = None
    neighbourhood: int = 3

    def __post_init__(self) -> None:
        sides = list(self.size) if isinstance(self.size, list | tuple) else [self.size, self.size]
        if self.size is not None and (len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides)):
            raise ConfigError(f"grid must be a number of places or [height, width], at least 1, got {self.size!r}")
        if type(self.neighbourhood) is not int or self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood must be an odd number, at least 1, got {self.neighbourhood!r}")

    def shape(self, layers: Mapping[str, Side]) -> Side:
        """Return (gh, gw) for layers of these sizes.

        Raises:
            ConfigError: If a side of the grid is longer than that of the finest layer.
        """
        ordered = sorted(layers.values(), key=lambda each: each[0] * each[1], reverse=True)
        name, finest = max(layers.items(), key=lambda each: each[1][0] * each[1][1])
        if self.size is None:
            return ordered[(len(ordered) - 1) // 2]
        height, width = (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])
        if height > finest[0] or width > finest[1]:
            raise ConfigError(
                f"a grid of {height}x{width} is finer than the finest layer, {name} with {finest[0]}x{finest[1]} "
                "places: take a smaller grid, an earlier layer or larger images (data.prepare.size)"
            )
        return height, width

    def weights(self, layer: Side, grid: Side) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return L (gh, h) and R (gw, w) for a layer of (h, w) places."""
        left, right = (place_weights(*each, self.neighbourhood) for each in zip(layer, grid, strict=True))
        return left, right


def place_weights(length: int, places: int, neighbourhood: int) -> NDArray[np.float32]:
    """Return the weights that bring one axis to the grid and average neighbours.

    Place i of fewer averages the values floor(i length / places) to ceil((i + 1) length / places); place i of more
    lies at (i + 1/2) length / places - 1/2, between two values, at the border on one.

    Args:
        length: Values along the axis.
        places: Places of the grid along the axis.
        neighbourhood: Odd number of places that are averaged then; those beyond the border do not count.

    Returns:
        Shape (places, length), float32; rows sum to 1.
    """
    place, value = np.arange(places)[:, None], np.arange(length)[None, :]
    if places <= length:
        inside = ((value + 1) * places > place * length) & (value * places < (place + 1) * length)
        weights = inside / inside.sum(1, keepdims=True)
    else:
        at = np.clip((place + 0.5) * length / places - 0.5, 0, length - 1)
        weights = np.maximum(0, 1 - np.abs(at - value))
    near = np.abs(place - place.T) <= neighbourhood // 2
    averaged: NDArray[np.float64] = near / near.sum(1, keepdims=True) @ weights  # (places, length)
    return averaged.astype(np.float32)


def patch_graph(model: bytes, layers: Mapping[str, str], grid: PatchGrid, image_shape: tuple[int, int, int]) -> bytes:
    """Cut an ONNX graph after some of its tensors, and make it give patches of them.

    Args:
        model: Bytes of an ONNX file with one input, uint8 (n, h, w, c).
        layers: The tensors' names in the file by the layers' names, each (n, c, h, w), float32; in this order their
            channels are laid side by side.
        grid: Grid and neighbourhood.
        image_shape: (h, w, c) of the prepared images, which the graph then takes.

    Returns:
        Bytes of an ONNX file that gives "patches" (n, gh, gw, d), float32.

    Raises:
        BackboneError: If the graph takes other images, or a tensor is no map of features.
        ConfigError: If the grid does not fit the layers.
    """
    taken = _input(model, image_shape)
    part = cut(model, list(layers.values()))
    maps = _maps(part, taken, layers, image_shape)
    sizes = {layer: (shape[2], shape[3]) for layer, shape in maps.items()}
    places = grid.shape(sizes)
    nodes, tensors = list(part.nodes), list(part.initializers)
    brought = []
    for number, (layer, tensor) in enumerate(layers.items()):
        left, right = grid.weights(sizes[layer], places)
        names = [f"{AVERAGES}{number}_{role}" for role in ("left", "right", "columns", "rows")]
        tensors += [onnx_writer.tensor(names[0], left), onnx_writer.tensor(names[1], right.T)]
        nodes.append(onnx_writer.node("MatMul", [tensor, names[1]], [names[2]]))  # (n, c, h, gw)
        nodes.append(onnx_writer.node("MatMul", [names[0], names[2]], [names[3]]))  # (n, c, gh, gw)
        brought.append(names[3])
    nodes.append(onnx_writer.node("Concat", brought, [f"{AVERAGES}channels"], axis=1))
    nodes.append(onnx_writer.node("Transpose", [f"{AVERAGES}channels"], ["patches"], perm=[0, 2, 3, 1]))
    width = sum(shape[1] for shape in maps.values())
    return onnx_writer.model(
        nodes,
        [onnx_writer.port(taken, np.uint8, ("n", *image_shape))],
        [onnx_writer.port("patches", np.float32, ("n", *places, width))],
        initializers=tensors,
        header=part.header,
    )


def tensors_of(model: bytes, layers: Sequence[str], known: Mapping[str, str] | None) -> dict[str, str]:
    """Return the tensors of a graph by the names of its layers.

    Args:
        model: Bytes of an ONNX file.
        layers: Names of layers; of a file of the user's own names of tensors.
        known: Tensors by the names of layers; None for a file of the user's own.

    Raises:
        ConfigError: If there are no layers, one is named twice or does not exist.
    """
    if known is None:
        known = {name: name for name in tensor_names(model)}
    shown = ", ".join(known if len(known) < 10 else [*list(known)[:3], "...", *list(known)[-3:]])
    if not layers:
        raise ConfigError(f"patches need at least one layer: there are {shown}")
    for layer in layers:
        if layer not in known:
            near = get_close_matches(layer, known, n=3) if len(known) >= 10 else []
            raise ConfigError(f"no layer {layer!r}: there are {', '.join([*near, '...']) if near else shown}")
        if layers.count(layer) > 1:
            raise ConfigError(f"layer {layer!r} is named twice: name it once")
    return {layer: known[layer] for layer in layers}


def _input(model: bytes, image_shape: tuple[int, int, int]) -> str:
    """Return the name of a graph's input, if it takes images of a shape."""
    ports = read_graph(model).inputs
    if len(ports) != 1 or ports[0].element != UINT8 or ports[0].shape is None or len(ports[0].shape) != 4:
        found = ", ".join(port.name for port in ports) or "none"
        raise BackboneError(f"patches are cut from a graph with one input, uint8 (n, h, w, c); this one has {found}")
    sides = ports[0].shape[1:]
    if any(want not in (None, got) for want, got in zip(sides, image_shape, strict=True)):
        wanted = ", ".join("any" if side is None else str(side) for side in sides)
        raise BackboneError(
            f"images are prepared to {image_shape} (h, w, c), the graph takes {wanted}. Change data.prepare"
        )
    return ports[0].name


def _maps(
    part: CutGraph, taken: str, layers: Mapping[str, str], image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's maps, as they are for one image."""
    ports = [onnx_writer.text(1, name) for name in layers.values()]  # types and shapes are what is asked
    graph = onnx_writer.model(
        part.nodes,
        [onnx_writer.port(taken, np.uint8, ("n", *image_shape))],
        ports,
        initializers=part.initializers,
        header=part.header,
    )
    session = Session(graph, providers=["cpu"])
    found = run_session(session, list(layers.values()), {taken: np.zeros((1, *image_shape), np.uint8)})
    for layer, output in zip(layers, found, strict=True):
        if output.ndim != 4 or len(output) != 1 or output.dtype != np.float32 or output.size == 0:
            raise BackboneError(
                f"layer {layer} gives {output.dtype} {output.shape} for one image, wanted maps of features, float32 "
                "(n, c, h, w): choose another layer"
            )
    return {layer: output.shape for layer, output in zip(layers, found, strict=True)}
