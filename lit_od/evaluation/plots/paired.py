"""Plot the scores of two bundles on the same images against each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lit_od.evaluation.plots.style import ScoreAxis, colour, named, styled
from lit_od.types import Scores


@styled
def score_pairs(
    first: Scores, second: Scores, sets: Sequence[str], thresholds: tuple[float, float], bundles: tuple[str, str]
) -> Figure:
    """Plot each image's score by the second bundle above its score by the first.

    Args:
        first: The first bundle's scores, shape (n,).
        second: The second bundle's, shape (n,).
        sets: Name of each image's set, length n.
        thresholds: Thresholds of both, drawn as lines: the quarters at the upper left and the lower right hold the
            images whose verdicts differ.
        bundles: Names of both.
    """
    axes_of = ScoreAxis.of([first], thresholds[0]), ScoreAxis.of([second], thresholds[1])
    figure = Figure(figsize=(6.4, 6))
    axes = figure.subplots()
    names = np.array(sets, dtype=object)
    for number, name in enumerate(dict.fromkeys(sets)):
        own = names == name
        axes.plot(
            axes_of[0].clip(first[own]),
            axes_of[1].clip(second[own]),
            "o",
            color=colour(number),
            markersize=3,
            markeredgewidth=0,
            alpha=0.5,
            rasterized=True,
            label=f"{named(name or 'images')} (n = {own.sum():,})",
        )
    for draw, threshold in ((axes.axvline, thresholds[0]), (axes.axhline, thresholds[1])):
        draw(threshold, color="#000000", linewidth=1.2, linestyle=(0, (5, 2)))
    axes_of[0].dress(axes, "x", f"score by A, {named(bundles[0])}")
    axes_of[1].dress(axes, "y", f"score by B, {named(bundles[1])}")
    figure.legend(loc="outside upper left", ncols=3)
    return figure
