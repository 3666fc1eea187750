"""The registry: every detector by its kind."""

from collections.abc import Mapping
from typing import Any

from lit_od.checks import suggest
from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.gmm import GMM
from lit_od.detectors.knn import KNN
from lit_od.detectors.local_residual import LocalResidual
from lit_od.detectors.lof import LOF
from lit_od.detectors.mahalanobis import Mahalanobis
from lit_od.detectors.options import read_options
from lit_od.detectors.pca import PCAResidual
from lit_od.detectors.reconstruction import Reconstruction
from lit_od.errors import ConfigError
from lit_od.types import Arrays

DETECTORS: dict[str, type[Any]] = {
    detector.kind: detector for detector in (Mahalanobis, KNN, LOF, LocalResidual, GMM, PCAResidual, Reconstruction)
}
"""Every detector by its kind."""


def accumulator(kind: str, options: Mapping[str, Any], *, first_row: int = 0) -> Accumulator:
    """An empty accumulator for a detector named in a recipe.

    Args:
        kind: A key of `DETECTORS`.
        options: Plain values by name; what is left out takes its default.
        first_row: Number of the first row it will see, among the rows of all accumulators that
            are to be merged. Detectors that draw a sample of the rows draw it by row number.

    Raises:
        ConfigError: On an unknown kind, an unknown option, a wrong type or a value out of range.
    """
    detector = _known(kind)
    settings = read_options(kind, detector.options_type, options)
    gathered: Accumulator = detector.start(settings, first_row)
    return gathered


def detector_from_state(kind: str, options: Mapping[str, Any], state: Arrays) -> Detector:
    """A fitted detector from its kind, options and arrays, as a bundle holds them.

    Raises:
        ConfigError: On an unknown kind, or options that do not exist or are out of range.
        DataError: If the arrays do not fit the options or each other.
    """
    detector: Detector = _known(kind).from_state(dict(options), state)
    return detector


def _known(kind: str) -> type[Any]:
    if kind not in DETECTORS:
        raise ConfigError(f"unknown detector {kind!r}: {suggest(kind, list(DETECTORS))}")
    return DETECTORS[kind]
