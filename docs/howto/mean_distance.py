"""A detector of features: the distance to the inliers' mean in some norm."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import number
from lit_od.detectors import Detector
from lit_od.detectors.base import check_features
from lit_od.detectors.class_moments import MomentsAccumulator
from lit_od.types import Arrays, Features, Output, Scores, Stats


@dataclass(frozen=True)
class Options:
    """Options of a recipe besides `kind`, checked."""

    order: float = 2.0

    def __post_init__(self) -> None:
        number("order", self.order, least=1)


@dataclass(frozen=True, eq=False)
class MeanDistance(Detector):
    """A fitted detector: it is never changed."""

    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[Options]] = Options

    settings: Options
    mean: Stats

    @classmethod
    def start(cls, settings: Options, first_row: int = 0) -> "Means":
        return Means(settings)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.mean.shape

    def score(self, features: Features) -> Scores:  # (n, d) to (n,); higher is more outlying
        return np.linalg.norm(check_features(features, self.width) - self.mean, ord=self.settings.order, axis=1)

    def options(self) -> dict[str, Any]:
        return asdict(self.settings)

    def state(self) -> Arrays:
        return {"mean": self.mean}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        return cls(Options(**options), state["mean"])


class Means(MomentsAccumulator[Options]):
    """Accumulator of the inliers, batch by batch; it merges with those of other processes."""

    def finish(self) -> MeanDistance:
        return MeanDistance(self.settings, self.moments[0].mean)
