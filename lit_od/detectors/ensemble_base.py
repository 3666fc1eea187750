"""The base of ensembles: members, their scales, and the sum of their scores."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import integer, number
from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.ensemble_fitting import EnsembleAccumulator
from lit_od.detectors.held_out import fitted_before
from lit_od.detectors.member_sums import MemberSums
from lit_od.detectors.options import read_options
from lit_od.detectors.patch_rows import named_detector
from lit_od.detectors.state import SMALLEST, take, take_apart
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Output, Outputs, Stats


class MemberOptions:
    """Options of every ensemble: the fields of its dataclasses, and their checks.

    Attributes:
        members: Kind and options of each member, as a recipe has them; two members at least.
        weights: Weight of each member; None weighs all the same.
        seed: Of the choice of images that set the scales.
        views: Consecutive rows that are views of one image: all fit the members, or the first sets the scales. A bundle
            takes them from `data.augment`.
    """

    __slots__ = ()

    reads: ClassVar[Output]
    choice: ClassVar[tuple[type[Detector], ...]]
    """Detectors that may be members."""

    members: list[dict[str, Any]]
    weights: list[float] | None
    seed: int
    views: int

    def check(self) -> None:
        """Raise ConfigError unless members, weights and seed are valid."""
        if not isinstance(self.members, list) or len(self.members) < 2:
            raise ConfigError(f"members must be two detectors or more, each with its kind, got {self.members!r}")
        self.of_members()
        integer("seed", self.seed, least=0, most=2**32 - 1)
        integer("views", self.views, least=1)
        if self.weights is not None:
            if not isinstance(self.weights, list) or len(self.weights) != len(self.members):
                raise ConfigError(f"weights must be {len(self.members)} numbers, one a member, got {self.weights!r}")
            for weight in self.weights:
                number("a weight", weight, above=0, most=1e6)

    def of_members(self) -> list[tuple[type[Detector], Any]]:
        """Return the class and the checked options of each member.

        Raises:
            ConfigError: On an unknown kind or option, or a value out of range.
        """
        found: list[tuple[type[Detector], Any]] = []
        by_kind = {detector.kind: detector for detector in self.choice}
        for member in self.members:
            kind, options = named_detector(member) if isinstance(member, dict) else (None, {})
            if not isinstance(kind, str) or kind not in by_kind:
                raise ConfigError(
                    f"a member over {self.reads} must be one of {', '.join(by_kind)}, got {kind!r}: all members of an "
                    "ensemble read the same, detectors of features read patches with over: patches"
                )
            options |= self.shared()
            found.append((by_kind[kind], read_options(kind, by_kind[kind].options_type, options)))
        return found

    def shared(self) -> dict[str, Any]:
        """Return the options that every member has."""
        return {}


class MemberSum(Detector):
    """Sum of the scores of several detectors, each brought to one scale.

    A member's scores are divided by their median over held-out inliers where they are distances; else the median is
    taken off, and the rest divided by the interquartile range.

    Attributes:
        settings: The options it was fitted with.
        members: The fitted members.
        shifts: Subtracted from each member's scores, shape (m,).
        scales: Divisors of the differences, shape (m,).
    """

    __slots__ = ()

    passes: ClassVar[int] = 2

    settings: Any
    members: tuple[Any, ...]
    shifts: Stats
    scales: Stats

    @classmethod
    def start(cls, settings: MemberOptions, first_row: int = 0) -> EnsembleAccumulator:
        """Return an empty accumulator of the first pass, for checked options."""
        row = fitted_before(first_row, settings.seed, settings.views)
        started = [kind.start(each, row) for kind, each in settings.of_members()]
        return EnsembleAccumulator(cls, settings, first_row, list(started))

    @classmethod
    def start_second(cls, after: Accumulator, first_row: int = 0) -> EnsembleAccumulator:
        """Return an empty accumulator of the second pass.

        Args:
            after: Accumulator of the first pass over all images.
            first_row: Number of the first image it will see.

        Raises:
            DataError: If the first pass has seen no image.
        """
        assert isinstance(after, EnsembleAccumulator)
        row = fitted_before(first_row, after.settings.seed, after.settings.views)
        started = [
            kind.start_second(gathered, row) if kind.passes == 2 else None
            for (kind, _), gathered in zip(after.settings.of_members(), after.gathered, strict=True)
        ]
        return EnsembleAccumulator(cls, after.settings, first_row, started, after)

    @property
    def is_distance(self) -> bool:
        """True if the scores of every member are at least 0 by definition."""
        return all(member.is_distance for member in self.members)

    @classmethod
    def require_installed(cls, settings: MemberOptions) -> None:
        """Raise MissingExtra if fitting with these options needs a missing package."""
        for kind, each in settings.of_members():
            kind.require_installed(each)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's output that every member scores."""
        shape: tuple[int, ...] = self.members[0].input_shape
        return shape

    @classmethod
    @abstractmethod
    def scores_of(cls, member: Any, outputs: Outputs, /) -> Stats:
        """Return a member's scores, in float64, whose sum this detector is."""

    def summed(self, outputs: Outputs) -> Stats:
        """Return the sum of the members' scaled scores.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        weights = self.settings.weights or [1.0] * len(self.members)
        parts = zip(self.members, weights, self.shifts, self.scales, strict=True)
        total: Stats = sum(
            ((weight / scale) * (self.scores_of(member, outputs) - shift) for member, weight, shift, scale in parts),
            start=np.zeros(()),
        )
        return total

    @property
    def accepts(self) -> bool:
        """True if every member takes further images."""
        return all(member.accepts for member in self.members)

    @property
    def only_lowers(self) -> bool:
        """True if further images can raise no member's score; shifts and scales stay."""
        return all(member.only_lowers for member in self.members)

    def sums(self) -> MemberSums | None:
        """Return empty accumulators of the members that need sums; None where none does."""
        return MemberSums.of(self, [member.sums() for member in self.members])

    def sums_of(self, gathered: Accumulator, /) -> MemberSums | None:
        """Return the sums of the members within the accumulator of the second pass."""
        assert isinstance(gathered, EnsembleAccumulator)
        assert gathered.first is not None
        pairs = zip(self.members, gathered.gathered, gathered.first.gathered, strict=True)
        return MemberSums.of(self, [member.sums_of(second or first) for member, second, first in pairs])

    def options(self) -> dict[str, Any]:
        """Return the options it was fitted with."""
        return asdict(self.settings)

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
        settings = read_options(cls.kind, cls.options_type, options)
        own, parts = take_apart(state, len(settings.members), ("shifts", "scales"))
        kinds = [
            (kind, named_detector(tree)[1] | settings.shared())
            for (kind, _), tree in zip(settings.of_members(), settings.members, strict=True)
        ]
        members = tuple(kind.from_state(each, part) for (kind, each), part in zip(kinds, parts, strict=True))
        if len({member.input_shape for member in members}) > 1:
            raise DataError(
                f"the members of the state read {settings.reads} of different shapes; fit the detector anew"
            )
        shifts, scales = (take(own, name, (len(members),)) for name in ("shifts", "scales"))
        if not (scales >= SMALLEST).all():
            raise DataError("array 'scales' of the state must be positive; fit the detector anew")
        return cls(settings, members, shifts, scales)  # type: ignore[call-arg]  # fields of every ensemble
