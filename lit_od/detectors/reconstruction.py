"""Reconstruction error of an autoencoder, as one score an image or one a pixel."""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import number, one_of
from lit_od.detectors.base import PixelDetector, row_blocks
from lit_od.detectors.map_mask import require_packed, unpack
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.state import check_names, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Labels, Maps, Output, Outputs, Scores

Metric: TypeAlias = Literal["mse", "rmse"]

PIXEL_PERCENT = 99
"""Percent of the inliers' pixels at or below a bundle's threshold for pixels."""

MAX_ELEMENTS = 2**28
"""Errors of one image at most: 1 GiB of float32."""


@dataclass(frozen=True, slots=True)
class ReconstructionOptions:
    """Options, checked: see `Reconstruction.accumulator`."""

    metric: Metric = "mse"
    outlier_perc: float = 100
    mask: str | None = None  # pixels that count, as `map_mask.pack` writes them

    def __post_init__(self) -> None:
        one_of("metric", self.metric, ("mse", "rmse"))
        number("outlier_perc", self.outlier_perc, above=0, most=100)
        require_packed(self.mask)


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction(PixelDetector):
    """Mean of the largest squared errors of an image's reconstruction.

    The `outlier_perc` % largest of the h * w * c squared errors are averaged, their number rounded
    up; "rmse" is the root of that mean. A small percentage finds small defects in large images.
    Nothing is learnt from inliers but the shape; the threshold comes from calibration.

    Attributes:
        settings: The options it was fitted with.
        shape: Height, width and channels of the errors.

    Example:
        >>> errors = np.zeros((2, 8, 8, 1), dtype=np.float32)
        >>> errors[1, :2, :2] = 0.5
        >>> Reconstruction.fit(errors[:1], outlier_perc=10).score(errors).round(3).tolist()
        [0.0, 0.286]
    """

    kind: ClassVar[str] = "reconstruction"
    reads: ClassVar[Output] = "errors"
    options_type: ClassVar[type[ReconstructionOptions]] = ReconstructionOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:reconstruction"

    settings: ReconstructionOptions
    shape: tuple[int, int, int]

    @classmethod
    def fit(cls, errors: Outputs, *, metric: Metric = "mse", outlier_perc: float = 100) -> "Reconstruction":
        """Take the shape from the inliers' squared errors.

        Args:
            errors: Shape (n, h, w, c).
            metric: "mse", or its root, "rmse".
            outlier_perc: Share of the elements that count, the largest ones, in percent.

        Raises:
            ConfigError: On an option out of range.
            DataError: On a wrong shape, no images, or values that are negative or not finite.
        """
        gathered = cls.accumulator(metric=metric, outlier_perc=outlier_perc)
        gathered.update(errors)
        return gathered.finish()

    @classmethod
    def accumulator(cls, *, metric: Metric = "mse", outlier_perc: float = 100) -> "ReconstructionAccumulator":
        """Return an empty accumulator; options as `fit` takes them.

        Raises:
            ConfigError: On an option out of range.
        """
        return cls.start(ReconstructionOptions(metric, outlier_perc))

    @classmethod
    def start(cls, settings: ReconstructionOptions, first_row: int = 0) -> "ReconstructionAccumulator":
        """Return an empty accumulator for checked options; row numbers play no part."""
        del first_row
        return ReconstructionAccumulator(settings)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the errors."""
        return self.shape

    @property
    def counted(self) -> NDArray[np.bool_] | None:
        """Pixels whose errors count, (h, w); None if all do."""
        mask = self.settings.mask
        return None if mask is None else unpack(mask, self.shape[0], self.shape[1])

    @property
    def elements(self) -> int:
        """Number of an image's errors that count."""
        counted = self.counted
        return self.width if counted is None else int(np.count_nonzero(counted)) * self.shape[2]

    def score(self, errors: Outputs) -> Scores:
        """Return scores of shape (n,) for squared errors of shape (n, h, w, c).

        Raises:
            DataError: On a wrong shape, or values that are negative or not finite.
        """
        errors = check_errors(errors, self.shape)
        if (counted := self.counted) is not None:
            errors = errors[:, counted]
        scores, elements = np.empty(len(errors)), self.elements
        count = elements_averaged(elements, self.settings.outlier_perc)
        for rows, block in row_blocks(errors, 2 * elements):
            flat = block.reshape(len(block), -1)
            if count < elements:
                flat = np.partition(flat, elements - count, axis=1)[:, elements - count :]
            scores[rows] = flat.mean(axis=1)
        return np.sqrt(scores) if self.settings.metric == "rmse" else scores

    def score_map(self, errors: Outputs) -> tuple[Scores, Maps]:
        """Return scores of shape (n,), and squared errors of pixels, shape (n, h, w).

        Pixels that do not count are 0.

        Raises:
            DataError: On a wrong shape, or values that are negative or not finite.
        """
        maps, counted = pixel_scores(errors), self.counted
        return self.score(errors), maps if counted is None else maps * counted

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with; the mask only where there is one."""
        return {name: value for name, value in asdict(self.settings).items() if name != "mask" or value is not None}

    def state(self) -> Arrays:
        """Return height, width and channels."""
        return {"shape": np.array(self.shape, dtype=np.int64)}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays are not those of this detector.
        """
        settings = read_options(cls.kind, ReconstructionOptions, options)
        check_names(cls.kind, state, ("shape",))
        height, width, channels = (int(length) for length in take(state, "shape", (3,), np.int64))
        if min(height, width, channels) < 1 or height * width * channels > MAX_ELEMENTS:
            raise DataError(
                f"array 'shape' of the state must be positive, of at most {MAX_ELEMENTS:,} elements, "
                f"got {height, width, channels}"
            )
        return _checked(cls(settings, (height, width, channels)))


