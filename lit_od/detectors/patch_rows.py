"""A detector of features over patches: each patch is a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.detectors.bank.detector import BankDetector
from lit_od.detectors.bank.farthest_first import FarthestFirst
from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.gmm import GMM
from lit_od.detectors.knn import KNN
from lit_od.detectors.local_residual import LocalResidual
from lit_od.detectors.lof import LOF
from lit_od.detectors.mahalanobis import Mahalanobis
from lit_od.detectors.map_options import Cells, MapOptions
from lit_od.detectors.map_region import counted_cells
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.patch_maps import Candidates, PatchDetector, check_patches, counted_patches, single
from lit_od.detectors.pca import PCAResidual
from lit_od.detectors.state import check_names, take
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Labels, Outputs

OF_FEATURES: tuple[type[Detector], ...] = (Mahalanobis, KNN, LOF, LocalResidual, GMM, PCAResidual)
"""Detectors of features, which take patches as rows."""

_BY_KIND = {detector.kind: detector for detector in OF_FEATURES}


def named_detector(tree: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return kind and options of a recipe's `{"kind": KIND, **options}`.

    A detector of features that goes `over: patches` is a `PatchRows`, and the detector is its member.

    Raises:
        ConfigError: If it is to go over anything else.
    """
    options = dict(tree)
    kind = options.pop("kind", None)
    if "over" not in options:
        return kind, options
    over = options.pop("over")
    if over != "patches":
        raise ConfigError(f"over must be patches, got {over!r}")
    of_maps = {field.name for field in fields(MapOptions)}
    member = {"kind": kind} | {name: value for name, value in options.items() if name not in of_maps}
    return PatchRows.kind, {"member": member} | {name: value for name, value in options.items() if name in of_maps}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchRowsOptions(MapOptions):
    """Options, checked: those of maps, and the following.

    Attributes:
        member: Kind and options of the detector of features, as a recipe has them.
    """

    member: dict[str, Any] = field(default_factory=lambda: {"kind": KNN.kind})

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        settings = self.of_member()
        if getattr(settings, "class_conditional", False):
            raise ConfigError("over: patches takes one class: leave class_conditional out")

    @property
    def detector(self) -> type[Detector]:
        """The class of the detector of features."""
        return _BY_KIND[self.member["kind"]]

    def of_member(self) -> Any:
        """Return the options of the detector of features, checked.

        Raises:
            ConfigError: On an unknown kind or option, or a value out of range.
        """
        kind = self.member.get("kind") if isinstance(self.member, dict) else None
        if not isinstance(kind, str) or kind not in _BY_KIND:
            raise ConfigError(f"over: patches takes a member of kind {', '.join(_BY_KIND)}, got {kind!r}")
        options = {name: value for name, value in self.member.items() if name != "kind"}
        return read_options(kind, _BY_KIND[kind].options_type, options)


