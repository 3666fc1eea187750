"""Several detectors over the same patches, their maps on one scale and summed."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import integer, number
from lit_od.detectors.bank.row_store import row_ranks
from lit_od.detectors.base import Accumulator
from lit_od.detectors.held_out import GROUP, fitted_before, is_held, scale_of
from lit_od.detectors.member_sums import MemberSums
from lit_od.detectors.options import read_options, same_options
from lit_od.detectors.patch_bank import PatchCore
from lit_od.detectors.patch_gaussian import PaDiM
from lit_od.detectors.patch_maps import Candidates, Cells, MapOptions, PatchDetector, check_patches, single
from lit_od.detectors.patch_rows import PatchRows
from lit_od.detectors.state import LARGEST_SINGLE, SMALLEST, read_only, take, take_apart
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Labels, Outputs, Stats

OF_PATCHES: tuple[type[PatchDetector], ...] = (PaDiM, PatchCore, PatchRows)
"""Detectors that may be members."""

MOST_HELD = 48
"""Images that set the scales, at most: a seeded sample of those held out."""

_BY_KIND = {detector.kind: detector for detector in OF_PATCHES}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleOptions(MapOptions):
    """Options, checked: those of maps, and the following.

    Attributes:
        members: Kind and options of each member, as a recipe has them; of two members at least. Their own
            options of maps play no part.
        weights: Weight of each member; None weighs all the same.
        seed: Of the choice of images that set the scales.
    """

    members: list[dict[str, Any]] = field(
        default_factory=lambda: [{"kind": "padim"}, {"kind": "patchcore"}, {"kind": "patchcore", "whiten": True}]
    )
    weights: list[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        if not isinstance(self.members, list) or len(self.members) < 2:
            raise ConfigError(f"members must be two detectors or more, each with its kind, got {self.members!r}")
        self.of_members()
        integer("seed", self.seed, least=0, most=2**32 - 1)
        if self.weights is not None:
            if not isinstance(self.weights, list) or len(self.weights) != len(self.members):
                raise ConfigError(f"weights must be {len(self.members)} numbers, one a member, got {self.weights!r}")
            for weight in self.weights:
                number("a weight", weight, above=0, most=1e6)

    def of_members(self) -> list[tuple[type[PatchDetector], Any]]:
        """Return the class and the checked options of each member.

        Raises:
            ConfigError: On an unknown kind or option, or a value out of range.
        """
        found: list[tuple[type[PatchDetector], Any]] = []
        for member in self.members:
            kind = member.get("kind") if isinstance(member, dict) else None
            if not isinstance(kind, str) or kind not in _BY_KIND:
                raise ConfigError(f"a member must be one of {', '.join(_BY_KIND)}, got {kind!r}")
            found.append((_BY_KIND[kind], read_options(kind, _BY_KIND[kind].options_type, _rest(member))))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble(PatchDetector):
    """Sum of the maps of several detectors, each brought to one scale.

    A member's cells are divided by their median over held-out inliers where they are distances; else the median is
    taken off, and the rest divided by the interquartile range.

    Attributes:
        settings: The options it was fitted with.
        members: The fitted members.
        shifts: Subtracted from each member's cells, shape (m,).
        scales: Divisors of the differences, shape (m,).
    """

    kind: ClassVar[str] = "ensemble"
    options_type: ClassVar[type[EnsembleOptions]] = EnsembleOptions
    passes: ClassVar[int] = 2

    settings: EnsembleOptions
    members: tuple[PatchDetector, ...]
    shifts: Stats
    scales: Stats

    @classmethod
    def start(cls, settings: EnsembleOptions, first_row: int = 0) -> "EnsembleAccumulator":
        """Return an empty accumulator of the first pass, for checked options."""
        started = [kind.start(each, fitted_before(first_row, settings.seed)) for kind, each in settings.of_members()]
        return EnsembleAccumulator(settings, first_row, list(started))

    @classmethod
    def start_second(cls, after: Accumulator, first_row: int = 0) -> "EnsembleAccumulator":
        """Return an empty accumulator of the second pass.

        Args:
            after: Accumulator of the first pass over all images.
            first_row: Number of the first image it will see.

        Raises:
            DataError: If the first pass has seen no image.
        """
        assert isinstance(after, EnsembleAccumulator)
        row = fitted_before(first_row, after.settings.seed)
        started = [
            kind.start_second(gathered, row) if kind.passes == 2 else None
            for (kind, _), gathered in zip(after.settings.of_members(), after.gathered, strict=True)
        ]
        return EnsembleAccumulator(after.settings, first_row, started, after)

    @classmethod
    def require_installed(cls, settings: EnsembleOptions) -> None:
        """Raise MissingExtra if fitting with these options needs a missing package."""
        for kind, each in settings.of_members():
            kind.require_installed(each)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height and width of the grid, and channels."""
        return self.members[0].input_shape

    def cells(self, patches: Outputs, /) -> Cells:
        """Return the sum of the members' scaled cells, (n, gh, gw).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        weights = self.settings.weights or [1.0] * len(self.members)
        total = np.zeros((len(patches), *self.input_shape[:2]))
        for member, weight, shift, scale in zip(self.members, weights, self.shifts, self.scales, strict=True):
            total += (weight / scale) * (member.cells(patches) - shift)
        return single(total)

    @property
    def accepts(self) -> bool:
        """True if every member takes further images."""
        return all(member.accepts for member in self.members)

    @property
    def only_lowers(self) -> bool:
        """True if further images can raise no member's score; shifts and scales stay."""
        return all(member.only_lowers for member in self.members)

    def sums(self) -> "MemberSums | None":
        """Return empty accumulators of the members that need sums; None where none does."""
        parts = [member.sums() for member in self.members]
        return None if all(part is None for part in parts) else MemberSums(self, parts)

    def sums_of(self, gathered: Accumulator, /) -> "MemberSums | None":
        """Return the sums of the members within the accumulator of the second pass."""
        assert isinstance(gathered, EnsembleAccumulator)
        assert gathered.first is not None
        pairs = zip(self.members, gathered.gathered, gathered.first.gathered, strict=True)
        parts = [member.sums_of(second or first) for member, second, first in pairs]
        return None if all(part is None for part in parts) else MemberSums(self, parts)

    def candidates(self, patches: Outputs, /) -> Candidates:
        """Return the patches of one image that the members' banks may take."""
        return tuple(member.candidates(patches)[0] for member in self.members)

    def grown(self, candidates: Candidates, count: int) -> Self:
        """Return the detector whose members' banks have taken so many candidates each."""
        pairs = zip(self.members, candidates, strict=True)
        return replace(self, members=tuple(member.grown((each,), count) for member, each in pairs))

    def state(self) -> Arrays:
        """Return shifts, scales, and each member's arrays, prefixed by its number."""
        arrays: Arrays = {"shifts": self.shifts, "scales": self.scales}
        for number_, member in enumerate(self.members):
            arrays |= {f"{number_}.{name}": array for name, array in member.state().items()}
        return arrays

    @classmethod
    def from_state(cls, options: dict[str, Any], state: Arrays) -> Self:
        """Rebuild from `options()` and `state()`.

        Raises:
            ConfigError: On options that do not exist or are out of range.
            DataError: If the arrays do not fit the options or each other.
        """
        settings = read_options(cls.kind, EnsembleOptions, options)
        own, parts = take_apart(state, len(settings.members), ("shifts", "scales"))
        kinds = settings.of_members()
        members = tuple(
            kind.from_state(_rest(tree), part)
            for (kind, _), tree, part in zip(kinds, settings.members, parts, strict=True)
        )
        if len({member.input_shape for member in members}) > 1:
            raise DataError("the members of the state read patches of different shapes; fit the detector anew")
        shifts, scales = (take(own, name, (len(members),)) for name in ("shifts", "scales"))
        if not (scales >= SMALLEST).all():
            raise DataError("array 'scales' of the state must be positive; fit the detector anew")
        return cls(settings, members, shifts, scales)


