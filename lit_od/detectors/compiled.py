"""Detectors whose scores and maps a graph has computed already."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.detectors.base import Accumulator, Detector, PixelDetector
from lit_od.detectors.map_options import Cells, MapOptions
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Maps, Outputs, Scores


@dataclass(frozen=True, slots=True, eq=False)
class CompiledScores(Detector):
    """Scores that the graph of a model file gives.

    Attributes:
        fitted: Kind of the detector that the graph holds.
        fitted_options: The options it was fitted with.
    """

    kind: ClassVar[str] = "model_file"
    reads: ClassVar[Any] = "verdicts"
    options_type: ClassVar[type[Any]] = object

    fitted: str
    fitted_options: dict[str, Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what the graph gives for an image."""
        return (1,)

    def score(self, outputs: Outputs, /) -> Scores:
        """Return the scores, (n,).

        Raises:
            DataError: If one is not finite.
        """
        scores = np.asarray(outputs[:, 0], np.float64)
        if not np.isfinite(scores).all():
            raise DataError("scores of a model file must be finite")
        return scores

    def options(self) -> dict[str, Any]:
        """Return the options that the detector was fitted with."""
        return dict(self.fitted_options)

    def state(self) -> Arrays:
        """Return nothing: the graph holds the state."""
        return {}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Raise ConfigError: a model file holds the state."""
        raise ConfigError("a model file is read whole: its detector has no state of its own")

    @classmethod
    def start(cls, settings: Any, first_row: int = 0) -> Accumulator:
        """Raise ConfigError: a model file is not fitted."""
        raise ConfigError("a model file is not fitted anew: refit the bundle that it was compiled from")


@dataclass(frozen=True, slots=True, eq=False)
class CompiledMaps(CompiledScores, PixelDetector):
    """Scores and maps that the graph of a model file gives.

    Attributes:
        size: Height and width of maps.
    """

    size: tuple[int, int]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what the graph gives for an image: its score and its map."""
        return (1 + math.prod(self.size),)

    @property
    def score_is_peak(self) -> bool:
        """True if an image's score is the largest value of its map."""
        return self.fitted_options.get("aggregate") == "max"

    @property
    def map_options(self) -> MapOptions:
        """Size and aggregate of maps, which are smoothed already."""
        known = {name: self.fitted_options[name] for name in ("aggregate", "share") if name in self.fitted_options}
        return MapOptions(**known, size=list(self.size))

    @property
    def least_map_value(self) -> float:
        """Least value of a map."""
        return 0.0

    def cells_of_tiles(self, outputs: Outputs, /) -> Cells:
        """Return the maps of tiles, (n, h, w), each pixel of which is a cell.

        Raises:
            DataError: If a score is not finite.
        """
        return np.asarray(self.score_map(outputs)[1], np.float32)

    def score_map(self, outputs: Outputs, /) -> tuple[Scores, Maps]:
        """Return scores (n,), and maps (n, h, w), float32.

        Raises:
            DataError: If a score is not finite.
        """
        return self.score(outputs), np.asarray(outputs[:, 1:], np.float32).reshape(-1, *self.size)
