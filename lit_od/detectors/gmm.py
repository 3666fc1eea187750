"""Gaussian mixture: negative log-likelihood of the inliers' density."""

import math
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from lit_od.checks import integer, one_of
from lit_od.detectors.bank.row_store import RowStore
from lit_od.detectors.base import CACHED_VALUES, Detector, check_features, row_blocks
from lit_od.detectors.class_moments import MomentsAccumulator
from lit_od.detectors.gaussian import PANEL, panels, squared_norms, whitened, whitener
from lit_od.detectors.moments import Moments
from lit_od.detectors.options import read_options
from lit_od.detectors.state import SMALLEST, check_names, read_only, require_triangular, take
from lit_od.errors import DataError, missing_extra
from lit_od.types import Arrays, Features, Labels, Output, Scores, Stats

Covariance: TypeAlias = Literal["full", "tied", "diag", "spherical"]

FLOOR = 1e-6
"""Added to every variance, as scikit-learn's `reg_covar`."""


@dataclass(frozen=True, slots=True)
class GMMOptions:
    """Options, checked: see `GMM.fit`."""

    components: int = 1
    covariance: Covariance = "full"
    seed: int = 0
    reservoir: int = 50_000

    def __post_init__(self) -> None:
        integer("components", self.components, least=1)
        one_of("covariance", self.covariance, ("full", "tied", "diag", "spherical"))
        integer("seed", self.seed, least=0, most=2**32 - 1)
        integer("reservoir", self.reservoir, least=2)


