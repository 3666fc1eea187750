"""The choice of an int8 graph by the features of validation images.

Chosen are the calibration method of activations and the layers that stay in float.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.int8 import METHODS, FloatGraph, Method
from lit_od.backbone.model import Backbone
from lit_od.fitting.engine import LocalEngine
from lit_od.images.batching import GRAPH_BATCH, load
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.scoring.similar_images import nearest_rows
from lit_od.types import Images, Outputs, WeightBits

CALIBRATION_IMAGES = 64
"""Most images of the fit part that give the ranges of activations."""

CHOICE_IMAGES = 128
"""Most validation images by which graphs are compared."""

NEIGHBOUR_IMAGES = 1000
"""Most images of the fit part among which nearest neighbours are found."""

TABLE_IMAGES = 4
"""Images of the table by layer; all their activations are in memory at once."""

FIRST_LAYERS, LAST_LAYERS = 3, 1
"""Most layers that may stay in float at either end of the graph."""

PAYS = 0.95
"""A layer stays in float if the feature error falls at least to this share.

The first one always does, if there are others: its one or three channels fill no vector of int8 products, so that it
takes longer in int8 than in float.
"""


@dataclass(frozen=True, slots=True)
class Int8Choice:
    """A graph in int8, and the measures it was chosen by.

    Attributes:
        model: The int8 graph.
        maps: The graph of heat maps in int8, where there is one.
        method: Calibration method of activations.
        kept: Names of the layers that stay in float.
        feature_error: Median distance between int8 and float features of validation images, as a share of the median
            distance from a validation image to its nearest neighbour in the fit part, both in float.
        errors: `feature_error` of each method, with all layers but the first in int8.
        layers: Relative difference of activations, by layer, as `FloatGraph.layer_errors` gives it.
    """

    model: bytes
    maps: bytes | None
    method: Method
    kept: tuple[str, ...]
    feature_error: float
    errors: dict[Method, float]
    layers: dict[str, float]


def choose_int8(
    extractor: Extractor,
    graph: FloatGraph,
    fit: Sequence[Source],
    validation: Sequence[Source],
    *,
    weight_bits: WeightBits,
    maps: bytes | None = None,
) -> Int8Choice:
    """Quantise a graph in several ways, and choose the closest to float.

    Args:
        extractor: The float graph, with the preparation of images.
        graph: The same graph, to be quantised.
        fit: Images that give the ranges of activations.
        validation: Images by which the graph is chosen; none of them is in the fit part.
        weight_bits: Bits of the weights.
        maps: The float graph of heat maps, which is quantised in the same way.

    Raises:
        BackboneError: If the graph cannot be quantised.
        DataError: If an image cannot be read.
    """
    pixels = load(evenly(fit, CALIBRATION_IMAGES), extractor.preparation, threads=extractor.threads)
    shown = load(evenly(validation, CHOICE_IMAGES), extractor.preparation, threads=extractor.threads)
    wanted = _rows(extractor.backbone, shown)
    bank = LocalEngine(extractor, quiet=True).outputs(evenly(fit, NEIGHBOUR_IMAGES))
    spacing = float(np.median(nearest_rows(wanted, bank.reshape(len(bank), -1), 1)[1]))

    def error_of(int8: bytes) -> float:
        backbone = Backbone.load(int8, threads=extractor.threads, providers=["cpu"])
        apart = np.linalg.norm((_rows(backbone, shown) - wanted).astype(np.float64), axis=1)
        return float(np.median(apart)) / max(spacing, 1e-30)

    ranges = {method: graph.ranges(pixels, method) for method in METHODS}
    kept = graph.layers[:1] if len(graph.layers) > 1 else ()
    models = {method: graph.quantised(each, weight_bits=weight_bits, kept=kept) for method, each in ranges.items()}
    errors = {method: error_of(int8) for method, int8 in models.items()}
    method = min(errors, key=lambda each: errors[each])
    best, error = models[method], errors[method]
    for layers in (graph.layers[1:FIRST_LAYERS], graph.layers[::-1][:LAST_LAYERS]):
        for layer in layers:
            tried = (*kept, layer)
            if len(tried) >= len(graph.layers):
                break
            int8 = graph.quantised(ranges[method], weight_bits=weight_bits, kept=tried)
            found = error_of(int8)
            if found > PAYS * error:
                break
            best, error, kept = int8, found, tried
    drawn = None
    if maps is not None:
        drawing = FloatGraph.read(maps)
        drawn = drawing.quantised(drawing.ranges(pixels, method), weight_bits=weight_bits, kept=kept)
    table = graph.layer_errors(best, shown[:TABLE_IMAGES])
    return Int8Choice(best, drawn, method, graph.named(kept), error, errors, table)


def _rows(backbone: Backbone, images: Images) -> Outputs:
    """Return the outputs of images as rows (n, d)."""
    outputs = [backbone(images[start : start + GRAPH_BATCH]) for start in range(0, len(images), GRAPH_BATCH)]
    return np.concatenate(outputs).reshape(len(images), -1)
