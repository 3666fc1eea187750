"""Cropping and resizing of frames as nodes of an ONNX graph."""

from typing import cast

import numpy as np

from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.images.preparation import Preparation
from lit_od.images.resize_graph import GraphResize, attributes


def prepared(graph: GraphBuilder, preparation: Preparation, frames: str, *, to: str) -> None:
    """Add the crop and the resizing of frames (n, h, w, c), uint8.

    Args:
        graph: The graph.
        preparation: The preparation, which resizes in the graph.
        frames: Name of the frames.
        to: Name of the prepared images.
    """
    if preparation.crops:
        frames = _cropped(graph, preparation, frames)
    sizes = graph.integers(*preparation.size)
    way = cast("GraphResize", preparation.resize)
    graph.op("Resize", frames, "", "", sizes, to=to, **attributes(way))


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
