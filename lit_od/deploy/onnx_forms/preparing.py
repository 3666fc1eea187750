"""Masking, cropping and resizing of frames as nodes of an ONNX graph."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.images.preparation import Preparation
from lit_od.images.resize_graph import GraphResize, attributes
from lit_od.images.roi import decode_mask


def prepared(graph: GraphBuilder, preparation: Preparation, frames: str, *, to: str) -> None:
    """Add the mask, the crop and the resizing of frames (n, h, w, c), uint8.

    Args:
        graph: The graph.
        preparation: The preparation, which resizes in the graph.
        frames: Name of the frames.
        to: Name of the prepared images.
    """
    if (region := preparation.region) is not None:
        frames = _masked(graph, decode_mask(region[0]), region[1], frames)
    if preparation.crops:
        frames = _cropped(graph, preparation, frames)
    sizes = graph.integers(*preparation.size)
    way = cast("GraphResize", preparation.resize)
    graph.op("Resize", frames, "", "", sizes, to=to, **attributes(way))


def _masked(graph: GraphBuilder, mask: NDArray[np.bool_], colour: tuple[int, ...], frames: str) -> str:
    """Add the colour of what a mask (h, w) leaves out of frames.

    The mask is brought to their size as `roi.scaled` does.
    """
    sides, inside = graph.op("Shape", frames), graph.constant(mask, np.bool_)
    for axis, length in enumerate(mask.shape):
        side = graph.op("Gather", sides, graph.constant(1 + axis, np.int64), axis=0)
        two, one = graph.constant(2, np.int64), graph.constant(1, np.int64)
        places = graph.op("Range", graph.constant(0, np.int64), side, one)
        odd = graph.op("Add", graph.op("Mul", places, two), one)
        nearest = graph.op("Mul", odd, graph.constant(length, np.int64))
        nearest = graph.op("Div", nearest, graph.op("Mul", side, two))
        inside = graph.op("Gather", inside, nearest, axis=axis)
    inside = graph.op("Unsqueeze", inside, graph.integers(0, 3))  # (1, h, w, 1)
    return graph.op("Where", inside, frames, graph.constant(colour, np.uint8))


def _cropped(graph: GraphBuilder, preparation: Preparation, frames: str) -> str:
    """Add the centred box that is kept."""
    sides = graph.op("Gather", graph.op("Shape", frames), graph.integers(1, 2), axis=0)  # h, w
    if preparation.crop is not None:
        kept = graph.integers(*preparation.crop)
    else:
        wide = graph.cast(sides, np.float64)
        wanted = graph.constant(preparation.size)
        scale = graph.op("ReduceMin", graph.op("Div", wide, wanted), keepdims=0)
        scale = graph.op("Mul", scale, graph.constant(preparation.crop_fraction or 1.0))
        rounded = graph.op("Floor", graph.op("Add", graph.op("Mul", wanted, scale), graph.constant(0.5)))
        kept = graph.op("Max", graph.integers(1), graph.op("Min", sides, graph.cast(rounded, np.int64)))
    starts = graph.op("Div", graph.op("Sub", sides, kept), graph.integers(2))
    cut = graph.op("Slice", frames, starts, graph.op("Add", starts, kept), graph.integers(1, 2))
    if preparation.crop is None:
        return cut
    return graph.reshape(cut, 0, *preparation.crop, 0)  # fails for a frame that is smaller than the crop