@dataclass(frozen=True, slots=True, eq=False)
class GMM(Detector):
    r"""Negative log-likelihood under a mixture of Gaussians, in nats.

    -log sum_k w_k N(x; m_k, L_k L_k^T) with

        log N = log det W - d/2 log 2 pi - ||W (x - m)||^2 / 2,   W = L^-1.

    One component is the mean and covariance of the rows in closed form. Several are fitted by
    scikit-learn's expectation maximisation on a seeded reservoir of the rows, and scored without it.

    Attributes:
        settings: The options it was fitted with.
        weights: w, shape (k,), summing to 1.
        means: m, shape (k, d).
        whiteners: W: (k, d, d) lower triangular for "full", (d, d) for "tied", its diagonals (k, d)
            for "diag", one number a component, (k,), for "spherical".
    """

    kind: ClassVar[str] = "gmm"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[GMMOptions]] = GMMOptions
    torch_form: ClassVar[str | None] = "lit_od.training.explain.torch_scores:gmm"
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.rows:gmm"

    settings: GMMOptions
    weights: Stats
    means: Stats
    whiteners: Stats
    _middle: Stats = field(init=False, repr=False)
    """Middle of the means, shape (d,): no digits cancel that the distance between the means does not cost."""
    _constants: Stats = field(init=False, repr=False)
    """log w_k + log det W_k, shape (k,)."""
    _panels: tuple[tuple[Stats, Stats], ...] = field(init=False, repr=False)
    """For "full", rows of all W_k together, (k * rows, columns), and their products with the means less the middle."""

    def __post_init__(self) -> None:
        covariance, (k, d) = self.settings.covariance, self.means.shape
        matrices = covariance in ("full", "tied")
        scales = np.diagonal(self.whiteners, axis1=-2, axis2=-1) if matrices else self.whiteners.reshape(k, -1)
        middle = self.weights @ self.means if k > 1 else self.means[0]
        parts = []
        for start, stop in panels(d) if covariance == "full" else ():
            factors = self.whiteners[:, start:stop, :stop]
            offsets = np.matvec(factors, (self.means - middle)[:, :stop])
            parts.append((factors.reshape(-1, stop), offsets.reshape(-1)))
        object.__setattr__(self, "_middle", middle)
        object.__setattr__(self, "_panels", tuple(parts))
        object.__setattr__(
            self, "_constants", np.log(self.weights) + np.log(np.broadcast_to(scales, (k, d))).sum(axis=1)
        )

    @property
    def is_distance(self) -> bool:
        """False."""
        return False

    @classmethod
    def fit(
        cls,
        features: Features,
        *,
        components: int = 1,
        covariance: Covariance = "full",
        seed: int = 0,
        reservoir: int = 50_000,
    ) -> "GMM":
        """Fit the mixture to inliers.

        Args:
            features: Shape (n, d).
            components: Number of Gaussians.
            covariance: "full", one matrix shared by all ("tied"), "diag" or "spherical".
            seed: Of the start of several components, and of their reservoir.
            reservoir: Rows, at most, that several components are fitted on; one uses every row.

        Raises:
            ConfigError: On an option out of range.
            DataError: If the rows do not suffice, or a covariance is singular.
            MissingExtra: If several components are asked for without scikit-learn.
        """
        gathered = cls.accumulator(components=components, covariance=covariance, seed=seed, reservoir=reservoir)
        gathered.update(features)
        return gathered.finish()

    @classmethod
    def accumulator(
        cls,
        *,
        components: int = 1,
        covariance: Covariance = "full",
        seed: int = 0,
        reservoir: int = 50_000,
        first_row: int = 0,
    ) -> "GMMAccumulator":
        """Return an empty accumulator.

        Args:
            components: As `fit` takes it.
            covariance: As `fit` takes it.
            seed: As `fit` takes it.
            reservoir: As `fit` takes it.
            first_row: Number of the first row it will see, among the rows of all accumulators.

        Raises:
            ConfigError: On an option out of range.
        """
        return cls.start(GMMOptions(components, covariance, seed, reservoir), first_row)

    @classmethod
    def require_installed(cls, settings: GMMOptions) -> None:
        """Raise MissingExtra if several components are asked for without scikit-learn."""
        if settings.components > 1 and find_spec("sklearn") is None:
            missing_extra("scikit-learn", "evaluate,cpu")

    @classmethod
    def start(cls, settings: GMMOptions, first_row: int = 0) -> "GMMAccumulator":
        """Return an empty accumulator for checked options. Raises as `require_installed`."""
        cls.require_installed(settings)  # now, not when all rows have been gathered
        return GMMAccumulator(settings, first_row)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's features, (d,)."""
        return (int(self.means.shape[1]),)

    def score(self, features: Features) -> Scores:
        """Return negative log-likelihoods of shape (n,), in nats.

        They are negative where the density exceeds 1.

        Raises:
            DataError: On a wrong width, or values that are not finite.
        """
        features = check_features(features, self.width)
        scores = np.empty(len(features))
        matrices = self.settings.covariance in ("full", "tied")
        a_row = 3 * self.width + PANEL * len(self.means) if matrices else self.width + len(self.means)
        for rows, block in row_blocks(features, a_row, (16 if matrices else 2) * CACHED_VALUES):
            block -= self._middle
            joint = self._log_joint(block)
            if len(joint) == 1:
                scores[rows] = -joint[0]
            else:
                highest = joint.max(axis=0)
                scores[rows] = -highest - np.log(np.exp(joint - highest).sum(axis=0))
        return scores + 0.5 * self.width * math.log(2 * math.pi)

    def _log_joint(self, rows: Stats) -> Stats:
        """Return log w_k N(x; m_k, L_k L_k^T) + d/2 log 2 pi, (k, n); overwrites rows."""
        covariance, means = self.settings.covariance, self.means - self._middle  # rows are less it too, (n, d)
        if covariance == "full":
            squares = np.zeros((len(rows), len(means)))
            for factor, offset in self._panels:  # one product serves all components
                white = rows[:, : factor.shape[1]] @ factor.T
                white -= offset
                squares += squared_norms(white.reshape(len(rows), len(means), -1))
            squares = squares.T
        elif covariance == "tied":
            white = whitened(rows, self.whiteners)
            squares = np.stack([squared_norms(white - centre) for centre in whitened(means, self.whiteners)])
        else:  # the squares are expanded about the middle of the means, which is the mean of one component
            precisions = self.whiteners.reshape(len(means), -1) ** 2  # (k, d) or (k, 1)
            weighted = means * precisions
            cross = (weighted @ rows.T) if len(means) > 1 else 0.0
            if covariance == "diag":
                squares = precisions @ np.square(rows, out=rows).T
            else:
                squares = precisions * squared_norms(rows)
            squares -= 2 * cross - np.vecdot(weighted, means)[:, None]
        return np.subtract(self._constants[:, None], 0.5 * squares)

    def sums(self) -> "GMMAccumulator | None":
        """Return an empty accumulator of one component; None for several."""
        return self.start(self.settings) if self.settings.components == 1 else None

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with."""
        return asdict(self.settings)

    def state(self) -> Arrays:
        """Return weights, means and whiteners."""
        return {"weights": self.weights, "means": self.means, "whiteners": self.whiteners}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, GMMOptions, options)
        check_names(cls.kind, state, ("weights", "means", "whiteners"))
        means = take(state, "means", (settings.components, None))
        k, d = means.shape
        shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[settings.covariance]
        weights, whiteners = take(state, "weights", (k,)), take(state, "whiteners", shape)
        matrices = settings.covariance in ("full", "tied")
        scales = np.diagonal(whiteners, axis1=-2, axis2=-1) if matrices else whiteners
        if not ((weights > 0).all() and abs(weights.sum() - 1) < 1e-6 and (scales >= SMALLEST).all()):
            raise DataError(
                "arrays 'weights' and 'whiteners' of the state must be positive, and the weights sum to 1; "
                "fit the detector anew"
            )
        if matrices:
            require_triangular("whiteners", whiteners)
        return cls(settings, weights, means, whiteners)


class GMMAccumulator(MomentsAccumulator[GMMOptions]):
    """An accumulator of moments for one component, else of rows (`store`)."""

    __slots__ = ("store",)

    def __init__(self, settings: GMMOptions, first_row: int) -> None:
        super().__init__(settings)
        self.store = RowStore(first_row, seed=settings.seed, limit=settings.reservoir)

    def update(self, features: Features, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, d); labels play no part.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        if self.settings.components > 1:
            self.store.update(features)
        else:
            super().update(features)

    def merge(self, other: Self) -> None:
        """Merge an accumulator with the same options that has seen the next rows.

        Raises:
            ConfigError: If the options differ.
            DataError: If the widths differ, or the reservoir's rows do not follow.
        """
        super().merge(other)
        self.store.merge(other.store)

    def state(self) -> Arrays:
        """Return the sums of one component, or the reservoir of several."""
        return self.store.state() if self.settings.components > 1 else super().state()

    def restore(self, state: Arrays) -> None:
        """Replace the sums and rows by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.store.restore(state) if self.settings.components > 1 else super().restore(state)

    def finish(self) -> GMM:
        """Return the fitted detector.

        Raises:
            DataError: If the rows do not suffice, or a covariance is singular.
            MissingExtra: If several components are asked for without scikit-learn.
        """
        settings, moments = self.settings, self.moments.get(0)
        least = max(2, settings.components)
        count = moments.count if moments else self.store.seen
        if count < least:
            raise DataError(f"GMM needs at least {least} rows of features, got {count}. Pass more images.")
        if moments is None:
            fitted = _several(settings, self.store.rows().astype(np.float64))
        else:
            fitted = _one(settings.covariance, moments)
        return GMM(settings, *(read_only(array) for array in fitted))


