"""Mahalanobis distance, plain, class-conditional and relative.

Lee et al. 2018, A simple unified framework for detecting out-of-distribution samples; Ren et al. 2021, A simple fix to
Mahalanobis distance for improving near-OOD detection.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import flag, number
from lit_od.detectors.base import BLOCK_VALUES, Detector, check_features, check_labels
from lit_od.detectors.class_moments import MomentsAccumulator
from lit_od.detectors.gaussian import Shrinkage, shrunk_covariance, squared_norms, whitened, whitener
from lit_od.detectors.moments import Moments
from lit_od.detectors.options import read_options
from lit_od.detectors.state import check_names, read_only, take, take_whitener
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Features, Labels, Output, Scores, Stats


@dataclass(frozen=True, slots=True)
class MahalanobisOptions:
    """Options, checked: see `Mahalanobis.accumulator`."""

    class_conditional: bool = False
    shrinkage: Shrinkage = "ledoit-wolf"
    relative: bool = False

    def __post_init__(self) -> None:
        flag("class_conditional", self.class_conditional)
        flag("relative", self.relative)
        if isinstance(self.shrinkage, str):
            if self.shrinkage != "ledoit-wolf":
                raise ConfigError(f"shrinkage must be 'ledoit-wolf' or a number, got {self.shrinkage!r}")
        else:
            number("shrinkage", self.shrinkage, least=0, most=1)
        if self.relative and not self.class_conditional:
            raise ConfigError("relative=True needs classes. Pass labels, or class_conditional=True.")


@dataclass(frozen=True, slots=True, eq=False)
class Mahalanobis(Detector):
    """Mahalanobis distance to the inliers' mean, or to the nearest class mean.

    Plain: ||W (x - m)|| with W = L^-1, L L^T the shrunk covariance (divided by n). With classes: the
    least distance over the class means under one covariance, that of the rows about their own class
    mean. Relative: the least squared class distance minus ||W0 (x - m0)||^2, the squared distance
    under one Gaussian fitted to all rows; this score can be negative.

    Attributes:
        settings: The options it was fitted with.
        means: Class means in the order of `classes`, or the one mean, shape (classes or 1, d).
        whitener: W, lower triangular, shape (d, d).
        classes: Class labels, ascending, shape (classes,); empty without classes.
        background_mean: m0, shape (d,); None unless relative.
        background_whitener: W0, lower triangular, shape (d, d); None unless relative.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
        >>> Mahalanobis.fit(rows).score(np.float32([[0, 0], [3, 4]])).round(1).tolist()
        [0.0, 5.0]
    """

    kind: ClassVar[str] = "mahalanobis"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[MahalanobisOptions]] = MahalanobisOptions
    torch_form: ClassVar[str | None] = "lit_od.training.explain.torch_scores:mahalanobis"
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.rows:mahalanobis"

    settings: MahalanobisOptions
    means: Stats
    whitener: Stats
    classes: Labels
    background_mean: Stats | None
    background_whitener: Stats | None
    _centres: Stats = field(init=False, repr=False)
    """Whitened class means relative to the first, shape (classes or 1, d)."""
    _lengths: Stats = field(init=False, repr=False)
    """Half of their squared lengths, shape (classes or 1,)."""

    def __post_init__(self) -> None:
        centres = (self.means - self.means[0]) @ self.whitener.T
        object.__setattr__(self, "_centres", read_only(centres))
        object.__setattr__(self, "_lengths", read_only(squared_norms(centres) / 2))

    @classmethod
    def fit(
        cls,
        features: Features,
        *,
        labels: Labels | None = None,
        shrinkage: Shrinkage = "ledoit-wolf",
        relative: bool = False,
    ) -> "Mahalanobis":
        """Learn means and covariance from inliers.

        Args:
            features: Shape (n, d).
            labels: Class of each row, shape (n,); given, the detector is class-conditional.
            shrinkage: Weight of the scaled identity in each covariance, in [0, 1], or the rule that
                chooses it.
            relative: Subtract the squared distance under the background Gaussian; needs labels.

        Raises:
            ConfigError: On an option out of range, or relative without labels.
            DataError: If the rows do not suffice, or a covariance is singular.
        """
        gathered = cls.accumulator(class_conditional=labels is not None, shrinkage=shrinkage, relative=relative)
        gathered.update(features, labels)
        return gathered.finish()

    @classmethod
    def accumulator(
        cls,
        *,
        class_conditional: bool = False,
        shrinkage: Shrinkage = "ledoit-wolf",
        relative: bool = False,
    ) -> "MahalanobisAccumulator":
        """Return an empty accumulator.

        Args:
            class_conditional: True wants labels with every batch.
            shrinkage: As `fit` takes it.
            relative: As `fit` takes it.

        Raises:
            ConfigError: On an option out of range, or relative without classes.
        """
        return cls.start(MahalanobisOptions(class_conditional, shrinkage, relative))

    @classmethod
    def start(cls, settings: MahalanobisOptions, first_row: int = 0) -> "MahalanobisAccumulator":
        """Return an empty accumulator for checked options; row numbers play no part."""
        del first_row
        return MahalanobisAccumulator(settings)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's features, (d,)."""
        return (len(self.whitener),)

    @property
    def is_distance(self) -> bool:
        """True unless relative."""
        return self.background_mean is None

    def score(self, features: Features) -> Scores:
        """Return distances of shape (n,), in standard deviations.

        Where relative, they are differences of squared distances.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        features = check_features(features, self.width)
        scores = np.empty(len(features))
        # Everything is taken relative to one mean before the product, so that no digits cancel.
        centres, lengths, first = self._centres, self._lengths, self.means[0]
        step = max(1, BLOCK_VALUES // (3 * self.width + len(centres)))
        for start in range(0, len(features), step):
            block = features[start : start + step]
            white = whitened(np.subtract(block, first, dtype=np.float64), self.whitener)  # (rows, d)
            if len(centres) > 1:  # the expanded square finds the nearest mean, the difference measures it
                white -= centres[(lengths - white @ centres.T).argmin(axis=1)]
            least = squared_norms(white)
            if self.background_mean is None or self.background_whitener is None:
                np.sqrt(least, out=scores[start : start + step])
            else:
                white = whitened(np.subtract(block, self.background_mean, dtype=np.float64), self.background_whitener)
                scores[start : start + step] = least - squared_norms(white)
        return scores

    def sums(self) -> "MahalanobisAccumulator | None":
        """Return an empty accumulator; None with classes, which accepted images lack."""
        return None if self.settings.class_conditional else self.start(self.settings)

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with."""
        return asdict(self.settings)

    def state(self) -> Arrays:
        """Return means (k, d) and whitener (d, d).

        The class labels and the background's mean and whitener are there where the options want them.
        """
        arrays: Arrays = {"means": self.means, "whitener": self.whitener}
        if self.settings.class_conditional:
            arrays["classes"] = self.classes
        if self.background_mean is not None and self.background_whitener is not None:
            arrays["background_mean"] = self.background_mean
            arrays["background_whitener"] = self.background_whitener
        return arrays

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, MahalanobisOptions, options)
        names = ["means", "whitener"]
        names += ["classes"] if settings.class_conditional else []
        names += ["background_mean", "background_whitener"] if settings.relative else []
        check_names(cls.kind, state, names)
        means = take(state, "means", (None if settings.class_conditional else 1, None))
        width = means.shape[1]
        classes = np.array([], dtype=np.int64)
        if settings.class_conditional:
            classes = take(state, "classes", (len(means),), np.int64)
            if (classes[1:] <= classes[:-1]).any():
                raise DataError("array 'classes' of the state must rise strictly; fit the detector anew")
        if settings.relative and len(means) < 2:
            raise DataError("relative=True needs the means of at least 2 classes, got 1; fit the detector anew")
        return cls(
            settings=settings,
            means=means,
            whitener=take_whitener(state, "whitener", width),
            classes=read_only(classes),
            background_mean=take(state, "background_mean", (width,)) if settings.relative else None,
            background_whitener=(take_whitener(state, "background_whitener", width) if settings.relative else None),
        )


