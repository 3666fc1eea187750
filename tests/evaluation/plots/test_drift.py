"""The picture of a drift alarm's course."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lit_od.evaluation.plots.drift import DriftCourse, drift_course


def course(*, by_standing: bool = False, windows: int = 3, alarms: int = 1) -> DriftCourse:
    rows = np.array([1.0, 5, 9, 20, 25])
    return DriftCourse(
        rows=rows,
        evidence=np.array([0, 1, 2.5, 0, -400]),
        standing=np.array([0, 3, 5, 0.1, 1]),
        limit=4.0 if by_standing else 2.0,
        by_standing=by_standing,
        windows=np.array([3.0, 8, 22])[:windows],
        distances=np.array([0.1, 0.8, np.nan])[:windows],
        alarms=[(9, 5)] * alarms,
        bags=[1, 10] if alarms else [1],
    )


@pytest.mark.parametrize("by_standing", [False, True])
@pytest.mark.parametrize(("windows", "alarms"), [(3, 1), (0, 0)])
def test_any_course_is_drawn(by_standing: bool, windows: int, alarms: int) -> None:
    figure = drift_course(course(by_standing=by_standing, windows=windows, alarms=alarms))
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    assert np.asarray(canvas.buffer_rgba())[..., :3].std() > 5
    evidence, standing, _ = figure.axes
    limit = (standing if by_standing else evidence).get_legend_handles_labels()[1]
    assert f"alarm at {10_000 if by_standing else 100:,}" in limit
    other = (evidence if by_standing else standing).get_legend_handles_labels()[1]
    assert not any("alarm at" in label for label in other)
    assert ("alarm, and the rows since its change" in limit) == bool(alarms)


def test_lines_break_where_a_bag_begins() -> None:
    evidence = drift_course(course()).axes[0].lines[0]
    rows = np.asarray(evidence.get_xdata())
    assert np.flatnonzero(np.isnan(rows)).tolist() == [0, 4]
    assert rows[~np.isnan(rows)].tolist() == [1, 5, 9, 20, 25]
