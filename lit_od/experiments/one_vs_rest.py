"""One class is normal, all others are outliers, for every class in turn.

A detector sees training images of the normal class alone; the test set's images of that class and of
all others are scored. Repetitions differ in the detector's seed and, under a `limit`, in the training
images drawn. Contamination replaces the test set's outliers by few of the training set's: the test images
of the normal class stay, and ceil(rate n) images are drawn, with replacement, from the training images of
the other classes.
"""

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lit_od.checks import integer, number
from lit_od.detectors import Detector
from lit_od.detectors.registry import find
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import DataError
from lit_od.evaluation.intervals import Interval, delong
from lit_od.evaluation.metrics import auroc
from lit_od.types import Features, Scores


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Features of images, and their classes.

    Attributes:
        features: Shape (n, d).
        labels: Shape (n,), text.
    """

    features: Features
    labels: NDArray[np.str_]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.features),):
            raise DataError(f"labels must have shape ({len(self.features)},), got {self.labels.shape}")

    def rows(self, label: str, *, other: bool = False) -> NDArray[np.intp]:
        """Return the positions of a class's images, or all others', ascending."""
        return np.flatnonzero((self.labels != label) if other else (self.labels == label))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """Contamination of the test set.

    Attributes:
        rate: Outliers drawn, as a share of the test images of the normal class, rounded up.
        draws: Number of contaminated sets; draw j is scored by the detector of repetition j, from the
            first again where there are fewer.
    """

    rate: float = 0.1
    draws: int = 10

    def __post_init__(self) -> None:
        number("contamination rate", self.rate, least=1e-6, most=1.0)
        integer("contamination draws", self.draws, least=1)


@dataclasses.dataclass(frozen=True, slots=True)
class ClassResult:
    """Results of one class as the normal one; AUROC is a share of 1.

    Attributes:
        normal: The class.
        images: Training images that fit a detector.
        aurocs: Against all other classes of the test set, one a repetition.
        intervals: DeLong's, around each; empty where a set has a single image.
        contaminated: On contaminated sets, one a draw; empty without contamination.
        fit_seconds: CPU time of a fit, without the extraction of features; the mean of the fits.
        score_seconds: CPU time of scoring the whole test set, in the same way.
    """

    normal: str
    images: int
    aurocs: tuple[float, ...]
    intervals: tuple[Interval, ...]
    contaminated: tuple[float, ...]
    fit_seconds: float
    score_seconds: float


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """A fitted detector and its scores of the test set."""

    detector: Detector
    images: int
    scores: Scores
    score_seconds: float


def one_class(
    train: Labelled,
    test: Labelled,
    spec: DetectorSpec,
    *,
    classes: Sequence[str],
    seeds: Sequence[int],
    limit: int | None = None,
    contamination: Contamination | None = None,
) -> list[ClassResult]:
    """Measure each class as the normal one, in the order of `classes`.

    Args:
        train: The training images of all classes.
        test: The test images of all classes.
        spec: The detector; the repetition's seed takes the place of a seed among its options.
        classes: The classes that are normal in turn.
        seeds: A repetition each. Repetitions whose detectors turn out to be the same are scored once.
        limit: Training images of the normal class to use at most, drawn anew for each repetition.
        contamination: Also measure on contaminated test sets.

    Raises:
        ConfigError: If the detector's options, a seed or the limit are invalid.
        DataError: If a class has no training or test images, there are no others, or the detector refuses.
    """
    for seed in seeds:
        integer("seed", seed, least=0)
    if limit is not None:
        integer("limit", limit, least=1)
    if not seeds or not classes:
        raise DataError("the protocol needs at least one seed and one class")
    results = []
    for normal in tqdm(classes, desc="classes", disable=None, leave=False):
        fits, fit_seconds = _repetitions(train, test, spec, normal, seeds, limit)
        inliers, outliers = test.rows(normal), test.rows(normal, other=True)
        draws = _contaminated(train, inliers, fits, normal, contamination) if contamination else []
        once = {id(each): each for each in fits}.values()
        enough = min(len(inliers), len(outliers)) >= 2  # for a variance
        intervals = {id(each): delong(each.scores[inliers], each.scores[outliers]) for each in once if enough}
        results.append(
            ClassResult(
                normal=normal,
                images=fits[0].images,
                aurocs=tuple(auroc(each.scores[inliers], each.scores[outliers]) for each in fits),
                intervals=tuple(intervals[id(each)] for each in fits if intervals),
                contaminated=tuple(draws),
                fit_seconds=fit_seconds,
                score_seconds=float(np.mean([each.score_seconds for each in once])),
            )
        )
    return results


def _repetitions(
    train: Labelled, test: Labelled, spec: DetectorSpec, normal: str, seeds: Sequence[int], limit: int | None
) -> tuple[list[_Fit], float]:
    """Fit once a seed; return the fits and the mean CPU time of fitting."""
    rows = train.rows(normal)
    for part, name in ((rows, "training"), (test.rows(normal), "test")):
        if not len(part):
            raise DataError(f"class {normal!r} has no {name} images: leave it out, or add some")
    fits: list[_Fit] = []
    seconds = []
    for seed in seeds:
        chosen = _drawn(rows, limit, seed)
        features = train.features[chosen]
        started = time.process_time()
        fitted = _seeded(spec, seed).fit(features)
        seconds.append(time.process_time() - started)
        twin = next((each for each in fits if _same(each.detector, fitted)), None)
        if twin is None:
            started = time.process_time()
            scores = fitted.score(test.features)
            twin = _Fit(fitted, len(chosen), scores, time.process_time() - started)
        fits.append(twin)
    return fits, float(np.mean(seconds))


def _drawn(rows: NDArray[np.intp], limit: int | None, seed: int) -> NDArray[np.intp]:
    if limit is None or limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng([seed, len(rows)]).permutation(rows)[:limit])


def _seeded(spec: DetectorSpec, seed: int) -> DetectorSpec:
    """Return the detector with another seed, where it has one."""
    if "seed" in {each.name for each in dataclasses.fields(find(spec.kind, spec.trust).options_type)}:
        return dataclasses.replace(spec, options={**spec.options, "seed": seed})
    return spec


def _same(one: Detector, other: Detector) -> bool:
    """Return True if two detectors of one kind hold the same statistics."""
    a, b = one.state(), other.state()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def _contaminated(
    train: Labelled, inliers: NDArray[np.intp], fits: Sequence[_Fit], normal: str, contamination: Contamination
) -> list[float]:
    others = train.rows(normal, other=True)
    if not len(others):
        raise DataError(f"all training images are of class {normal!r}, which leaves none to contaminate with")
    aurocs = []
    for draw in range(contamination.draws):
        rng = np.random.default_rng([draw, len(inliers), len(others)])
        rows = rng.choice(others, size=math.ceil(len(inliers) * contamination.rate))
        fit = fits[draw % len(fits)]
        aurocs.append(auroc(fit.scores[inliers], fit.detector.score(train.features[rows])))
    return aurocs