class EnsembleAccumulator:
    """An accumulator that hands four images of five to the members.

    It holds the fifth, for their scales.

    Args:
        settings: The options.
        first_row: Number of the first image it will see.
        gathered: Accumulators of the members; None for one that takes no second pass.
        first: The accumulator of the first pass, for the second.

    Attributes:
        settings: The options.
        first_row: Number of the first image it will see.
        gathered: The members' accumulators; None for one that takes no second pass.
        first: The accumulator of the first pass, in the second.
        seen: Images so far.
    """

    __slots__ = ("_held", "_ranks", "first", "first_row", "gathered", "seen", "settings")

    def __init__(
        self,
        settings: EnsembleOptions,
        first_row: int,
        gathered: list[Any],
        first: "EnsembleAccumulator | None" = None,
    ) -> None:
        self.settings, self.first_row, self.gathered, self.first = settings, first_row, gathered, first
        self.seen = 0
        self._held: NDArray[np.float32] | None = None  # (m, gh, gw, d)
        self._ranks = np.empty(0, np.uint64)

    def update(self, patches: Outputs, labels: Labels | None = None) -> None:
        """Take a batch of shape (n, gh, gw, d); labels play no part.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        patches = check_patches(patches)
        if not len(patches):
            return
        rows = np.arange(len(patches)) + self.first_row + self.seen
        held = is_held(rows, self.settings.seed)
        self.seen += len(patches)
        for gathered in self.gathered:
            if gathered is not None:
                gathered.update(patches[~held])
        if self.first is None:
            self._hold(patches[held].astype(np.float32), row_ranks(self.settings.seed, rows[held].astype(np.uint64)))

    def _hold(self, patches: NDArray[np.float32], ranks: NDArray[np.uint64]) -> None:
        if not len(patches):
            return
        self._held = patches if self._held is None else np.concatenate([self._held, patches])
        self._ranks = np.concatenate([self._ranks, ranks])
        if len(self._ranks) > MOST_HELD:
            lowest = np.sort(np.argsort(self._ranks, kind="stable")[:MOST_HELD])
            self._held, self._ranks = self._held[lowest], self._ranks[lowest]

    def merge(self, other: Self) -> None:
        """Take over an accumulator with the same options that has seen the next images.

        Raises:
            ConfigError: If the options differ.
            DataError: If the shapes differ, or the images do not follow.
        """
        same_options(self.settings, other.settings)
        if not other.seen:
            return
        follows = self.first_row + self.seen
        if other.first_row != follows:
            raise DataError(
                f"images are held out by number: the accumulator to merge must have first_row={follows}, got "
                f"{other.first_row}. Give each its first_row, and merge in the order of the images."
            )
        for mine, theirs in zip(self.gathered, other.gathered, strict=True):
            if mine is not None:
                mine.merge(theirs)
        if other._held is not None:
            if self._held is not None and self._held.shape[1:] != other._held.shape[1:]:
                raise DataError("accumulators to merge must have seen patches of one shape")
            self._hold(other._held, other._ranks)
        self.seen += other.seen

    def state(self) -> Arrays:
        """Return what the members have gathered, and the images that are held."""
        arrays: Arrays = {"seen": np.array([self.seen], np.int64), "ranks": self._ranks.view(np.int64)}
        if self._held is not None:
            arrays["held"] = self._held
        for number_, gathered in enumerate(self.gathered):
            if gathered is not None:
                arrays |= {f"{number_}.{name}": array for name, array in gathered.state().items()}
        return arrays

    def restore(self, state: Arrays) -> None:
        """Replace what was gathered by a `state()`.

        Raises:
            DataError: If the arrays do not fit together.
        """
        own, parts = take_apart(state, len(self.gathered), ("seen", "ranks", *(["held"] if "held" in state else [])))
        self.seen = int(take(own, "seen", (1,), np.int64)[0])
        ranks = np.asarray(own["ranks"])
        self._held, self._ranks = None, np.empty(0, np.uint64)
        if "held" in own:
            held = take(own, "held", (None, None, None, None), np.float32, most=LARGEST_SINGLE)
            if ranks.shape != (len(held),) or ranks.dtype != np.int64:
                raise DataError("the arrays of a share of an ensemble do not fit together; gather its images anew")
            self._held, self._ranks = held, ranks.view(np.uint64)
        for gathered, part in zip(self.gathered, parts, strict=True):
            if gathered is not None:
                gathered.restore(part)

    def finish(self) -> Ensemble:
        """Return the fitted detector.

        Raises:
            DataError: If this is the first pass, there are too few images, or a scale is zero.
        """
        if self.first is None:
            raise DataError("Ensemble takes two passes over the images: pass this accumulator to start_second")
        held = self.first._held
        if held is None:
            raise DataError(
                f"Ensemble needs at least {GROUP} images, one in {GROUP} of which sets the members' scales, "
                f"got {self.seen}. Pass more images."
            )
        members = [(second or first).finish() for second, first in zip(self.gathered, self.first.gathered, strict=True)]
        shifts, scales = np.zeros(len(members)), np.zeros(len(members))
        for row, member in enumerate(members):
            shifts[row], scales[row] = scale_of(member, held)
        return Ensemble(self.settings, tuple(members), read_only(shifts), read_only(scales))


def _rest(member: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in member.items() if name != "kind"}