class MahalanobisAccumulator(MomentsAccumulator[MahalanobisOptions]):
    """An accumulator of moments: one set of sums a class, or a single one."""

    __slots__ = ()

    def update(self, features: Features, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, d); labels of shape (n,) if class-conditional.

        Raises:
            DataError: On a wrong shape, values that are not finite, or missing labels.
        """
        if not self.settings.class_conditional:
            super().update(features)
            return
        features = check_features(features, self.width)
        if labels is None:
            raise DataError("a class-conditional detector needs labels with every batch, got none")
        labels = check_labels(labels, len(features))
        for label in np.unique(labels):
            self.of_class(int(label), features.shape[1]).update(features[labels == label])

    def finish(self) -> Mahalanobis:
        """Return the fitted detector.

        Raises:
            DataError: If the rows do not suffice, or a covariance is singular.
        """
        settings, parts = self.settings, [self.moments[key] for key in sorted(self.moments)]
        count = sum(part.count for part in parts)
        if count < 2:
            raise DataError(f"Mahalanobis needs at least 2 rows of features, got {count}. Pass more images.")
        if settings.relative and len(parts) < 2:
            raise DataError("relative=True needs at least 2 classes, got 1. Fit with relative=False.")
        scatter = parts[0].scatter
        for part in parts[1:]:
            scatter += part.scatter
        within = shrunk_covariance(count, scatter, sum(part.fourth_moments for part in parts), settings.shrinkage)
        background: tuple[Stats, Stats] | None = None
        if settings.relative:
            union = Moments(parts[0].width)
            for part in parts:
                union.merge(part)
            total = shrunk_covariance(count, union.scatter, union.fourth_moments, settings.shrinkage)
            background = read_only(union.mean), read_only(whitener(total, _MEND))
        return Mahalanobis(
            settings=settings,
            means=read_only(np.stack([part.mean for part in parts])),
            whitener=read_only(whitener(within, _MEND)),
            classes=read_only(np.array(sorted(self.moments) if settings.class_conditional else [], dtype=np.int64)),
            background_mean=background[0] if background else None,
            background_whitener=background[1] if background else None,
        )


_MEND = "Pass more images than features, drop features that repeat others, or set shrinkage to a number such as 0.1."
