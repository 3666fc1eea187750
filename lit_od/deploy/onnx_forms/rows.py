"""Detectors of features without a memory bank as nodes of an ONNX graph."""

import math
from typing import Any

import numpy as np

from lit_od.detectors.base import Detector
from lit_od.detectors.ensemble import FeatureEnsemble
from lit_od.detectors.gmm import GMM
from lit_od.detectors.mahalanobis import Mahalanobis
from lit_od.detectors.pca import PCAResidual
from lit_od.errors import ConfigError
from lit_od.formats.onnx_builder import GraphBuilder
from lit_od.import_paths import named
from lit_od.types import Stats


def mahalanobis(graph: GraphBuilder, detector: Mahalanobis, features: str) -> str:
    """Add the distances of features (n, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    wide = graph.cast(features, np.float64)
    white = _whitened(graph, wide, detector.means[0], detector.whitener)
    if len(detector.means) > 1:
        centres = (detector.means - detector.means[0]) @ detector.whitener.T
        lengths = np.vecdot(centres, centres) / 2
        products = graph.op("MatMul", white, graph.constant(centres.T))
        nearest = graph.op("ArgMin", graph.op("Sub", graph.constant(lengths), products), axis=1, keepdims=0)
        white = graph.op("Sub", white, graph.op("Gather", graph.constant(centres), nearest, axis=0))
    least = graph.squared_norms(white)
    if detector.background_mean is None or detector.background_whitener is None:
        return graph.op("Sqrt", least)
    white = _whitened(graph, wide, detector.background_mean, detector.background_whitener)
    return graph.op("Sub", least, graph.squared_norms(white))


def gmm(graph: GraphBuilder, detector: GMM, features: str) -> str:
    """Add the negative log-likelihoods of features (n, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    count, width = detector.means.shape
    wide, joint = graph.cast(features, np.float64), []
    for row, (weight, mean) in enumerate(zip(detector.weights, detector.means, strict=True)):
        match detector.settings.covariance:
            case "full":
                factor = detector.whiteners[row]
            case "tied":
                factor = detector.whiteners
            case "diag":
                factor = detector.whiteners[row]
            case _:
                factor = np.full(width, detector.whiteners[row])
        scales = factor.diagonal() if factor.ndim == 2 else factor
        half = graph.op(
            "Mul", graph.squared_norms(_whitened(graph, wide, mean, factor), keep=True), graph.constant(0.5)
        )
        joint.append(graph.op("Sub", graph.constant(np.log(weight) + np.log(scales).sum()), half))
    if count == 1:
        least = graph.op("Neg", graph.reshape(joint[0], -1))
    else:
        together = graph.op("Concat", *joint, axis=1)
        least = graph.op("Neg", graph.op("ReduceLogSumExp", together, graph.integers(1), keepdims=0))
    return graph.op("Add", least, graph.constant(0.5 * width * math.log(2 * math.pi)))


def pca_residual(graph: GraphBuilder, detector: PCAResidual, features: str) -> str:
    """Add the distances of features (n, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    wide = graph.op("Sub", graph.cast(features, np.float64), graph.constant(detector.mean))
    wide = graph.op("Div", wide, graph.constant(detector.scale))
    kept = graph.op("MatMul", wide, graph.constant(detector.components.T))
    left = graph.op("Sub", wide, graph.op("MatMul", kept, graph.constant(detector.components)))
    distance = graph.op("Sqrt", graph.squared_norms(left))
    return graph.op("Div", distance, graph.constant(detector.noise[0])) if detector.settings.whiten else distance


def feature_ensemble(graph: GraphBuilder, detector: FeatureEnsemble, features: str) -> str:
    """Add the sums of the members' scaled scores of features (n, d).

    Args:
        graph: The graph.
        detector: The fitted detector.
        features: Name of the features, float32, (n, d).
    """
    weights = detector.settings.weights or [1.0] * len(detector.members)
    parts = zip(detector.members, weights, detector.shifts, detector.scales, strict=True)
    return scaled_sum(
        graph, [(add_form(graph, member, features), weight / scale, shift) for member, weight, shift, scale in parts]
    )


def add_form(graph: GraphBuilder, detector: Detector, outputs: str) -> Any:
    """Add a detector by its own form, and return what it gives.

    Args:
        graph: The graph.
        detector: The fitted detector.
        outputs: Name of the backbone's output, float32.

    Raises:
        ConfigError: If the detector has no form, or cannot be written as one.
    """
    if detector.onnx_form is None:
        raise ConfigError(f"detector {detector.kind} has no ONNX form: a model file takes detectors with an onnx_form")
    return named(detector.onnx_form, f"onnx_form of {detector.kind}")(graph, detector, outputs)


def scaled_sum(graph: GraphBuilder, parts: list[tuple[str, float, float]]) -> str:
    """Add the sum of tensors, each less a shift and times a factor.

    Args:
        graph: The graph.
        parts: Name, factor and shift of each, double.
    """
    terms = [
        graph.op("Mul", graph.op("Sub", tensor, graph.constant(shift)), graph.constant(factor))
        for tensor, factor, shift in parts
    ]
    return graph.op("Sum", *terms)


def _whitened(graph: GraphBuilder, rows: str, mean: Stats, factor: Stats) -> str:
    """Add W (x - m) of rows (n, d), double; W is a matrix (d, d) or a diagonal."""
    offset = graph.op("Sub", rows, graph.constant(mean))
    if factor.ndim == 1:
        return graph.op("Mul", offset, graph.constant(factor))
    return graph.op("MatMul", offset, graph.constant(factor.T))