class ReconstructionAccumulator:
    """An accumulator that checks errors and keeps nothing but their shape.

    Attributes:
        settings: The options.
        shape: Height, width and channels; None before the first batch.
        count: Images so far.
    """

    __slots__ = ("count", "settings", "shape")

    def __init__(self, settings: ReconstructionOptions) -> None:
        self.settings = settings
        self.shape: tuple[int, int, int] | None = None
        self.count = 0

    def update(self, errors: Outputs, labels: Labels | None = None) -> None:
        """Take squared errors of shape (n, h, w, c); labels play no part.

        Raises:
            DataError: On a wrong shape, or values that are negative or not finite.
        """
        errors = check_errors(errors, self.shape)
        self.shape = (errors.shape[1], errors.shape[2], errors.shape[3])
        self.count += len(errors)

    def merge(self, other: Self) -> None:
        """Merge an accumulator with the same options.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ.
        """
        same_options(self.settings, other.settings)
        if self.shape and other.shape and self.shape != other.shape:
            raise DataError(f"accumulators to merge must have one shape, got {self.shape} and {other.shape}")
        self.shape = self.shape or other.shape
        self.count += other.count

    def state(self) -> Arrays:
        """Return shape and number of images; nothing before the first batch."""
        if self.shape is None:
            return {}
        return {"shape": np.array(self.shape, np.int64), "count": np.array([self.count], np.int64)}

    def restore(self, state: Arrays) -> None:
        """Replace shape and count by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.shape, self.count = None, 0
        if state:
            check_names("a share", state, ("shape", "count"))
            height, width, channels = (int(side) for side in take(state, "shape", (3,), np.int64))
            self.shape, self.count = (height, width, channels), int(take(state, "count", (1,), np.int64)[0])

    def finish(self) -> Reconstruction:
        """Return the fitted detector.

        Raises:
            DataError: If there were no images.
        """
        if self.shape is None or self.count == 0:
            raise DataError("Reconstruction needs the errors of at least 1 image, got 0. Pass more images.")
        return _checked(Reconstruction(self.settings, self.shape))


D = TypeVar("D", bound=Reconstruction)


def _checked(detector: D) -> D:
    """Return the detector. Raises ConfigError if its mask does not fit the errors."""
    _ = detector.counted
    return detector


def elements_averaged(width: int, percent: float) -> int:
    """Return how many of an image's largest errors give its score."""
    # Multiplied before it is divided: 7 % of 100 elements are 7, though 0.07 * 100 > 7.
    return max(1, math.ceil(width * percent / 100))  # of 1e-323 % the quotient is 0


def check_errors(errors: Outputs, shape: tuple[int, int, int] | None = None) -> Outputs:
    """Return squared errors of shape (n, h, w, c) unchanged.

    Raises:
        DataError: If they have another shape, or are negative or not finite.
    """
    errors = np.asarray(errors)
    if errors.ndim != 4 or 0 in errors.shape[1:]:
        raise DataError(f"squared errors must have shape (n, h, w, c), got {errors.shape}")
    if errors.dtype.kind != "f":
        raise DataError(f"squared errors must be floating point, got {errors.dtype}")
    if shape is not None and errors.shape[1:] != shape:
        raise DataError(f"squared errors must have shape (n, {str(shape)[1:]}, got {errors.shape}")
    fine = np.isfinite(errors)
    if not fine.all():
        bad = int((~fine.reshape(len(errors), -1)).any(axis=1).sum())
        raise DataError(f"squared errors must be finite, but {bad} of {len(errors)} rows hold NaN or infinity")
    if errors.size and errors.min() < 0:
        raise DataError(f"squared errors must not be negative, got {errors.min():g}. Square them first.")
    return errors


def pixel_scores(errors: Outputs) -> Maps:
    """Return the score of every pixel: the mean of its errors over channels.

    Args:
        errors: Squared errors, shape (n, h, w, c).

    Returns:
        Shape (n, h, w).

    Raises:
        DataError: On a wrong shape, or values that are negative or not finite.
    """
    scores: Maps = check_errors(errors).mean(axis=3, dtype=np.float64)
    return scores


def pixel_threshold(scores: Maps, *, q: float = PIXEL_PERCENT) -> float:
    """Return the q-th percentile of inliers' pixel scores.

    Pixels above it are outliers.

    Args:
        scores: Scores of held-out inliers' pixels, shape (n, h, w).
        q: Percent of the inliers' pixels at or below the threshold.

    Raises:
        ConfigError: If q is not in [0, 100].
        DataError: If there are no scores, or they are not finite.
    """
    number("q", q, least=0, most=100)
    if scores.ndim != 3 or scores.size == 0 or not np.isfinite(scores).all():
        raise DataError(f"pixel scores must be finite and have shape (n, h, w), got {scores.shape}")
    return float(np.percentile(scores, q))
