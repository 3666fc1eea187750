"""A detector that needs two passes over the images, and scores pixels."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.detectors.base import PixelDetector
from lit_od.detectors.options import read_options, same_options
from lit_od.errors import DataError
from lit_od.types import Arrays, Labels, Maps, Output, Outputs, Scores, Stats


@dataclass(frozen=True)
class PixelDeviationOptions:
    """Options.

    Attributes:
        floor: Least deviation.
    """

    floor: float = 1e-3


@dataclass(frozen=True, eq=False)
class PixelDeviation(PixelDetector):
    """Squared errors less their mean, over the mean absolute deviation from it, pixel by pixel.

    The first pass sums the errors, and the second the deviations from the first's mean.
    """

    reads: ClassVar[Output] = "errors"
    options_type: ClassVar[type[PixelDeviationOptions]] = PixelDeviationOptions
    passes: ClassVar[int] = 2

    settings: PixelDeviationOptions
    mean: Stats
    deviation: Stats

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.mean.shape

    def score_map(self, outputs: Outputs, /) -> tuple[Scores, Maps]:
        if not np.isfinite(outputs).all():
            raise DataError("errors must be finite")
        maps = ((outputs - self.mean) / np.maximum(self.deviation, self.settings.floor)).mean(axis=3)
        return maps.max(axis=(1, 2)).astype(np.float64), maps

    def score(self, outputs: Outputs, /) -> Scores:
        return self.score_map(outputs)[0]

    def options(self) -> dict[str, Any]:
        return asdict(self.settings)

    def state(self) -> Arrays:
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        return cls(read_options(cls.kind, PixelDeviationOptions, options), state["mean"], state["deviation"])

    @classmethod
    def start(cls, settings: Any, first_row: int = 0) -> "Sums":
        return Sums(settings, None)

    @classmethod
    def start_second(cls, after: Any, first_row: int = 0) -> "Sums":
        return Sums(after.settings, after.total / after.count)


class Sums:
    """Sums of errors, or of their deviations from the first pass' mean."""

    def __init__(self, settings: PixelDeviationOptions, mean: Stats | None) -> None:
        self.settings, self.mean, self.total, self.count = settings, mean, np.zeros(()), 0

    def update(self, outputs: Outputs, labels: Labels | None = None, /) -> None:
        rows = outputs.astype(np.float64) if self.mean is None else np.abs(outputs - self.mean)
        self.total = self.total + rows.sum(axis=0)
        self.count += len(outputs)

    def merge(self, other: Self, /) -> None:
        same_options(self.settings, other.settings)
        self.total = self.total + other.total
        self.count += other.count

    def state(self) -> Arrays:
        return {"total": np.asarray(self.total), "count": np.array([self.count], np.int64)}

    def restore(self, state: Arrays, /) -> None:
        self.total, self.count = np.array(state["total"]), int(state["count"][0])

    def finish(self) -> PixelDeviation:
        if self.mean is None:
            raise DataError("the second pass is missing")
        return PixelDeviation(self.settings, self.mean, self.total / self.count)
