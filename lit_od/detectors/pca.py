"""Residual of a principal component analysis."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import flag, integer, number
from lit_od.detectors.base import Detector, check_features, row_blocks
from lit_od.detectors.class_moments import MomentsAccumulator
from lit_od.detectors.gaussian import squared_norms
from lit_od.detectors.options import read_options
from lit_od.detectors.state import SMALLEST, check_names, read_only, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Features, Output, Scores, Stats

ORTHONORMAL = 1e-6
"""Largest difference of a component's squared length from 1."""


@dataclass(frozen=True, slots=True)
class PCAResidualOptions:
    """Options, checked: see `PCAResidual.fit`."""

    components: int | float = 0.9
    whiten: bool = True

    def __post_init__(self) -> None:
        if type(self.components) is int:
            integer("components", self.components, least=1)
        else:
            number("components, unless an integer,", self.components, above=0, below=1)
        flag("whiten", self.whiten)


@dataclass(frozen=True, slots=True, eq=False)
class PCAResidual(Detector):
    """Distance of standardised features to their projection on the components.

    With z the standardised features and C the k leading eigenvectors of their covariance as rows,
    the score is ||z - C^T C z||. What z does within the components plays no part, so scaling them to
    unit variance (scikit-learn's `whiten`) changes nothing here. `whiten` therefore scales the part
    that is left: the distance is divided by sigma, sigma^2 the mean variance of the d - k directions
    left out (the noise variance of probabilistic PCA, Tipping and Bishop 1999). The order of the
    scores is the same either way; whitened ones have a unit, about sqrt(d - k) for inliers, and so
    compare between layers and refits.

    Attributes:
        settings: The options it was fitted with.
        mean: Mean of the inliers, shape (d,).
        scale: Their standard deviations, 1 for constant features, shape (d,).
        components: C, orthonormal rows, largest variance first, shape (k, d).
        noise: sigma, shape (1,).

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(500, 1)) * [1, 2, 3] + [[0, 0, 1], [0, 0, -1]] * 250
        >>> detector = PCAResidual.fit(rows.astype(np.float32), components=1)
        >>> bool(np.diff(detector.score(np.float32([[1, 2, 3], [1, -2, 3]])))[0] > 1)
        True
    """

    kind: ClassVar[str] = "pca_residual"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[PCAResidualOptions]] = PCAResidualOptions
    torch_form: ClassVar[str | None] = "lit_od.training.explain.torch_scores:pca_residual"
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.rows:pca_residual"

    settings: PCAResidualOptions
    mean: Stats
    scale: Stats
    components: Stats
    noise: Stats

    @classmethod
    def fit(cls, features: Features, *, components: int | float = 0.9, whiten: bool = True) -> "PCAResidual":
        """Learn standardisation and components from inliers.

        Args:
            features: Shape (n, d).
            components: Number of components k, or the share of the variance in (0, 1) that the
                fewest components must explain.
            whiten: Divide by the noise's standard deviation.

        Raises:
            ConfigError: On an option out of range.
            DataError: If the rows do not suffice, or the components leave nothing over.
        """
        gathered = cls.accumulator(components=components, whiten=whiten)
        gathered.update(features)
        return gathered.finish()

    @classmethod
    def accumulator(cls, *, components: int | float = 0.9, whiten: bool = True) -> "PCAResidualAccumulator":
        """Return an empty accumulator; options as `fit` takes them.

        Raises:
            ConfigError: On an option out of range.
        """
        return cls.start(PCAResidualOptions(components, whiten))

    @classmethod
    def start(cls, settings: PCAResidualOptions, first_row: int = 0) -> "PCAResidualAccumulator":
        """Return an empty accumulator for checked options; row numbers play no part."""
        del first_row
        return PCAResidualAccumulator(settings)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's features, (d,)."""
        return (len(self.mean),)

    def score(self, features: Features) -> Scores:
        """Return distances of shape (n,).

        Their unit is the noise where whitened, else the standardised features'.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        features = check_features(features, self.width)
        scores = np.empty(len(features))
        for rows, block in row_blocks(features, 3 * self.width):
            block -= self.mean
            block /= self.scale
            block -= (block @ self.components.T) @ self.components
            scores[rows] = np.sqrt(squared_norms(block))
        return scores / self.noise if self.settings.whiten else scores

    def sums(self) -> "PCAResidualAccumulator":
        """Return an empty accumulator."""
        return self.start(self.settings)

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with."""
        return asdict(self.settings)

    def state(self) -> Arrays:
        """Return mean (d,), scale (d,), components (k, d) and noise (1,)."""
        return {"mean": self.mean, "scale": self.scale, "components": self.components, "noise": self.noise}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, PCAResidualOptions, options)
        check_names(cls.kind, state, ("mean", "scale", "components", "noise"))
        mean = take(state, "mean", (None,))
        kept = settings.components if isinstance(settings.components, int) else None
        scale, noise = take(state, "scale", (len(mean),)), take(state, "noise", (1,))
        if not ((scale >= SMALLEST).all() and noise[0] >= SMALLEST):
            raise DataError("arrays 'scale' and 'noise' of the state must be positive; fit the detector anew")
        components = take(state, "components", (kept, len(mean)))
        if len(components) >= len(mean) or not (np.abs(squared_norms(components) - 1) < ORTHONORMAL).all():
            raise DataError(
                f"array 'components' of the state must hold fewer than {len(mean)} rows, each of length 1; "
                "fit the detector anew"
            )
        return cls(settings, mean, scale, components, noise)


class PCAResidualAccumulator(MomentsAccumulator[PCAResidualOptions]):
    """An accumulator of moments."""

    __slots__ = ()

    def finish(self) -> PCAResidual:
        """Return the fitted detector.

        Raises:
            DataError: If the rows do not suffice, or the components leave nothing over.
        """
        moments, settings = self.moments.get(0), self.settings
        count = moments.count if moments else 0
        if moments is None or count < 2:
            raise DataError(f"PCAResidual needs at least 2 rows of features, got {count}. Pass more images.")
        scale = moments.scale
        covariance = moments.scatter / count / scale / scale[:, None]
        if not np.trace(covariance) > 0:
            raise DataError(f"features must vary, but all {count} rows are equal. Pass different images.")
        variances, directions = np.linalg.eigh(covariance)
        variances = np.maximum(variances[::-1], 0.0)
        if isinstance(settings.components, int):
            kept = settings.components
        else:
            explained = np.cumsum(variances) / variances.sum()
            kept = int(np.searchsorted(explained, settings.components, side="right")) + 1
        rank = int((variances > variances[0] * len(variances) * np.finfo(np.float64).eps).sum())
        if kept >= rank:
            raise DataError(
                f"components={settings.components} keeps {kept} of the {rank} directions in which {count} rows "
                "vary, which leaves no residual. Pass fewer components or more images."
            )
        return PCAResidual(
            settings=settings,
            mean=read_only(moments.mean),
            scale=read_only(scale),
            components=read_only(directions[:, ::-1].T[:kept]),
            noise=read_only(np.sqrt([variances[kept:].mean()])),
        )