def _one(covariance: Covariance, moments: Moments) -> tuple[Stats, Stats, Stats]:
    """Return weight, mean and whitener of the Gaussian with these moments."""
    scatter = moments.scatter / moments.count
    if not np.trace(scatter) > 0:
        raise DataError(f"features must vary, but all {moments.count} rows are equal. Pass different images.")
    variances = scatter.diagonal() + FLOOR
    if covariance == "diag":
        whiteners = 1 / np.sqrt(variances[None])
    elif covariance == "spherical":
        whiteners = 1 / np.sqrt(variances.mean(keepdims=True))
    else:
        np.fill_diagonal(scatter, variances)
        whiteners = whitener(scatter, "Pass more images than features, or covariance='diag'.")
        whiteners = whiteners[None] if covariance == "full" else whiteners
    return np.ones(1), moments.mean[None], whiteners


def _several(settings: GMMOptions, rows: Stats) -> tuple[Stats, Stats, Stats]:
    """Fit weights, means and whiteners of several Gaussians by EM."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        missing_extra("scikit-learn", "evaluate,cpu")
    mixture = GaussianMixture(
        settings.components, covariance_type=settings.covariance, reg_covar=FLOOR, random_state=settings.seed
    )
    try:
        mixture.fit(rows)
    except ValueError as error:
        raise DataError(
            f"{settings.components} components cannot be fitted to {len(rows)} rows: {error} "
            "Pass more images, fewer components, or covariance='diag'."
        ) from error
    # scikit-learn keeps the transpose: precision = U U^T, x @ U = W x.
    factors = mixture.precisions_cholesky_
    matrices = settings.covariance in ("full", "tied")
    return mixture.weights_, mixture.means_, np.swapaxes(factors, -1, -2) if matrices else factors
