"""An accumulator of moments of features, class by class."""

from typing import Generic, Self, TypeVar

import numpy as np

from lit_od.detectors.base import check_features
from lit_od.detectors.moments import SUMS, Moments
from lit_od.detectors.options import same_options
from lit_od.detectors.state import check_names, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Labels

Options = TypeVar("Options")


class MomentsAccumulator(Generic[Options]):
    """An accumulator of moments: one set of sums, or in subclasses one a class.

    Attributes:
        settings: The detector's options.
        moments: Sums by class label; the key is 0 where there are no classes.
    """

    __slots__ = ("moments", "settings")

    def __init__(self, settings: Options) -> None:
        self.settings = settings
        self.moments: dict[int, Moments] = {}

    @property
    def width(self) -> int | None:
        """Features a row, d; None before the first batch."""
        return next((moments.width for moments in self.moments.values()), None)

    def update(self, features: Features, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, d); labels play no part.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        width = self.width or check_features(features).shape[1]
        self.of_class(0, width).update(features)

    def merge(self, other: Self) -> None:
        """Merge an accumulator with the same options, class by class.

        Raises:
            ConfigError: If the options differ.
            DataError: If the widths differ.
        """
        same_options(self.settings, other.settings)
        if self.moments and other.moments and self.width != other.width:
            raise DataError(f"accumulators to merge must have one width, got {self.width} and {other.width}")
        for label, moments in other.moments.items():
            self.of_class(label, moments.width).merge(moments)

    def of_class(self, label: int, width: int) -> Moments:
        """Return the sums of a class, new ones where it has none yet."""
        if label not in self.moments:
            self.moments[label] = Moments(width)
        return self.moments[label]

    def state(self) -> Arrays:
        """Return the sums of k classes: k labels, and each sum stacked to (k, ...)."""
        if not self.moments:
            return {}
        labels = sorted(self.moments)
        states = [self.moments[label].state() for label in labels]
        return {name: np.stack([state[name] for state in states]) for name in SUMS} | {
            "labels": np.array(labels, np.int64)
        }

    def restore(self, state: Arrays) -> None:
        """Replace the sums by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.moments = {}
        if not state:
            return
        check_names("a share", state, ("labels", *SUMS))
        labels = take(state, "labels", (None,), np.int64)
        if any(len(state[name]) != len(labels) for name in SUMS):
            raise DataError("the state of a share holds another number of classes than of sums")
        for row, label in enumerate(labels):
            self.moments[int(label)] = Moments.from_state({name: state[name][row] for name in SUMS})
