"""What every detector is: a frozen object that scores, and an accumulator that gathers.

`fit` is a classmethod that returns a fitted, frozen object; there is no unfitted detector.
An accumulator takes a stream of feature batches, merges with the accumulators of other
processes or machines, and freezes into the same object that `fit` on all rows gives.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Labels, Maps, Output, Outputs, Scores, Stats

BLOCK_VALUES = 1 << 22
"""Float64 values that scoring holds at once for one block of rows: 32 MB."""

CACHED_VALUES = 1 << 16
"""Float64 values that stay in a core's cache, for arithmetic without matrix products: 512 kB."""


@runtime_checkable
class Detector(Protocol):
    """A fitted detector. Higher scores are more outlying.

    Attributes:
        kind: Name in recipes, manifests and on the command line.
        reads: The backbone output that it scores: "features" (n, d) or "errors" (n, h, w, c).
    """

    kind: ClassVar[str]
    reads: ClassVar[Output]

    @property
    def width(self) -> int:
        """Number of values an image must bring: d, or h * w * c."""
        ...

    def score(self, features: Features) -> Scores:
        """Outlier scores of shape (n,), float64. Raises DataError on a wrong width or NaN."""
        ...

    def options(self) -> dict[str, Any]:
        """The options it was fitted with: plain JSON values, as the accumulator takes them."""
        ...

    def state(self) -> Arrays:
        """The fitted statistics by name. `from_state` gives the same object back.

        A trained or graph index is the uint8 array "index" (FAISS' own serialisation).
        """
        ...

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`. Raises DataError where they do not fit together."""
        ...


@runtime_checkable
class PixelDetector(Detector, Protocol):
    """A detector that also scores pixels."""

    def score_map(self, outputs: Outputs) -> tuple[Scores, Maps]:
        """Return scores (n,) and maps (n, h, w), in one pass."""
        ...


class Accumulator(Protocol):
    """Gathers a stream of features, batch by batch, and freezes into a detector."""

    def update(self, features: Features, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, d); a batch of no rows changes nothing.

        Labels of shape (n,) are used by class-conditional detectors alone.
        """
        ...

    def merge(self, other: Self) -> None:
        """Take over what another accumulator, with the same options, has gathered after this one's rows."""
        ...

    def finish(self) -> Detector:
        """The fitted detector. Raises DataError where the rows do not suffice."""
        ...


def check_features(features: Features, width: int | None = None) -> Features:
    """Features of shape (n, d) as they are, or a DataError that says what is wrong with them."""
    features = np.asarray(features)
    if features.ndim != 2:
        raise DataError(f"features must have shape (n, d), got {features.shape}")
    if features.dtype.kind != "f":
        raise DataError(f"features must be floating point, got {features.dtype}")
    if width is not None and features.shape[1] != width:
        raise DataError(f"features must be {width} wide, as the detector's are, got {features.shape[1]}")
    if features.shape[1] == 0:
        raise DataError("features must have shape (n, d) with d at least 1, got d = 0")
    with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs have no sum
        total = np.add.reduce(features, axis=None, dtype=np.float64)  # finite unless a value is not, or it overflows
    if not math.isfinite(total) and not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise DataError(f"features must be finite, but {bad} of {len(features)} rows hold NaN or infinity")
    return features


def check_labels(labels: Labels, rows: int) -> Labels:
    """Integer labels of shape (rows,) as they are, or a DataError that says what is wrong with them."""
    labels = np.asarray(labels)
    if labels.shape != (rows,):
        raise DataError(f"labels must have shape ({rows},), one a row of features, got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels must be integers, got {labels.dtype}")
    return labels


def row_blocks(features: Features, values_a_row: int, values: int = BLOCK_VALUES) -> Iterator[tuple[slice, Stats]]:
    """The rows in float64, in blocks that bound the memory of scoring.

    Args:
        features: Shape (n, ...).
        values_a_row: Float64 values that the caller's arithmetic needs for one row.
        values: Float64 values that a block may need.

    Yields:
        The rows' slice, and the rows as a float64 array of their own, which the caller may change.
    """
    step = max(1, values // values_a_row)
    for start in range(0, len(features), step):
        rows = slice(start, min(start + step, len(features)))
        yield rows, features[rows].astype(np.float64)


def searches(detector: Detector) -> bool:
    """Whether a detector looks for neighbours in a bank, as FAISS does."""
    return hasattr(detector, "bank")
