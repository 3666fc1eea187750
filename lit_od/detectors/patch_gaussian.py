"""A Gaussian for each position of a grid of patches (PaDiM, Defard et al. 2021)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.base import Accumulator
from lit_od.detectors.map_options import Cells
from lit_od.detectors.map_region import counted_cells
from lit_od.detectors.moments import Moments
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.patch_maps import PatchDetector, check_patches, counted_patches, single
from lit_od.detectors.patch_moments import MOST_POSITIONS, PaDiMOptions, PositionSums, project
from lit_od.detectors.state import LARGEST_SINGLE, SMALLEST, check_names, read_only, take
from lit_od.errors import DataError
from lit_od.types import Arrays, Labels, Outputs


@dataclass(frozen=True, slots=True, eq=False)
class PaDiM(PatchDetector):
    """Mahalanobis distance of each patch to the Gaussian of its position.

    Channels are standardised over all positions and reduced; at each position the mean and the covariance of what is
    left are those of the inliers' patches there.

    Attributes:
        settings: The options it was fitted with.
        grid: Height and width of the grid, and channels of a patch.
        centre: Mean of the channels, float32, shape (d,).
        projection: Standardised channels to k components, float32, shape (d, k).
        means: Mean components at each position, float32, shape (p, k).
        whiteners: Inverse of the Cholesky factor at each position, lower triangular, float32, shape (p, k, k).
    """

    kind: ClassVar[str] = "padim"
    options_type: ClassVar[type[PaDiMOptions]] = PaDiMOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:padim"
    passes: ClassVar[int] = 2

    settings: PaDiMOptions
    grid: tuple[int, int, int]
    centre: NDArray[np.float32]
    projection: NDArray[np.float32]
    means: NDArray[np.float32]
    whiteners: NDArray[np.float32]

    @classmethod
    def start(cls, settings: PaDiMOptions, first_row: int = 0) -> "ChannelAccumulator":
        """Return an empty accumulator of the first pass; row numbers play no part."""
        del first_row
        return ChannelAccumulator(settings)

    @classmethod
    def start_second(cls, after: Accumulator, first_row: int = 0) -> "PositionAccumulator":
        """Return an empty accumulator of the second pass; row numbers play no part.

        Args:
            after: Accumulator of the first pass.
            first_row: Number of the first row.

        Raises:
            DataError: If the first pass has seen no image.
        """
        del first_row
        assert isinstance(after, ChannelAccumulator)
        return PositionAccumulator(after.settings, *after.reduction())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height and width of the grid, and channels."""
        return self.grid

    def cells(self, patches: Outputs, /) -> Cells:
        """Return each patch's distance to its position's Gaussian, in `cell_shape`.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 a patch is as far away as can be
            rows = project(patches, self.centre, self.projection)  # (n, p, k)
            rows -= self.means
            white = np.matmul(np.ascontiguousarray(rows.transpose(1, 0, 2)), self.whiteners.transpose(0, 2, 1))
            distances = np.sqrt(np.einsum("pnk,pnk->np", white, white))
        return single(np.nan_to_num(distances, nan=np.inf)).reshape(len(patches), *self.cell_shape)

    def sums(self) -> "PositionAccumulator":
        """Return an empty accumulator of components; the projection stays."""
        return PositionAccumulator(self.settings, self.grid, self.centre, self.projection)

    def state(self) -> Arrays:
        """Return the statistics; of whiteners the triangles, (p, k (k + 1) / 2)."""
        triangle = np.tril_indices(self.projection.shape[1])
        return {
            "grid": np.array(self.grid, np.int64),
            "centre": self.centre,
            "projection": self.projection,
            "means": self.means,
            "whiteners": np.ascontiguousarray(self.whiteners[:, *triangle], dtype=_stored(self.settings)),
        }

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, PaDiMOptions, options)
        check_names(cls.kind, state, ("grid", "centre", "projection", "means", "whiteners"))
        height, width, channels = (int(side) for side in take(state, "grid", (3,), np.int64))
        if min(height, width, channels) < 1 or (positions := counted_cells(settings, height, width)) > MOST_POSITIONS:
            raise DataError(f"array 'grid' of the state must be positive, got {height, width, channels}")
        kept = min(settings.components, channels)
        packed = take(state, "whiteners", (positions, kept * (kept + 1) // 2), _stored(settings), most=LARGEST_SINGLE)
        whiteners = np.zeros((positions, kept, kept), np.float32)
        whiteners[:, *np.tril_indices(kept)] = packed
        if not (np.diagonal(whiteners, axis1=1, axis2=2) >= SMALLEST).all():
            raise DataError("the diagonals of array 'whiteners' of the state must be positive; fit the detector anew")
        return cls(
            settings,
            (height, width, channels),
            take(state, "centre", (channels,), np.float32, most=LARGEST_SINGLE),
            take(state, "projection", (channels, kept), np.float32, most=LARGEST_SINGLE),
            take(state, "means", (positions, kept), np.float32, most=LARGEST_SINGLE),
            read_only(whiteners),
        )


class ChannelAccumulator:
    """An accumulator of the first pass: moments of the channels over all positions.

    Attributes:
        settings: The options.
        grid: Height and width of the grid, and channels; None before the first batch.
    """

    __slots__ = ("_moments", "grid", "settings")

    def __init__(self, settings: PaDiMOptions) -> None:
        self.settings = settings
        self.grid: tuple[int, int, int] | None = None
        self._moments = Moments(1)

    def update(self, patches: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, gh, gw, d); labels play no part.

        Raises:
            DataError: On a wrong shape, too many positions, or values that are not finite.
        """
        patches = check_patches(patches, self.grid)
        if not len(patches):
            return
        if self.grid is None:
            height, width, channels = patches.shape[1:]
            if counted_cells(self.settings, height, width) > MOST_POSITIONS:
                raise DataError(
                    f"padim keeps a covariance for each position, at most {MOST_POSITIONS:,}; got a grid of "
                    f"{height} x {width}. Take a coarser grid, smaller tiles, or patchcore"
                )
            self.grid, self._moments = (height, width, channels), Moments(channels)
        self._moments.update(counted_patches(patches, self.settings).reshape(-1, self.grid[2]))

    def merge(self, other: Self) -> None:
        """Merge an accumulator with the same options.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ.
        """
        same_options(self.settings, other.settings)
        if other.grid is None:
            return
        if self.grid is None:
            self.grid, self._moments = other.grid, Moments(other.grid[2])
        _require_same(self.grid, other.grid)
        self._moments.merge(other._moments)

    def state(self) -> Arrays:
        """Return grid and moments; nothing before the first batch."""
        return {} if self.grid is None else {"grid": np.array(self.grid, np.int64), **self._moments.state()}

    def restore(self, state: Arrays) -> None:
        """Replace what was gathered by a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.grid, self._moments = None, Moments(1)
        if state:
            sums = dict(state)
            height, width, channels = (int(side) for side in take(sums, "grid", (3,), np.int64))
            del sums["grid"]
            if min(height, width) < 1 or counted_cells(self.settings, height, width) > MOST_POSITIONS:
                raise DataError(f"array 'grid' of the state must be of 1 to {MOST_POSITIONS} positions")
            self._moments, self.grid = Moments.from_state(sums), (height, width, channels)
            if self._moments.width != channels:
                raise DataError("the arrays of a share of padim do not fit together; gather its images anew")

    def reduction(self) -> tuple[tuple[int, int, int], NDArray[np.float32], NDArray[np.float32]]:
        """Return the grid, the channels' mean (d,), and their projection (d, k).

        Raises:
            DataError: If there was no image, or the channels do not vary.
        """
        if self.grid is None:
            raise DataError("PaDiM needs the patches of at least 2 images, got 0. Pass more images.")
        moments, settings = self._moments, self.settings
        channels, scale = moments.width, moments.scale
        kept = min(settings.components, channels)
        if settings.reduction == "random":
            chosen = np.sort(np.random.default_rng(settings.seed).permutation(channels)[:kept])
            directions = np.eye(channels)[:, chosen]
        else:
            covariance = moments.scatter / moments.count / scale / scale[:, None]
            if not np.trace(covariance) > 0:
                raise DataError("patches must vary, but all are equal. Pass different images.")
            directions = np.linalg.eigh(covariance)[1][:, ::-1][:, :kept]
        return (
            self.grid,
            read_only(moments.mean.astype(np.float32)),
            read_only((directions / scale[:, None]).astype(np.float32)),
        )

    def finish(self) -> PaDiM:
        """Raise DataError: a second pass comes before."""
        raise DataError("PaDiM takes two passes over the images: pass this accumulator to start_second")


class PositionAccumulator:
    """An accumulator of the second pass: sums of the components at each position.

    Args:
        settings: The options.
        grid: Height and width of the grid, and channels.
        centre: Mean of the channels, shape (d,).
        projection: Channels to components, shape (d, k).

    Attributes:
        settings: The options.
        grid: Height and width of the grid, and channels.
        centre: Mean of the channels, shape (d,).
        projection: Channels to components, shape (d, k).
        sums: The sums.
    """

    __slots__ = ("centre", "grid", "projection", "settings", "sums")

    def __init__(
        self,
        settings: PaDiMOptions,
        grid: tuple[int, int, int],
        centre: NDArray[np.float32],
        projection: NDArray[np.float32],
    ) -> None:
        self.settings, self.grid, self.centre, self.projection = settings, grid, centre, projection
        self.sums = PositionSums(counted_cells(settings, grid[0], grid[1]), projection.shape[1])

    def update(self, patches: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, gh, gw, d); labels play no part.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        patches = check_patches(patches, self.grid)
        if len(patches):
            self.sums.update(project(counted_patches(patches, self.settings), self.centre, self.projection))

    def merge(self, other: Self) -> None:
        """Merge an accumulator with the same options and first pass.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ.
        """
        same_options(self.settings, other.settings)
        _require_same(self.grid, other.grid)
        self.sums.merge(other.sums)

    def state(self) -> Arrays:
        """Return the sums."""
        return self.sums.state()

    def restore(self, state: Arrays) -> None:
        """Replace the sums by those of a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.sums.restore(state)

    def finish(self) -> PaDiM:
        """Return the fitted detector.

        Raises:
            DataError: If there were fewer than two images.
        """
        if self.sums.count < 2:
            raise DataError(f"PaDiM needs the patches of at least 2 images, got {self.sums.count}. Pass more images.")
        means, whiteners = self.sums.means.astype(np.float32), self.sums.whiteners(self.settings)
        return PaDiM(self.settings, self.grid, self.centre, self.projection, read_only(means), read_only(whiteners))


def _stored(settings: PaDiMOptions) -> type[np.floating[Any]]:
    """Return the element type of stored whiteners."""
    return np.float16 if settings.precision == "fp16" else np.float32


def _require_same(grid: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    if grid != other:
        raise DataError(f"accumulators to merge must have one shape, got {grid} and {other}")