@dataclass(frozen=True, slots=True, eq=False)
class PatchRows(PatchDetector):
    """Score of each patch by a detector of features.

    Attributes:
        settings: The options it was fitted with.
        grid: Height and width of the grid, and channels of a patch.
        member: The detector of features.
    """

    kind: ClassVar[str] = "patch_rows"
    options_type: ClassVar[type[PatchRowsOptions]] = PatchRowsOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:patch_rows"

    settings: PatchRowsOptions
    grid: tuple[int, int, int]
    member: Detector

    @classmethod
    def start(cls, settings: PatchRowsOptions, first_row: int = 0) -> "PatchRowsAccumulator":
        """Return an empty accumulator for checked options."""
        return PatchRowsAccumulator(settings, first_row)

    @classmethod
    def require_installed(cls, settings: PatchRowsOptions) -> None:
        """Raise MissingExtra if fitting with these options needs a missing package."""
        settings.detector.require_installed(settings.of_member())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height and width of the grid, and channels."""
        return self.grid

    @property
    def is_distance(self) -> bool:
        """True if scores of cells are at least 0 by definition."""
        return self.member.is_distance

    @property
    def falls_with_rows(self) -> bool:
        """True if the detector of features says so."""
        return self.member.falls_with_rows

    def cells(self, patches: Outputs, /) -> Cells:
        """Return the score of each patch, in `cell_shape`.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        scores = self.member.score(patches.reshape(-1, self.grid[2]))
        return single(scores).reshape(len(patches), *self.cell_shape)

    @property
    def accepts(self) -> bool:
        """True if the detector of features takes further rows."""
        return self.member.accepts

    @property
    def only_lowers(self) -> bool:
        """True if further rows can raise no score of the detector of features."""
        return self.member.only_lowers

    def sums(self) -> "PatchRowsAccumulator | None":
        """Return an empty accumulator around that of the member, if it needs one."""
        within = self.member.sums()
        if within is None:
            return None
        sums = PatchRowsAccumulator(self.settings)
        sums.grid, sums.gathered = self.grid, within
        return sums

    def candidates(self, patches: Outputs, /) -> Candidates:
        """Return the patches of one image that the bank may take; None without a bank."""
        if not isinstance(self.member, BankDetector):
            return (None,)
        bank = self.member.bank
        return (FarthestFirst(bank, bank.prepare(patches.reshape(-1, self.grid[2]))),)

    def grown(self, candidates: Candidates, count: int) -> Self:
        """Return the detector whose bank has taken so many candidates."""
        (found,) = candidates
        if found is None or not isinstance(self.member, BankDetector):
            return self
        return replace(self, member=self.member.of_bank(self.member.settings, found.grown(count)))

    def state(self) -> Arrays:
        """Return the grid, and the arrays of the detector of features."""
        return {"grid": np.array(self.grid, np.int64), **self.member.state()}

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, PatchRowsOptions, options)
        check_names(cls.kind, {name: state[name] for name in state if name == "grid"}, ("grid",))
        height, width, channels = (int(side) for side in take(state, "grid", (3,), np.int64))
        of_member = {name: value for name, value in settings.member.items() if name != "kind"}
        member = settings.detector.from_state(of_member, {name: state[name] for name in state if name != "grid"})
        if min(height, width) < 1 or member.input_shape != (channels,):
            raise DataError("array 'grid' of the state does not fit the other arrays; fit the detector anew")
        return cls(settings, (height, width, channels), member)


class PatchRowsAccumulator:
    """An accumulator that hands patches to the accumulator of a detector of features.

    Attributes:
        settings: The options.
        first_row: Number of the first image it will see.
        grid: Height and width of the grid, and channels; None before the first batch.
        gathered: The other accumulator; None before the first batch.
    """

    __slots__ = ("first_row", "gathered", "grid", "settings")

    def __init__(self, settings: PatchRowsOptions, first_row: int = 0) -> None:
        self.settings, self.first_row = settings, first_row
        self.grid: tuple[int, int, int] | None = None
        self.gathered: Accumulator | None = None

    def update(self, patches: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, gh, gw, d); labels play no part.

        Raises:
            ConfigError: If an option cannot serve patches of this width.
            DataError: On a wrong shape, or values that are not finite.
        """
        patches = check_patches(patches, self.grid)
        if not len(patches):
            return
        gathered = self._begin((patches.shape[1], patches.shape[2], patches.shape[3]))
        gathered.update(counted_patches(patches, self.settings).reshape(-1, patches.shape[3]))

    def _begin(self, grid: tuple[int, int, int]) -> Accumulator:
        if self.gathered is None:
            self.grid = grid
            first = self.first_row * counted_cells(self.settings, grid[0], grid[1])
            self.gathered = self.settings.detector.start(self.settings.of_member(), first)
        return self.gathered

    def merge(self, other: Self) -> None:
        """Take over an accumulator with the same options that has seen the next images.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ, or the images do not follow.
        """
        same_options(self.settings, other.settings)
        if other.gathered is None or other.grid is None:
            return
        gathered = self._begin(other.grid)
        if self.grid != other.grid:
            raise DataError(f"accumulators to merge must have one shape, got {self.grid} and {other.grid}")
        gathered.merge(other.gathered)

    def state(self) -> Arrays:
        """Return the grid, and what was gathered; nothing before the first batch."""
        if self.gathered is None or self.grid is None:
            return {}
        return {"grid": np.array(self.grid, np.int64), **self.gathered.state()}

    def restore(self, state: Arrays) -> None:
        """Replace what was gathered by a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        self.grid, self.gathered = None, None
        if state:
            rest = dict(state)
            height, width, channels = (int(side) for side in take(rest, "grid", (3,), np.int64))
            del rest["grid"]
            self._begin((height, width, channels)).restore(rest)

    def finish(self) -> PatchRows:
        """Return the fitted detector.

        Raises:
            DataError: If there were no images, or too few patches.
        """
        if self.gathered is None or self.grid is None:
            raise DataError("a detector over patches needs at least 1 image, got 0. Pass more images.")
        return PatchRows(self.settings, self.grid, self.gathered.finish())
