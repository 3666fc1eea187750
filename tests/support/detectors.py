"""Detectors outside the package, as somebody else would write them: named by their import paths."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import number
from lit_od.detectors import Accumulator, Detector
from lit_od.detectors.base import check_features
from lit_od.detectors.class_moments import MomentsAccumulator
from lit_od.detectors.options import read_options
from lit_od.detectors.state import check_names, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Labels, Output, Scores, Stats

MEAN_DISTANCE = "tests.support.detectors:MeanDistance"
DEVIATION = "tests.support.detectors:Deviation"


@dataclass(frozen=True, slots=True)
class MeanDistanceOptions:
    """Options, checked: the order of the norm."""

    order: float = 2.0

    def __post_init__(self) -> None:
        number("order", self.order, least=1)


@dataclass(frozen=True, slots=True, eq=False)
class MeanDistance(Detector):
    """Distance to the inliers' mean in some norm."""

    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[MeanDistanceOptions]] = MeanDistanceOptions

    settings: MeanDistanceOptions
    mean: Stats

    @classmethod
    def start(cls, settings: MeanDistanceOptions, first_row: int = 0) -> "Means":
        return Means(settings)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.mean.shape

    def score(self, features: Features) -> Scores:
        rows = check_features(features, self.width) - self.mean
        scores: Scores = np.linalg.norm(rows, ord=self.settings.order, axis=1)
        return scores

    def options(self) -> dict[str, Any]:
        return asdict(self.settings)

    def state(self) -> Arrays:
        return {"mean": self.mean}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        settings = read_options(cls.kind, MeanDistanceOptions, options)
        check_names(cls.kind, state, ("mean",))
        return cls(settings, take(state, "mean", (None,)))


class Means(MomentsAccumulator[MeanDistanceOptions]):
    """Gathers the mean."""

    def finish(self) -> MeanDistance:
        moments = self.moments.get(0)
        if moments is None or moments.count == 0:
            raise DataError("MeanDistance needs at least 1 row of features, got 0")
        return MeanDistance(self.settings, moments.mean)


@dataclass(frozen=True, slots=True, eq=False)
class Deviation(MeanDistance):
    """Distance to the mean in units of the mean absolute deviation from it, which takes a second pass."""

    passes: ClassVar[int] = 2

    deviation: Stats

    @classmethod
    def start_second(cls, after: Accumulator, first_row: int = 0) -> "Deviations":
        assert isinstance(after, Means)
        return Deviations(after.finish())

    def score(self, features: Features) -> Scores:
        return MeanDistance.score(self, features) / self.deviation

    def state(self) -> Arrays:
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        settings = read_options(cls.kind, MeanDistanceOptions, options)
        check_names(cls.kind, state, ("mean", "deviation"))
        return cls(settings, take(state, "mean", (None,)), take(state, "deviation", (1,)))


class Deviations:
    """Gathers the mean absolute deviation from a mean that a first pass has found."""

    def __init__(self, first: MeanDistance) -> None:
        self.first, self.settings = first, first.settings
        self.sums = np.zeros(2)  # of the distances, and their number

    def update(self, features: Features, labels: Labels | None = None) -> None:
        distances = self.first.score(features)
        self.sums += distances.sum(), len(distances)

    def merge(self, other: Self) -> None:
        self.sums += other.sums

    def state(self) -> Arrays:
        return {"sums": self.sums}

    def restore(self, state: Arrays) -> None:
        self.sums = take(state, "sums", (2,)).copy()

    def finish(self) -> Deviation:
        return Deviation(self.settings, self.first.mean, self.sums[:1] / self.sums[1])
