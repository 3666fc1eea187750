"""Several detectors of features, their scores on one scale and summed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from lit_od.detectors.base import Accumulator, Batches, Detector
from lit_od.detectors.ensemble import Ensemble
from lit_od.detectors.ensemble_base import MemberOptions, MemberSum
from lit_od.detectors.ensemble_fitting import EnsembleAccumulator
from lit_od.detectors.member_sums import MemberSums
from lit_od.detectors.options import read_options
from lit_od.detectors.patch_rows import OF_FEATURES
from lit_od.types import Features, Labels, Output, Outputs, Scores, Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEnsembleOptions(MemberOptions):
    """Options, checked: those of every ensemble."""

    reads: ClassVar[Output] = "features"
    choice: ClassVar[tuple[type[Detector], ...]] = OF_FEATURES

    members: list[dict[str, Any]] = field(default_factory=lambda: [{"kind": "mahalanobis"}, {"kind": "knn"}])
    weights: list[float] | None = None
    seed: int = 0
    views: int = 1

    def __post_init__(self) -> None:
        self.check()

    @property
    def class_conditional(self) -> bool:
        """True if a member needs the class of every image."""
        return any(getattr(settings, "class_conditional", False) for _, settings in self.of_members())


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

    def accept(self, batches: Batches, sums: Accumulator | None = None, /, *, limit: float) -> Self:
        """Return the sum of members that take further images; shifts and scales stay.

        Args:
            batches: Gives the features of the images, shape (n, d) a batch.
            sums: As `Detector.accept` takes them.
            limit: As `Detector.accept` takes it.

        Raises:
            ConfigError: If a member cannot take images.
            DataError: On a wrong width, or values that are not finite.
        """
        parts = sums.parts if isinstance(sums, MemberSums) else (None,) * len(self.members)
        pairs = zip(self.members, parts, strict=True)
        return replace(self, members=tuple(each.accept(batches, part, limit=limit) for each, part in pairs))


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
