"""Scores of a served model: counts, histograms, and the drift alarm over them."""

import threading
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client.utils import floatToGoString

from lit_od.bundle.manifest import detector_hash
from lit_od.calibration.p_values import Calibration
from lit_od.operations.drift import DriftOptions
from lit_od.operations.drift_watch import Drift, DriftWatch, calibration_start
from lit_od.operations.scored_rows import ScoredRow
from lit_od.serving.models import Answers, Model

P_VALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(step / 10 for step in range(1, 11)))
"""Upper ends of the p-values' buckets."""

SHARES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
"""Percentiles of the calibration scores at which buckets of scores end."""

BEYOND = (1, 2, 4, 8, 16, 32)
"""Ends of buckets above the threshold, in distances from the median of the calibration scores to it."""

OUTLIER, INLIER, ERROR = "outlier", "inlier", "error"
"""Verdicts on images."""


class Buckets:
    """Counts of values by buckets, and their sum.

    Args:
        ends: Upper ends of the buckets, ascending; what is larger counts in one more.
    """

    def __init__(self, ends: Iterable[float]) -> None:
        self.ends = np.array(list(ends), dtype=np.float64)
        self._counts: NDArray[np.int64] = np.zeros(len(self.ends) + 1, dtype=np.int64)
        self.sum = 0.0

    def add(self, values: ArrayLike) -> None:
        """Count finite values."""
        found = np.asarray(values, dtype=np.float64)
        places = np.searchsorted(self.ends, found)  # a value that equals an end belongs below it
        self._counts += np.bincount(places, minlength=len(self._counts))
        self.sum += float(found.sum())

    def cumulative(self) -> list[tuple[str, float]]:
        """Return the ends as text, and the numbers of values up to each."""
        ends = [*map(floatToGoString, self.ends), "+Inf"]
        return list(zip(ends, self._counts.cumsum().astype(float).tolist(), strict=True))


class ModelWatch:
    """Counts of a model's verdicts, histograms, and a drift alarm over its scores.

    Attributes:
        model: The model.
        verdicts: Numbers of images by verdict.
        scores: Histogram of the outlier scores.
        p_values: Histogram of the p-values.
        drift: The drift alarm.
    """

    def __init__(self, model: Model) -> None:
        self.verdicts: Counter[str] = Counter({OUTLIER: 0, INLIER: 0, ERROR: 0})
        self.p_values = Buckets(P_VALUES)
        self._lock = threading.Lock()
        self.model = model
        self.scores = Buckets(score_ends(model.bundle.calibration))
        self.drift = _drift_watch(model)

    def follow(self, model: Model) -> None:
        """Watch the model that replaces this one.

        Another detector begins a new alarm, another threshold new buckets of scores.
        """
        with self._lock:
            before, self.model = self.model, model
            if detector_hash(model.bundle.manifest) != detector_hash(before.bundle.manifest):
                self.drift = _drift_watch(model)
            ends = score_ends(model.bundle.calibration)
            if ends != self.scores.ends.tolist():
                self.scores = Buckets(ends)

    def take(self, model: Model, answers: Answers) -> list[Drift]:
        """Take the answers for some images.

        Args:
            model: The model that gave them; of one that has been replaced, only verdicts are counted.
            answers: Its answers.

        Returns:
            The alarms that they raise.
        """
        sound = np.array([not error for error in answers["error"]])
        scores, p_values = (np.asarray(answers[name])[sound] for name in ("score", "p_value"))
        outliers = int(np.count_nonzero(np.asarray(answers["is_outlier"])[sound]))
        with self._lock:
            self.verdicts.update({OUTLIER: outliers, INLIER: scores.size - outliers, ERROR: sound.size - scores.size})
            if model is not self.model:
                return []
            self.scores.add(scores)
            self.p_values.add(p_values)
            rows = (self.drift.take(ScoredRow("", score)) for score in scores.tolist())
            return [drift for drift in rows if drift is not None]


def _drift_watch(model: Model) -> DriftWatch:
    """Return a drift alarm with the options of `lit-od monitor`."""
    start, _ = calibration_start(model.bundle)
    return DriftWatch(DriftOptions(), detector=detector_hash(model.bundle.manifest), start=start)


def score_ends(calibration: Calibration) -> list[float]:
    """Return ends of buckets for scores, ascending, the threshold to the last digit."""
    scores, threshold = calibration.scores, calibration.threshold
    median = float(np.median(scores))
    step = abs(threshold - median) or abs(threshold) or 1.0
    rough = [*np.percentile(scores, SHARES), scores[-1], *(threshold + step * each for each in BEYOND)]
    ends = {float(f"{each:.4g}") for each in rough if abs(each - threshold) > step / 20}
    return sorted(ends | {threshold})
