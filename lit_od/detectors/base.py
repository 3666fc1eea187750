"""Protocols of detectors, which score, and of accumulators, which gather.

There is no unfitted detector: `fit` is a classmethod that returns a fitted, frozen object.
An accumulator takes a stream of feature batches, merges with the accumulators of other
processes or machines, and freezes into the same object that `fit` on all rows gives.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Features, Labels, Maps, Output, Outputs, Scores, Stats

Batches: TypeAlias = Callable[[], Iterable[Outputs]]
"""Outputs of images, batch by batch, anew with every call."""

BLOCK_VALUES = 1 << 22
"""Float64 values that scoring holds at once for one block of rows: 32 MB."""

CACHED_VALUES = 1 << 16
"""Float64 values that stay in a core's cache, for arithmetic without matrix products: 512 kB."""


@runtime_checkable
class Detector(Protocol):
    """A fitted detector. Higher scores are more outlying.

    A detector derives from this class and implements its abstract members. It is registered in
    `lit_od.detectors.registry`, or goes by its import path, which then is its kind.

    Attributes:
        kind: Name in recipes, manifests and on the command line; the class' import path,
            "package.module:Class", unless it says another.
        reads: The backbone output that it scores: "features" (n, d) or "errors" (n, h, w, c).
        options_type: Frozen dataclass of its options, which checks them when it is made. Where its field
            `class_conditional` is true, every image needs a class, and `update` gets the labels.
        passes: Passes over the images that fitting takes, 1 or 2; the second begins with `start_second`.
        torch_form: Import path of a function that gives the same scores in torch, as those of
            `lit_od.training.explain.torch_scores`; None where there is no gradient.
        onnx_form: Import path of a function that adds its scores to an ONNX graph, as those of
            `lit_od.deploy.onnx_forms`; None where it has none.
    """

    __slots__ = ()

    kind: ClassVar[str]
    reads: ClassVar[Output]
    options_type: ClassVar[type[Any]]
    passes: ClassVar[int] = 1
    torch_form: ClassVar[str | None] = None
    onnx_form: ClassVar[str | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's output that it scores: (d,) or (h, w, c)."""

    @property
    def width(self) -> int:
        """Number of values of one image's output."""
        return math.prod(self.input_shape)

    @property
    def is_distance(self) -> bool:
        """True if scores, or those of cells, are at least 0 by definition."""
        return True

    @abstractmethod
    def score(self, outputs: Outputs, /) -> Scores:
        """Return outlier scores of shape (n,), float64.

        Several threads may score at once.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """

    @property
    def falls_with_rows(self) -> bool:
        """True if further inliers can only lower scores, as where all rows are kept."""
        return False

    @classmethod
    def can_leave_out(cls, settings: Any) -> bool:
        """Return True if options allow `score_left_out`."""
        del settings
        return False

    def score_left_out(self, outputs: Outputs, /) -> Scores:
        """Score the inliers of the fit, each as if fitted without that one.

        Args:
            outputs: Outputs of all of them, in the order of the fit, shape (n, ...).

        Returns:
            Scores of shape (n,).

        Raises:
            ConfigError: If the detector takes a fit for each.
            DataError: If too few inliers are left.
        """
        del outputs
        raise ConfigError(f"detector {self.kind} scores its inliers by a fit without each of them")

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with, as plain JSON values."""

    @abstractmethod
    def state(self) -> Arrays:
        """Return the fitted statistics by name. `from_state` gives the same object back.

        A trained or graph index is the uint8 array "index" (FAISS' own serialisation).
        """

    @classmethod
    @abstractmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """

    @property
    def only_lowers(self) -> bool:
        """True if `accept` can raise no score: calibration scores bound the new ones."""
        return False

    def sums(self) -> "Accumulator | None":
        """Return an empty accumulator of the sums that `accept` needs, if any.

        What the sums are taken of (a projection) is the detector's own.
        """
        return None

    def sums_of(self, gathered: "Accumulator", /) -> "Accumulator | None":
        """Return the sums of the accumulator that gave this detector; None as `sums`."""
        return None if self.sums() is None else gathered

    @property
    def accepts(self) -> bool:
        """True if it can take further images for normal ones without being fitted anew."""
        return self.sums() is not None

    def accept(self, batches: Batches, sums: "Accumulator | None" = None, /, *, limit: float) -> "Detector":
        """Return the detector that takes further images for normal ones.

        What it was fitted on stays.

        Args:
            batches: Gives the outputs of the images, shape (n, ...) a batch, anew with every call.
            sums: The sums of what it was fitted on, as `sums_of` gives them; the images are added.
            limit: Score that they should not exceed: a bank of patches takes no more patches than that needs.

        Raises:
            ConfigError: If the detector cannot take images.
            DataError: On a wrong shape, or values that are not finite.
        """
        if sums is None:
            raise ConfigError(f"detector {self.kind} takes no further images: fit it anew with lit-od refit")
        for batch in batches():
            sums.update(batch)
        return sums.finish()

    @classmethod
    def require_installed(cls, settings: Any) -> None:
        """Raise MissingExtra if fitting with these options needs a missing package."""
        del settings

    @classmethod
    @abstractmethod
    def start(cls, settings: Any, first_row: int = 0) -> "Accumulator":
        """Return an empty accumulator.

        Args:
            settings: Checked options, an object of `options_type`.
            first_row: Number of the first row it will see, among the rows of all accumulators.
        """

    @classmethod
    def start_second(cls, after: "Accumulator", first_row: int = 0) -> "Accumulator":
        """Return an empty accumulator for the second pass of a detector that takes two.

        Args:
            after: Accumulator of the first pass over all images.
            first_row: Number of the first row it will see, among the rows of all accumulators.

        Raises:
            ConfigError: If the detector takes one pass.
        """
        del after, first_row
        raise ConfigError(f"detector {cls.kind} is fitted in one pass over the images, not two")


@runtime_checkable
class PixelDetector(Detector, Protocol):
    """A detector that also scores every pixel."""

    __slots__ = ()

    @property
    def score_is_peak(self) -> bool:
        """True if an image's score is the peak of its map: one threshold serves both."""
        return False

    @property
    def counted(self) -> NDArray[np.bool_] | None:
        """Pixels of a map that count, (h, w), with a region of interest; None if all do."""
        return None

    @abstractmethod
    def score_map(self, outputs: Outputs, /) -> tuple[Scores, Maps]:
        """Return scores of shape (n,) and maps of shape (n, h, w); raises as `score`."""


class Accumulator(Protocol):
    """An accumulator of outputs, batch by batch, that becomes a detector."""

    @property
    def settings(self) -> Any:
        """The detector's options, an object of its `options_type`."""
        ...

    def update(self, outputs: Outputs, labels: Labels | None = None, /) -> None:
        """Take a batch of shape (n, ...); a batch of no rows changes nothing.

        Labels of shape (n,) are used by class-conditional detectors alone.
        """
        ...

    def merge(self, other: Self, /) -> None:
        """Merge an accumulator with the same options that has seen the next rows."""
        ...

    def finish(self) -> Detector:
        """Return the fitted detector.

        Raises:
            DataError: If the rows do not suffice.
        """
        ...

    def state(self) -> Arrays:
        """Return all that was gathered by name, for another process."""
        ...

    def restore(self, state: Arrays, /) -> None:
        """Replace all that was gathered by a `state()`.

        Raises DataError where the arrays do not fit together.
        """
        ...


def check_features(features: Features, width: int | None = None) -> Features:
    """Return features of shape (n, d) unchanged.

    Raises:
        DataError: If they are not finite floating-point numbers, or not of this width.
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise DataError(f"features must have shape (n, d), got {features.shape}")
    if features.dtype.kind != "f":
        raise DataError(f"features must be floating point, got {features.dtype}")
    if width is not None and features.shape[1] != width:
        raise DataError(f"features must be {width} wide, as the detector's are, got {features.shape[1]}")
    if features.shape[1] == 0:
        raise DataError("features must have shape (n, d) with d at least 1, got d = 0")
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise DataError(f"features must be finite, but {bad} of {len(features)} rows hold NaN or infinity")
    return features


def check_labels(labels: Labels, rows: int) -> Labels:
    """Return labels unchanged.

    Raises:
        DataError: Unless they are integers of shape (rows,).
    """
    labels = np.asarray(labels)
    if labels.shape != (rows,):
        raise DataError(f"labels must have shape ({rows},), one a row of features, got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels must be integers, got {labels.dtype}")
    return labels


def row_blocks(features: Features, values_a_row: int, values: int = BLOCK_VALUES) -> Iterator[tuple[slice, Stats]]:
    """Yield the rows in float64, in blocks that bound the memory of scoring.

    Args:
        features: Shape (n, ...).
        values_a_row: Float64 values that the caller's arithmetic needs for one row.
        values: Float64 values that a block may need.

    Yields:
        The rows' slice, and a float64 copy of the rows, which the caller may change.
    """
    step = max(1, values // values_a_row)
    for start in range(0, len(features), step):
        rows = slice(start, min(start + step, len(features)))
        yield rows, features[rows].astype(np.float64)
