"""Several detectors of the same outputs, summed on one scale: scores or maps."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.checks import integer, number
from lit_od.detectors.base import Accumulator, Detector
from lit_od.detectors.ensemble_fitting import EnsembleAccumulator
from lit_od.detectors.held_out import fitted_before
from lit_od.detectors.options import read_options
from lit_od.detectors.patch_bank import PatchCore
from lit_od.detectors.patch_gaussian import PaDiM
from lit_od.detectors.patch_maps import Cells, MapOptions, PatchDetector, single
from lit_od.detectors.patch_rows import OF_FEATURES, PatchRows, named_detector
from lit_od.detectors.state import SMALLEST, take, take_apart
from lit_od.errors import ConfigError, DataError
from lit_od.types import Arrays, Features, Labels, Output, Outputs, Scores, Stats

OF_PATCHES: tuple[type[PatchDetector], ...] = (PaDiM, PatchCore, PatchRows)
"""Detectors of patches that may be members."""


class MemberOptions:
    """Options of every ensemble: the fields of its dataclasses, and their checks.

    Attributes:
        members: Kind and options of each member, as a recipe has them; two members at least.
        weights: Weight of each member; None weighs all the same.
        seed: Of the choice of images that set the scales.
    """

    __slots__ = ()

    reads: ClassVar[Output]
    choice: ClassVar[tuple[type[Detector], ...]]
    """Detectors that may be members."""

    members: list[dict[str, Any]]
    weights: list[float] | None
    seed: int

    def check(self) -> None:
        """Raise ConfigError unless members, weights and seed are valid."""
        if not isinstance(self.members, list) or len(self.members) < 2:
            raise ConfigError(f"members must be two detectors or more, each with its kind, got {self.members!r}")
        self.of_members()
        integer("seed", self.seed, least=0, most=2**32 - 1)
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
            found.append((by_kind[kind], read_options(kind, by_kind[kind].options_type, options)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleOptions(MapOptions, MemberOptions):
    """Options, checked: those of maps and of every ensemble.

    The members' own options of maps play no part.
    """

    reads: ClassVar[Output] = "patches"
    choice: ClassVar[tuple[type[Detector], ...]] = OF_PATCHES

    members: list[dict[str, Any]] = field(
        default_factory=lambda: [{"kind": "padim"}, {"kind": "patchcore"}, {"kind": "patchcore", "whiten": True}]
    )
    weights: list[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        self.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEnsembleOptions(MemberOptions):
    """Options, checked: those of every ensemble."""

    reads: ClassVar[Output] = "features"
    choice: ClassVar[tuple[type[Detector], ...]] = OF_FEATURES

    members: list[dict[str, Any]] = field(default_factory=lambda: [{"kind": "mahalanobis"}, {"kind": "knn"}])
    weights: list[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()

    @property
    def class_conditional(self) -> bool:
        """True if a member needs the class of every image."""
        return any(getattr(settings, "class_conditional", False) for _, settings in self.of_members())


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
        row = fitted_before(first_row, settings.seed)
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
        row = fitted_before(first_row, after.settings.seed)
        started = [
            kind.start_second(gathered, row) if kind.passes == 2 else None
            for (kind, _), gathered in zip(after.settings.of_members(), after.gathered, strict=True)
        ]
        return EnsembleAccumulator(cls, after.settings, first_row, started, after)

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
            (kind, named_detector(tree)[1])
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


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble(MemberSum, PatchDetector):
    """Sum of the maps of several detectors on one scale: see `MemberSum`."""

    kind: ClassVar[str] = "ensemble"
    options_type: ClassVar[type[EnsembleOptions]] = EnsembleOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:ensemble"

    settings: EnsembleOptions
    members: tuple[PatchDetector, ...]
    shifts: Stats
    scales: Stats

    @classmethod
    def scores_of(cls, member: Any, outputs: Outputs, /) -> Stats:
        """Return a member's scores of cells, (n, gh, gw), for patches (n, gh, gw, d)."""
        cells: Cells = member.cells(outputs)
        return cells.astype(np.float64)

    def cells(self, patches: Outputs, /) -> Cells:
        """Return the sum of the members' scaled cells, (n, gh, gw).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        return single(self.summed(patches))


@dataclass(frozen=True, slots=True, eq=False)
class FeatureEnsemble(MemberSum):
    """Sum of the scores of several detectors of features: see `MemberSum`.

    A recipe names it `ensemble`, with members that read features.
    """

    kind: ClassVar[str] = "feature_ensemble"
    reads: ClassVar[Output] = "features"
    options_type: ClassVar[type[FeatureEnsembleOptions]] = FeatureEnsembleOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.rows:feature_ensemble"

    settings: FeatureEnsembleOptions
    members: tuple[Detector, ...]
    shifts: Stats
    scales: Stats

    @classmethod
    def fit(cls, features: Features, labels: Labels | None = None, **options: Any) -> Self:
        """Fit on inliers in memory.

        Args:
            features: Shape (n, d).
            labels: Classes of shape (n,), for members that are class-conditional.
            options: Options of `FeatureEnsembleOptions`, which documents them and has their defaults.

        Raises:
            ConfigError: On an option that does not exist or is out of range.
            DataError: On a wrong shape, too few images, or values that are not finite.
        """
        gathered = cls.accumulator(**options)
        gathered.update(features, labels)
        gathered = cls.start_second(gathered)
        gathered.update(features, labels)
        fitted = gathered.finish()
        assert isinstance(fitted, cls)
        return fitted

    @classmethod
    def accumulator(cls, *, first_row: int = 0, **options: Any) -> EnsembleAccumulator:
        """Return an empty accumulator of the first pass.

        Args:
            first_row: Number of the first image it will see, among those of all accumulators.
            options: As `fit` takes them.

        Raises:
            ConfigError: On an option that does not exist or is out of range.
        """
        return cls.start(read_options(cls.kind, cls.options_type, options), first_row)

    @classmethod
    def scores_of(cls, member: Any, outputs: Outputs, /) -> Stats:
        """Return a member's scores, (n,), for features (n, d)."""
        scores: Scores = member.score(outputs)
        return scores

    def score(self, features: Features, /) -> Scores:
        """Return the sum of the members' scaled scores, (n,).

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        return self.summed(features)


def ensemble_kind(kind: str, options: Mapping[str, Any]) -> str:
    """Return the kind of a recipe's ensemble; other kinds are returned unchanged.

    It is that of ensembles over features where all members read features.
    """
    members = options.get("members")
    of_features = {detector.kind for detector in OF_FEATURES}
    if kind != Ensemble.kind or not isinstance(members, list) or not members:
        return kind
    reads = [isinstance(each, dict) and "over" not in each and each.get("kind") in of_features for each in members]
    return FeatureEnsemble.kind if all(reads) else kind
