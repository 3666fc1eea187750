"""Watch scored rows for drift: bags, alarms, and rows left out."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lit_od.bundle.folder import Bundle
from lit_od.errors import DataError
from lit_od.formats.text import unicode_text
from lit_od.operations.drift import Alarm, DriftMonitor, DriftOptions
from lit_od.operations.drift_log import ImageMoments, Movement, Point, Thinned, Window, Windows
from lit_od.operations.scored_rows import ScoredRow
from lit_od.types import Scores

MOST_NOTES = 100
"""Alarms and bags that are kept; of more, the latest."""


@dataclass(frozen=True, slots=True)
class Drift:
    """An alarm on rows.

    Attributes:
        alarm: Rows and statistics of the alarm; rows are numbered from 1, those left out among them.
        path: Image of the row that raised it.
        moved: Changes of the images' statistics, where rows carry them.
    """

    alarm: Alarm
    path: str
    moved: tuple[Movement, ...]


@dataclass(frozen=True, slots=True)
class Bag:
    """A bag, and the reason why it begins.

    Attributes:
        row: Number of its first row, from 1.
        begins_with: Number of scores that began it: earlier scores, or the burn-in.
        reason: "first row", "another detector" (than the bundle's, or the rows' before), "file begun anew" or "alarm".
    """

    row: int
    begins_with: int
    reason: str


class DriftWatch:
    """A drift alarm over scored rows.

    Args:
        options: Options of the alarm.
        detector: Hash of the bundle's detector, to which `start` belongs; rows that carry none are taken for its own.
        start: Scores that begin a bag of its rows, as for `DriftMonitor`; None begins with the burn-in.
        every: Take one row of this many.
    """

    def __init__(
        self, options: DriftOptions, *, detector: str = "", start: Scores | None = None, every: int = 1
    ) -> None:
        self.rows = 0
        self.tested = 0
        self.skipped = 0
        self.frames = False
        self.left_out: Counter[str] = Counter()
        self.alarms = 0
        self.bags = 0
        self.latest: list[Drift] = []
        self.latest_bags: list[Bag] = []
        self.course: Thinned[Point] = Thinned()
        self.now: Point | None = None
        self._options, self._own, self._start, self._every = options, detector, start, every
        self._detector: str | None = None
        self._restarted = False
        self._monitor = DriftMonitor(options)
        self._windows = Windows()
        self._moments = ImageMoments()
        self._burnt: list[float] | None = None

    @property
    def windows(self) -> list[Window]:
        """Windows of scores and their distances, the oldest first."""
        return self._windows.found

    def take(self, row: ScoredRow) -> Drift | None:
        """Take the next row; return its alarm, if it raises one."""
        self.rows += 1
        self.frames |= row.frames
        self._restarted |= row.restarted
        if (self.rows - 1) % self._every:
            self.skipped += 1
            return None
        if row.score is None:
            self.left_out[row.fault or ""] += 1
            return None
        self._open_bag(row)
        if self._burnt is not None:
            self._burn(row.score)
        else:
            self._windows.add(self.rows, row.score)
        if row.statistics is not None:
            self._moments.add(self.rows, row.statistics)
        reading = self._monitor.update(row.score, row=self.rows)
        if reading.p_value is None:
            return None
        self.tested += 1
        self.now = Point(reading.row, reading.evidence, reading.standing)
        self.course.add(self.now)
        if reading.alarm is None:
            return None
        return self._raised(reading.alarm, row)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain dictionaries, lists and numbers."""
        last = self.now
        return {
            "rows": self.rows,
            "tested": self.tested,
            "not_taken": self.skipped,
            "frames_of_a_stream": self.frames,
            "left_out": dict(self.left_out),
            "level": self._options.level,
            "standing_rows": self._options.standing,
            "seed": self._options.seed,
            "alarms": self.alarms,
            "latest_alarms": [
                {**asdict(each.alarm), "path": unicode_text(each.path), "moved": [asdict(one) for one in each.moved]}
                for each in self.latest
            ],
            "bags": self.bags,
            "latest_bags": [asdict(each) for each in self.latest_bags],
            "evidence_log10": None if last is None else last.evidence,
            "standing_log10": None if last is None else last.standing,
            "windows": [asdict(each) for each in self.windows if not np.isnan(each.distance)],
        }

    def _open_bag(self, row: ScoredRow) -> None:
        """Begin a bag where there is none, or the detector or the file is another."""
        detector = self._own if row.detector is None else row.detector
        if self._detector is None and detector == self._own:
            reason = "first row"
        elif detector != self._detector:
            reason = "another detector"
        elif self._restarted:
            reason = "file begun anew"
        else:
            return
        self._detector, self._restarted = detector, False
        start = self._start if detector == self._own else None
        self._monitor.new_bag(start=start)
        self._began(self.rows, start, reason)

    def _began(self, row: int, start: Scores | None, reason: str) -> None:
        self.bags += 1
        self._moments = ImageMoments()
        self._windows.new_bag(np.empty(0) if start is None else start)
        self._burnt = [] if start is None and self._options.burn_in else None
        size = self._options.burn_in if start is None else len(start)
        self.latest_bags = [*self.latest_bags, Bag(row, size, reason)][-MOST_NOTES:]

    def _burn(self, score: float) -> None:
        """Keep a score of the burn-in, with which windows are compared later."""
        assert self._burnt is not None
        self._burnt.append(score)
        if len(self._burnt) == self._options.burn_in:
            self._windows.new_bag(np.array(self._burnt))
            self._burnt = None

    def _raised(self, alarm: Alarm, row: ScoredRow) -> Drift:
        self.alarms += 1
        drift = Drift(alarm, row.path, self._moments.moved(alarm.start))
        self.latest = [*self.latest, drift][-MOST_NOTES:]
        self._began(self.rows + 1, None, "alarm")
        return drift


def calibration_start(bundle: Bundle) -> tuple[Scores | None, str]:
    """Return the calibration scores that may begin a bag, and words for it.

    They may while they were held out and used for nothing else. After `calibration.method: cross` they come from
    detectors that were fitted on fewer images and are a little too large, so that normal rows would alarm. Once images
    were accepted, some of those that fitted or calibrated were chosen by their scores.

    Returns:
        None in place of scores where the burn-in has to begin it.
    """
    provenance = bundle.manifest.provenance
    recipe = provenance.recipe or {}
    methods = (getattr(bundle.manifest.calibration, "method", None), (recipe.get("calibration") or {}).get("method"))
    if "cross" in methods:
        return None, "burn-in: calibration.method is cross, whose scores are not exchangeable with new ones"
    if "accepted" in provenance.data:
        return None, "burn-in: images were accepted into the bundle since it was calibrated"
    scores = bundle.calibration.as_scored()
    return scores, f"{scores.size:,} calibration scores of the bundle"


def require_tested(watch: DriftWatch, options: DriftOptions) -> None:
    """Check that some row was tested.

    Raises:
        DataError: Otherwise, with the number of usable rows.
    """
    if watch.tested:
        return
    usable = watch.rows - watch.skipped - sum(watch.left_out.values())
    if not usable:
        faults = ", ".join(f"{count:,} {fault}" for fault, count in watch.left_out.items()) or "none at all"
        raise DataError(f"no row has a score ({faults}): give rows as lit-od score writes them")
    raise DataError(
        f"{usable:,} rows with a score are all burn-in ({options.burn_in:,}): give more rows, a smaller --burn-in, or "
        "--calibration PATH"
    )
