"""Plot the course of a drift alarm: two readings, and distances of windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_od.evaluation.plots.style import colour, styled
from lit_od.types import Stats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DriftCourse:
    """Course of a drift alarm.

    Attributes:
        rows: Numbers of rows, shape (n,), ascending.
        evidence: log10 of the evidence since the bag's start, shape (n,).
        standing: log10 of the standing watch's statistic, shape (n,).
        limit: log10 of the value at which the alarm is raised.
        by_standing: True if the standing watch raises it, False if the evidence does.
        windows: Middle row of each window, shape (m,).
        distances: Kolmogorov-Smirnov distance of each window from the scores that began its bag, shape (m,).
        alarms: Number of the row of each alarm and of the likeliest first row of its change.
        bags: Number of the first row of each bag.
    """

    rows: Stats
    evidence: Stats
    standing: Stats
    limit: float
    by_standing: bool
    windows: Stats
    distances: Stats
    alarms: Sequence[tuple[int, int]]
    bags: Sequence[int]


@styled
def drift_course(course: DriftCourse) -> Figure:
    """Plot evidence, standing watch and the distances of windows over the rows."""
    figure = Figure(figsize=(8, 6.4))
    upper, middle, lower = figure.subplots(3, 1, sharex=True)
    readings = ((upper, "evidence", course.evidence), (middle, "standing watch", course.standing))
    for number, (axes, name, values) in enumerate(readings):
        axes.plot(*_parted(course.rows, values, course.bags), color=colour(2 * number))
        axes.set(ylabel=f"{name}, log10")
        if course.by_standing == (name == "standing watch"):
            label = f"alarm at {10**course.limit:,.6g}"
            axes.axhline(course.limit, color="#000000", linewidth=1.2, linestyle=(0, (5, 2)), label=label)
    lower.plot(
        *_parted(course.windows, course.distances, course.bags), "o-", color=colour(3), markersize=3, linewidth=1
    )
    most = float(np.nanmax(course.distances)) if np.isfinite(course.distances).any() else 0.0
    lower.set(xlabel="row", ylabel="distance of windows (KS)", ylim=(0, max(0.3, 1.1 * most)))
    for axes in (upper, middle, lower):
        _mark(axes, course)
    named = {
        label: handle
        for axes in (upper, middle)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=len(named))
    return figure


def _parted(rows: Stats, values: Stats, bags: Sequence[int]) -> tuple[Stats, Stats]:
    """Break a line where bags begin, by NaN between the points of different bags."""
    places = np.unique(np.searchsorted(rows, np.asarray(bags, dtype=np.float64)))
    return np.insert(rows, places, np.nan), np.insert(values, places, np.nan)


def _mark(axes: Axes, course: DriftCourse) -> None:
    """Mark alarms, the rows between the start of a change and its alarm, and bags."""
    for number, (row, start) in enumerate(course.alarms):
        axes.axvspan(start, row, color=colour(1), alpha=0.18, linewidth=0)
        label = None if number else "alarm, and the rows since its change"
        axes.axvline(row, color=colour(1), linewidth=1.2, label=label)
    for number, row in enumerate(course.bags):
        label = None if number else "a bag begins"
        axes.axvline(row, color="#888888", linewidth=0.9, linestyle=":", label=label)
