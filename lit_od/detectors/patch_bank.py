"""A memory bank of patches (PatchCore, Roth et al. 2022)."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import flag
from lit_od.detectors.bank import faiss_index
from lit_od.detectors.bank.farthest_first import FarthestFirst
from lit_od.detectors.bank.memory_bank import Bank
from lit_od.detectors.bank.options import BankOptions, Metric, Precision
from lit_od.detectors.bank.row_store import RowStore
from lit_od.detectors.map_options import Cells, MapOptions
from lit_od.detectors.map_region import counted_cells
from lit_od.detectors.moments import Moments
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.patch_maps import Candidates, PatchDetector, check_patches, counted_patches, single
from lit_od.detectors.patch_moments import project
from lit_od.detectors.state import LARGEST_SINGLE, check_names, read_only, take
from lit_od.errors import DataError, LitODWarning
from lit_od.types import Arrays, Labels, Outputs

MOST_BYTES = 2**28
"""Bytes of patches that are kept while fitting: of more, a seeded sample; it may take twice as much for a while."""

COMPONENTS = 100
"""Largest number of components of whitened patches."""

RIDGE = 0.01
"""Added to the components' variances before whitening, in units of the standardised channels' variance."""

NEIGHBOURS = 9
"""Rows around the nearest one that weigh a score, as in the paper's published code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchCoreOptions(MapOptions):
    """Options, checked: those of maps, of memory banks as for KNN, and the following.

    Attributes:
        coreset: Patches in the bank, chosen by greedy k-centre: an integer, or their share; None keeps all.
        k: Nearest rows whose mean distance is a patch's score.
        whiten: Compare whitened principal components of the standardised channels, at most `COMPONENTS`.
        reweight: Multiply an image's map by the paper's weight, which is small where the neighbours of its most
            outlying patch's nearest row are about as near.
    """

    coreset: int | float | None = 4000
    k: int = 1
    whiten: bool = False
    reweight: bool = False
    metric: Metric = "l2"
    index: str = "flat"
    search: dict[str, int | float] | None = None
    precision: Precision = "fp32"
    standardise: bool = False
    memory_budget: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        flag("whiten", self.whiten)
        flag("reweight", self.reweight)
        self.of_bank()

    @property
    def weighs_images(self) -> bool:
        """True where the paper's weight multiplies an image's map."""
        return self.reweight

    def of_bank(self) -> "PatchBankOptions":
        """Return the options of the memory bank, checked."""
        return PatchBankOptions(
            metric=self.metric,
            index=self.index,
            search=self.search,
            precision=self.precision,
            standardise=self.standardise,
            coreset=None if self.memory_budget is not None else self.coreset,
            memory_budget=self.memory_budget,
            seed=self.seed,
            k=self.k,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchBankOptions(BankOptions):
    """Options of a bank of patches, which is a greedy k-centre coreset."""

    def method_of(self) -> "Any":
        """Return the way a smaller bank is chosen."""
        return "k-centre"


@dataclass(frozen=True, slots=True, eq=False)
class PatchCore(PatchDetector):
    """Distance of each patch to the nearest patches of a memory bank.

    Attributes:
        settings: The options it was fitted with.
        grid: Height and width of the grid, and channels of a patch.
        bank: The inliers' patches.
        whitening: Mean (d,) and projection (d, k) of whitened patches; None where patches are compared unchanged.
    """

    kind: ClassVar[str] = "patchcore"
    options_type: ClassVar[type[PatchCoreOptions]] = PatchCoreOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:patchcore"

    settings: PatchCoreOptions
    grid: tuple[int, int, int]
    bank: Bank
    whitening: tuple[NDArray[np.float32], NDArray[np.float32]] | None

    @classmethod
    def start(cls, settings: PatchCoreOptions, first_row: int = 0) -> "PatchAccumulator":
        """Return an empty accumulator for checked options."""
        return PatchAccumulator(settings, first_row)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height and width of the grid, and channels."""
        return self.grid

    @property
    def falls_with_rows(self) -> bool:
        """True if the bank holds every patch and nothing else was learnt."""
        settings, whole = self.settings, len(self.bank.rows) < most_patches(self.grid[2])
        return whole and settings.of_bank().keeps_rows and not settings.whiten and not settings.reweight

    def cells(self, patches: Outputs, /) -> Cells:
        """Return the distance of each patch to the bank, in `cell_shape`.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        queries = self._prepared(patches)
        distances, ids = self.bank.nearest(queries, self.settings.k)
        scores = distances.mean(axis=1).reshape(len(patches), -1)
        if self.settings.reweight:
            most = scores.argmax(axis=1) + np.arange(len(patches)) * scores.shape[1]
            scores *= self._weights(queries[most], ids[most, 0])[:, None]
        return single(scores).reshape(len(patches), *self.cell_shape)

    def _prepared(self, patches: Outputs) -> NDArray[np.float32]:
        """Return the patches of cells as rows to be compared with the bank's."""
        rows = patches.reshape(-1, self.grid[2])
        if self.whitening is not None:
            rows = project(patches, *self.whitening).reshape(len(rows), -1)
        return self.bank.prepare(rows)

    @property
    def accepts(self) -> bool:
        """True: the bank takes patches."""
        return True

    @property
    def only_lowers(self) -> bool:
        """True if the search is exact and nothing is re-weighted."""
        return self.bank.is_exact and not self.settings.reweight

    def candidates(self, patches: Outputs, /) -> Candidates:
        """Return the patches of one image that the bank may take."""
        return (FarthestFirst(self.bank, self._prepared(patches)),)

    def grown(self, candidates: Candidates, count: int) -> Self:
        """Return the detector whose bank has taken so many candidates."""
        (found,) = candidates
        return self if found is None else replace(self, bank=found.grown(count))

    def _weights(self, queries: NDArray[np.float32], nearest: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the paper's weights of images, shape (n,).

        Args:
            queries: Most outlying patch of each, prepared, shape (n, d).
            nearest: Its nearest row, shape (n,).
        """
        count = min(NEIGHBOURS, len(self.bank.rows))
        _, around = self.bank.nearest(self.bank.rows[nearest].astype(np.float32, copy=False), count)
        gaps = self.bank.distances(queries, around)
        own = self.bank.distances(queries, nearest[:, None])
        largest = np.maximum(gaps.max(axis=1, keepdims=True), own)
        weights: NDArray[np.float64] = 1 - np.exp(own - largest)[:, 0] / np.exp(gaps - largest).sum(axis=1)
        return np.maximum(weights, 0.0)

    def state(self) -> Arrays:
        """Return the bank's arrays, the grid, and the whitening where there is one."""
        arrays = {**self.bank.state(), "grid": np.array(self.grid, np.int64)}
        if self.whitening is not None:
            arrays |= {"white_centre": self.whitening[0], "white_projection": self.whitening[1]}
        return arrays

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, PatchCoreOptions, options)
        of_bank = settings.of_bank()
        further = ("white_centre", "white_projection") if settings.whiten else ()
        check_names(cls.kind, state, (*Bank.names(of_bank), "grid", *further))
        height, width, channels = (int(side) for side in take(state, "grid", (3,), np.int64))
        bank, whitening = Bank.from_state(of_bank, state), None
        if settings.whiten:
            centre = take(state, "white_centre", (channels,), np.float32, most=LARGEST_SINGLE)
            whitening = centre, take(state, "white_projection", (channels, None), np.float32, most=LARGEST_SINGLE)
        wanted = channels if whitening is None else whitening[1].shape[1]
        if min(height, width, channels) < 1 or bank.width != wanted or len(bank.rows) < settings.k:
            raise DataError("the arrays 'grid' and 'bank' of the state do not fit together; fit the detector anew")
        return cls(settings, (height, width, channels), bank, whitening)


class PatchAccumulator:
    """An accumulator of patches: all, or a seeded sample within `MOST_BYTES`.

    Attributes:
        settings: The options.
        first_row: Number of the first image it will see.
        grid: Height and width of the grid, and channels; None before the first batch.
        store: The patches.
    """

    __slots__ = ("first_row", "grid", "settings", "store")

    def __init__(self, settings: PatchCoreOptions, first_row: int = 0) -> None:
        self.settings, self.first_row = settings, first_row
        self.grid: tuple[int, int, int] | None = None
        self.store = RowStore()

    def update(self, patches: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, gh, gw, d); labels play no part.

        Raises:
            ConfigError: If the index or the memory budget cannot serve patches of this width.
            DataError: On a wrong shape, or values that are not finite.
        """
        patches = check_patches(patches, self.grid)
        if not len(patches):
            return
        self._begin((patches.shape[1], patches.shape[2], patches.shape[3]))
        self.store.update(counted_patches(patches, self.settings).reshape(-1, patches.shape[3]))

    def _begin(self, grid: tuple[int, int, int]) -> None:
        if self.grid is not None:
            return
        width = min(COMPONENTS, grid[2]) if self.settings.whiten else grid[2]
        faiss_index.check_factory(self.settings.index, width, self.settings.search)
        self.settings.of_bank().rows_that_fit(width)
        first = self.first_row * counted_cells(self.settings, grid[0], grid[1])
        self.grid = grid
        self.store = RowStore(first, seed=self.settings.seed, limit=most_patches(grid[2]))

    def merge(self, other: Self) -> None:
        """Take over an accumulator with the same options that has seen the next images.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ, or the images do not follow.
        """
        same_options(self.settings, other.settings)
        if other.grid is None:
            return
        self._begin(other.grid)
        if self.grid != other.grid:
            raise DataError(f"accumulators to merge must have one shape, got {self.grid} and {other.grid}")
        self.store.merge(other.store)

    def state(self) -> Arrays:
        """Return the grid and the patches; nothing before the first batch."""
        return {} if self.grid is None else {"grid": np.array(self.grid, np.int64), **self.store.state()}

    def restore(self, state: Arrays) -> None:
        """Replace what was gathered by a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.grid = None
        if state:
            rows = dict(state)
            height, width, channels = (int(side) for side in take(rows, "grid", (3,), np.int64))
            del rows["grid"]
            if min(height, width, channels) < 1:
                raise DataError(f"array 'grid' of the state must be positive, got {height, width, channels}")
            self._begin((height, width, channels))
            self.store.restore(rows)
            if self.store.width not in (None, channels):
                raise DataError("the arrays of a share of patchcore do not fit together; gather its images anew")

    def finish(self) -> PatchCore:
        """Return the fitted detector.

        Raises:
            DataError: If there are too few patches.
        """
        rows = self.store.rows()
        if self.grid is None or len(rows) < self.settings.k:
            raise DataError(f"PatchCore needs at least {self.settings.k} patches, got {len(rows)}. Pass more images.")
        if len(rows) < self.store.seen:
            warnings.warn(  # the same words in each fold of a cross calibration, so that they are printed once
                f"patchcore chooses its bank from a seeded sample of {len(rows):,} patches, which is what "
                f"{MOST_BYTES >> 20} MiB hold; the images have more",
                LitODWarning,
                stacklevel=1,
            )
        whitening = _whitening(rows) if self.settings.whiten else None
        if whitening is not None:
            rows = project(rows[None, None], *whitening)[0]
        bank = Bank.build(self.settings.of_bank(), rows)
        if len(bank.rows) < self.settings.k:
            raise DataError(
                f"PatchCore needs a bank of at least {self.settings.k} patches, got one of {len(bank.rows)}"
            )
        return PatchCore(self.settings, self.grid, bank, whitening)


def most_patches(channels: int) -> int:
    """Return the number of patches that are kept while fitting."""
    return max(1, MOST_BYTES // (4 * channels))


def _whitening(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean (d,) and projection (d, k) that whiten rows (n, d).

    The projection gives the leading principal components of the standardised rows.
    """
    moments = Moments(rows.shape[1])
    moments.update(rows)
    scale = moments.scale
    covariance = moments.scatter / moments.count / scale / scale[:, None]
    variances, directions = np.linalg.eigh(covariance)
    kept = min(COMPONENTS, rows.shape[1])
    whitened = directions[:, ::-1][:, :kept] / np.sqrt(np.maximum(variances[::-1][:kept], 0.0) + RIDGE)
    return read_only(moments.mean.astype(np.float32)), read_only((whitened / scale[:, None]).astype(np.float32))
