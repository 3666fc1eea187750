"""Detectors that give maps as nodes of an ONNX graph.

They read patches, or the squared errors of a reconstruction.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lit_od.deploy.onnx_forms.banks import BankNodes
from lit_od.deploy.onnx_forms.rows import add_form, scaled_sum
from lit_od.detectors.ensemble import Ensemble
from lit_od.detectors.map_options import enlargement, places_averaged
from lit_od.detectors.map_region import MapRegion
from lit_od.detectors.patch_bank import NEIGHBOURS, PatchCore
from lit_od.detectors.patch_channel import PatchChannel
from lit_od.detectors.patch_gaussian import PaDiM
from lit_od.detectors.patch_maps import PatchDetector
from lit_od.detectors.patch_rows import PatchRows
from lit_od.detectors.reconstruction import Reconstruction, elements_averaged
from lit_od.detectors.state import LARGEST_SINGLE
from lit_od.formats import onnx_writer
from lit_od.formats.onnx_builder import GraphBuilder


def over_patches(graph: GraphBuilder, detector: PatchDetector, patches: str) -> tuple[str, str]:
    """Add scores (n,) and maps (n, h, w) of patches (n, gh, gw, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        patches: Name of the patches, float32, (n, gh, gw, d).
    """
    settings, (rows, columns, channels) = detector.settings, detector.input_shape
    region = detector.region
    if region is not None:
        patches = graph.op(
            "Gather", graph.reshape(patches, 0, 1, -1, channels), graph.integers(*region.cells.tolist()), axis=2
        )
    maps = add_form(graph, detector, patches)
    if region is not None:
        maps = _on_grid(graph, region, maps)
    height, width = settings.size or (rows, columns)
    if (height, width) != (rows, columns) or settings.smooth:
        down = graph.constant(enlargement(rows, height, settings.smooth), np.float32)
        across = graph.constant(enlargement(columns, width, settings.smooth).T, np.float32)
        maps = graph.op("MatMul", graph.op("MatMul", down, maps), across)
    if region is not None:
        maps = graph.op("Mul", maps, graph.constant(region.factors, np.float32))
        least = graph.constant(detector.least_map_value, np.float32)
        maps = graph.op("Where", graph.constant(region.pixels, np.bool_), maps, least)
    flat = graph.reshape(maps, 0, height * width)
    if settings.aggregate == "max":
        return graph.cast(graph.op("ReduceMax", flat, graph.integers(1), keepdims=0), np.float64), maps
    places = height * width if region is None else region.count
    return _mean_of_largest(graph, flat, places_averaged(places, settings.share)), maps


def _on_grid(graph: GraphBuilder, region: MapRegion, cells: str) -> str:
    """Add the grid (n, gh, gw) of cells that count, (n, 1, p), with 0 elsewhere."""
    rows, columns = region.grid
    places = np.full(rows * columns, len(region.cells))
    places[region.cells] = np.arange(len(region.cells))
    flat = graph.reshape(cells, 0, len(region.cells))
    nothing = graph.op("Mul", graph.column(flat, 0, 1), graph.constant(0.0, np.float32))  # (n, 1)
    whole = graph.op("Concat", flat, nothing, axis=1)
    return graph.reshape(graph.op("Gather", whole, graph.integers(*places.tolist()), axis=1), 0, rows, columns)


def reconstruction(graph: GraphBuilder, detector: Reconstruction, errors: str) -> tuple[str, str]:
    """Add scores (n,) and maps (n, h, w) of squared errors (n, h, w, c).

    Args:
        graph: The graph.
        detector: The fitted detector.
        errors: Name of the squared errors, float32, (n, h, w, c).
    """
    flat, counted = graph.reshape(errors, 0, detector.width), detector.counted
    if counted is not None:
        elements = np.flatnonzero(np.repeat(counted.ravel(), detector.shape[2]))
        flat = graph.op("Gather", flat, graph.constant(elements, np.int64), axis=1)
    scores = _mean_of_largest(graph, flat, elements_averaged(detector.elements, detector.settings.outlier_perc))
    maps = graph.cast(graph.mean(graph.cast(errors, np.float64), 3), np.float32)
    if counted is not None:
        maps = graph.op("Mul", maps, graph.constant(counted, np.float32))
    return (graph.op("Sqrt", scores) if detector.settings.metric == "rmse" else scores), maps


def padim(graph: GraphBuilder, detector: PaDiM, patches: str) -> str:
    """Add each patch's distance to the Gaussian of its position, (n, gh, gw).

    Args:
        graph: The graph.
        detector: The fitted detector.
        patches: Name of the patches, float32, (n, gh, gw, d).
    """
    rows = _projected(graph, patches, detector, detector.centre, detector.projection)  # (n, p, k)
    offset = graph.op("Sub", rows, graph.constant(detector.means, np.float32))
    kind = np.float16 if detector.settings.precision == "fp16" else np.float32
    factors = graph.constant(detector.whiteners.transpose(0, 2, 1), kind)
    if kind == np.float16:
        factors = graph.cast(factors, np.float32)
    white = graph.op("MatMul", graph.op("Transpose", offset, perm=[1, 0, 2]), factors)  # (p, n, k)
    distances = graph.op("Transpose", graph.op("Sqrt", graph.squared_norms(white)), perm=[1, 0])
    distances = graph.op("Where", graph.op("IsNaN", distances), graph.constant(LARGEST_SINGLE, np.float32), distances)
    return graph.reshape(_single(graph, distances), 0, *detector.cell_shape)


def patchcore(graph: GraphBuilder, detector: PatchCore, patches: str) -> str:
    """Add the distance of each patch to the bank, float32, (n, gh, gw).

    Args:
        graph: The graph.
        detector: The fitted detector.
        patches: Name of the patches, float32, (n, gh, gw, d).
    """
    height, width = detector.cell_shape
    bank = BankNodes.of(graph, detector.bank)

    def cells(image: str) -> str:
        rows = graph.reshape(image, -1, detector.grid[2])
        if detector.whitening is not None:
            rows = graph.reshape(_projected(graph, image, detector, *detector.whitening), -1, detector.bank.width)
        queries = bank.prepared(graph, rows)
        distances, ids = bank.nearest(graph, queries, detector.settings.k)
        scores = graph.reshape(graph.mean(distances, 1), -1, height * width)
        if detector.settings.reweight:
            scores = graph.op("Mul", scores, _paper_weights(graph, detector, bank, queries, ids, scores))
        return _single(graph, scores)

    return _image_by_image(graph, patches, detector, cells)


def patch_rows(graph: GraphBuilder, detector: PatchRows, patches: str) -> str:
    """Add the score of each patch by a detector of features, float32, (n, gh, gw).

    Args:
        graph: The graph.
        detector: The fitted detector.
        patches: Name of the patches, float32, (n, gh, gw, d).
    """

    def cells(image: str) -> str:
        return _single(graph, add_form(graph, detector.member, graph.reshape(image, -1, detector.grid[2])))

    return _image_by_image(graph, patches, detector, cells)


def patch_channel(graph: GraphBuilder, detector: PatchChannel, patches: str) -> str:
    """Add a channel of each patch, float32, (n, gh, gw).

    Args:
        graph: The graph.
        detector: The fitted detector.
        patches: Name of the patches, float32, (n, gh, gw, d).
    """
    number = detector.settings.channel % detector.grid[2]
    return graph.op("Gather", patches, graph.constant(number, np.int64), axis=3)


def ensemble(graph: GraphBuilder, detector: Ensemble, patches: str) -> str:
    """Add the sums of the members' scaled cells, float32, (n, gh, gw).

    Args:
        graph: The graph.
        detector: The fitted detector.
        patches: Name of the patches, float32, (n, gh, gw, d).
    """
    weights = detector.settings.weights or [1.0] * len(detector.members)
    parts = zip(detector.members, weights, detector.shifts, detector.scales, strict=True)
    cells = [
        (graph.cast(add_form(graph, member, patches), np.float64), weight / scale, shift)
        for member, weight, shift, scale in parts
    ]
    return _single(graph, scaled_sum(graph, cells))


def _image_by_image(graph: GraphBuilder, patches: str, detector: PatchDetector, cells: Callable[[str], str]) -> str:
    """Add the cells of one image after the other, float32, (n, *cell_shape).

    What a search computes on the way then stays in the processor's caches, and memory does not grow with the batch.

    Args:
        graph: The graph.
        patches: Name of the patches of cells that count, float32, (n, *cell_shape, d).
        detector: The fitted detector.
        cells: Adds the scores of one image's patches (*cell_shape, d), in their order.
    """
    grid = (*detector.cell_shape, detector.input_shape[2])
    image = graph.name("image")
    with graph.inner() as nodes:
        found = graph.reshape(cells(image), *grid[:2])
    taken, given = (onnx_writer.port(name, np.float32, sides) for name, sides in ((image, grid), (found, grid[:2])))
    return graph.op("Scan", patches, body=onnx_writer.graph(nodes, [taken], [given]), num_scan_inputs=1)


def _paper_weights(
    graph: GraphBuilder, detector: PatchCore, bank: BankNodes, queries: str, ids: str, scores: str
) -> str:
    """Add the paper's weights of images, double, (n, 1)."""
    height, width = detector.cell_shape
    most = graph.op("ArgMax", scores, axis=1, keepdims=1)  # (n, 1)
    place = graph.op("Unsqueeze", most, graph.integers(2))  # (n, 1, 1)
    by_image = graph.reshape(queries, -1, height * width, detector.bank.width)
    wide = graph.op("Expand", place, graph.constant((1, 1, detector.bank.width), np.int64))
    query = graph.reshape(graph.op("GatherElements", by_image, wide, axis=1), -1, detector.bank.width)  # (n, d)
    first = graph.reshape(graph.column(ids, 0, 1), -1, height * width)
    nearest = graph.op("GatherElements", first, most, axis=1)  # (n, 1)
    row = graph.reshape(graph.op("Gather", bank.rows, nearest, axis=0), -1, detector.bank.width)
    _, around = bank.nearest(graph, row, min(NEIGHBOURS, len(detector.bank.rows)))
    gaps, own = bank.distances(graph, query, around), bank.distances(graph, query, nearest)
    largest = graph.op("Max", graph.op("ReduceMax", gaps, graph.integers(1), keepdims=1), own)
    above = graph.op("Exp", graph.op("Sub", own, largest))
    below = graph.sum(graph.op("Exp", graph.op("Sub", gaps, largest)), 1, keep=True)
    weight = graph.op("Sub", graph.constant(1.0), graph.op("Div", above, below))
    return graph.op("Max", weight, graph.constant(0.0))


def _projected(graph: GraphBuilder, patches: str, detector: PatchDetector, centre: Any, projection: Any) -> str:
    """Add patches less their centre, times a projection: float32, (n, p, k)."""
    rows = graph.op("Sub", graph.reshape(patches, -1, detector.input_shape[2]), graph.constant(centre, np.float32))
    rows = graph.op("MatMul", rows, graph.constant(projection, np.float32))
    return graph.reshape(rows, -1, math.prod(detector.cell_shape), projection.shape[1])


def _mean_of_largest(graph: GraphBuilder, flat: str, count: int) -> str:
    """Add the mean of the largest values of each row, double, (n,)."""
    largest, _ = graph.ops("TopK", 2, flat, graph.integers(count), axis=1, sorted=0)
    return graph.mean(graph.cast(largest, np.float64), 1)


def _single(graph: GraphBuilder, scores: str) -> str:
    """Add double or float32 scores in float32, within what it holds."""
    wide = graph.cast(scores, np.float64)
    wide = graph.op("Max", graph.op("Min", wide, graph.constant(LARGEST_SINGLE)), graph.constant(-LARGEST_SINGLE))
    return graph.cast(wide, np.float32)
