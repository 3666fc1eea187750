"""Plot scores of sets: histograms, boxes, means, and scores by image."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lit_od.evaluation.counts import check_sets
from lit_od.evaluation.plots.style import ScoreAxis, colour, dash, mark_threshold, named, set_rows, styled
from lit_od.types import Scores, Stats

BINS = 81
"""Odd, so that a single value stands in the middle of its bin."""

FILLED_SETS = 5
"""Histograms of more sets are drawn as outlines alone."""


@styled
def score_histograms(scores: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Plot a histogram of each set, as shares of the set, with the threshold.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line; the legend then shows each set's share above it.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = check_sets(scores)
    axis = ScoreAxis.of(list(sets.values()), threshold)
    edges = axis.edges(BINS)
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for number, (name, each) in enumerate(sets.items()):
        share = np.histogram(axis.clip(each), edges)[0] / each.size
        label = f"{named(name)} (n = {each.size:,}"
        label += ")" if threshold is None else f", {(each > threshold).mean():.1%} above)"
        if len(sets) <= FILLED_SETS:
            axes.stairs(share, edges, color=colour(number), fill=True, alpha=0.25)
        axes.stairs(share, edges, color=colour(number), linestyle=dash(number), label=label)
    mark_threshold(axes, threshold, "x")
    axis.dress(axes, "x")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(ylabel="share of the set")
    axes.legend()
    return figure


@styled
def box_violin(scores: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Plot the density of each set with its median, quartiles, 5 and 95 % points.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = check_sets(scores)
    axis = ScoreAxis.of(list(sets.values()), threshold)
    edges = axis.edges(257)
    places = (edges[1:] + edges[:-1]) / 2
    figure, axes = set_rows({name: each.size for name, each in sets.items()})
    for number, each in enumerate(sets.values()):
        body = 0.4 * _density(axis.scale(axis.clip(each)), axis.scale(edges))
        seen = body > 0.002
        axes.fill_between(places, number - body, number + body, where=seen, color=colour(number), alpha=0.35, lw=0)
        low, first, middle, third, high = axis.clip(np.quantile(each, [0.05, 0.25, 0.5, 0.75, 0.95]))
        axes.plot([low, high], [number, number], color=colour(number), linewidth=1.2)
        axes.plot([first, third], [number, number], color=colour(number), linewidth=7, solid_capstyle="butt")
        axes.plot(middle, number, "o", color="white", markersize=4, markeredgecolor=colour(number))
    mark_threshold(axes, threshold, "x", legend=True)
    axis.dress(axes, "x", "outlier score; dot: median, bar: quartiles, line: 5 to 95 %")
    return figure


@styled
def means_with_sd(scores: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Plot the mean of each set with its standard deviation to both sides.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = check_sets(scores)
    means, sds = [each.mean() for each in sets.values()], [each.std() for each in sets.values()]
    spans = [np.array([mean - sd, mean, mean + sd]) for mean, sd in zip(means, sds, strict=True)]
    axis = ScoreAxis.of(spans, threshold)
    figure, axes = set_rows({name: each.size for name, each in sets.items()})
    for number, (mean, sd) in enumerate(zip(means, sds, strict=True)):
        axes.errorbar(mean, number, xerr=sd, fmt="o", color=colour(number), capsize=4, markersize=6)
        axes.annotate(
            f"{mean:#.4g} ± {sd:#.3g}",
            (mean, number),
            (0, 9),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    mark_threshold(axes, threshold, "x", legend=True)
    axis.dress(axes, "x", "outlier score, mean ± standard deviation")
    return figure


@styled
def score_against_index(scores: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Plot scores in the order of the images, one set after the other.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = check_sets(scores)
    axis = ScoreAxis.of(list(sets.values()), threshold)
    total = sum(each.size for each in sets.values())
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    start = 0
    for number, (name, each) in enumerate(sets.items()):
        axes.plot(
            np.arange(start, start + each.size),
            axis.clip(each),
            "o",
            color=colour(number),
            markersize=min(5.0, max(1.2, 150 / math.sqrt(total))),
            markeredgewidth=0,
            alpha=0.8 if total < 2000 else 0.4,
            rasterized=True,  # thousands of dots would make a vector file of megabytes
        )
        axes.plot([], [], "o", color=colour(number), markersize=5, label=f"{named(name)} (n = {each.size:,})")
        start += each.size
    mark_threshold(axes, threshold, "y")
    axis.dress(axes, "y")
    axes.set(xlabel="image, in the order given", xlim=(-0.02 * total - 0.5, 1.02 * total))
    axes.legend(loc="upper left")
    return figure


def _density(places: Stats, edges: Stats) -> Stats:
    """Return the density along the axis, its peak at 1, shape (bins,).

    It is a histogram smoothed by a Gaussian of Scott's bandwidth.
    """
    counts = np.histogram(places, edges)[0].astype(np.float64)
    step = edges[1] - edges[0]
    width = max(float(places.std()) * places.size**-0.2, step) / step  # bins
    offsets = np.arange(-len(counts) + 1, len(counts))
    smooth = np.convolve(counts, np.exp(-0.5 * (offsets / width) ** 2), "valid")
    density: Stats = smooth / smooth.max()
    return density
