"""Pictures of scores, curves and images. Each function takes data and returns a Matplotlib Figure.

`save(figure, path)` writes one; a notebook shows it as it is. Where sets of scores go in as a mapping,
the first one is drawn in blue: put the inliers there.
"""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lit_od.errors import DataError
from lit_od.evaluation.counts import Curve, Tally, aupr_of, auroc_of, check_scores
from lit_od.evaluation.panels import image_grid, learning_curves
from lit_od.evaluation.rates import rates
from lit_od.evaluation.style import ScoreAxis, colour, dash, mark_threshold, named, save, set_rows, styled
from lit_od.types import Scores, Stats

__all__ = [
    "box_violin",
    "image_grid",
    "learning_curves",
    "means_with_sd",
    "p_value_reliability",
    "precision_recall",
    "roc_curves",
    "save",
    "score_against_index",
    "score_histograms",
]

BINS = 81
"""Odd, so that a single value stands in the middle of its bin."""

FILLED_SETS = 5
"""Histograms of more sets than these are drawn as outlines alone."""


@styled
def score_histograms(scores: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Histogram of each set, as shares of the set, with the threshold.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line; the legend then tells each set's share above it.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = _checked(scores)
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
    """Density of each set with its median, quartiles, and 5 and 95 % points.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = _checked(scores)
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
    """Mean of each set with its standard deviation to both sides.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = _checked(scores)
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
    """Each score at its image's place in the order given, one set after the other.

    Args:
        scores: Shape (n,) by name of the set.
        threshold: Drawn as a line.

    Raises:
        DataError: If there is no set, or one is empty or holds NaN or infinity.
    """
    sets = _checked(scores)
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


@styled
def roc_curves(inliers: Scores, outliers: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """ROC curve of each set of outliers against the inliers; a dot where the threshold is.

    Args:
        inliers: Shape (n,).
        outliers: Shape (m,) by name of the set.
        threshold: Where to put the dots.

    Raises:
        DataError: If there is no set of outliers, or a set is empty or holds NaN or infinity.
    """
    figure = Figure(figsize=(5.5, 5.5))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for number, (name, scores) in enumerate(_checked(outliers).items(), start=1):
        tally = Tally.of(inliers, scores)
        curve = Curve.of(tally.inliers, tally.outliers)
        false, found = curve.false / curve.false[-1], curve.found / curve.found[-1]
        label = f"{named(name)}, AUROC {auroc_of(curve):.2%}"
        axes.plot(
            np.append(0, false),
            np.append(0, found),
            color=colour(number),
            linestyle=dash(number),
            linewidth=_width(number, len(outliers)),
            label=label,
        )
        if threshold is not None:
            at = rates(inliers, scores, threshold)
            axes.plot(at.fpr, at.tpr, "o", color=colour(number), clip_on=False)
    _unit_square(
        axes, "false-positive rate (share of inliers flagged)", "true-positive rate (share of outliers flagged)"
    )
    return figure


@styled
def precision_recall(inliers: Scores, outliers: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Precision against recall, outliers as positives, of each set; a dot where the threshold is.

    A thin line at each set's share of outliers shows what scores without meaning give.

    Args:
        inliers: Shape (n,).
        outliers: Shape (m,) by name of the set.
        threshold: Where to put the dots.

    Raises:
        DataError: If there is no set of outliers, or a set is empty or holds NaN or infinity.
    """
    figure = Figure(figsize=(5.5, 5.5))
    axes = figure.subplots()
    for number, (name, scores) in enumerate(_checked(outliers).items(), start=1):
        tally = Tally.of(inliers, scores)
        curve = Curve.of(tally.inliers, tally.outliers)
        recall, precision = curve.found / curve.found[-1], curve.found / (curve.found + curve.false)
        axes.axhline(float(precision[-1]), color=colour(number), linewidth=0.7, linestyle=":")
        axes.plot(
            np.append(0, recall),
            np.append(precision[0], precision),
            drawstyle="steps-pre",
            color=colour(number),
            linestyle=dash(number),
            linewidth=_width(number, len(outliers)),
            label=f"{named(name)}, AUPR {aupr_of(curve):.2%}",
        )
        if threshold is not None:
            at = rates(inliers, scores, threshold)
            axes.plot(at.tpr, at.precision, "o", color=colour(number), clip_on=False)
    _unit_square(axes, "recall (share of outliers flagged)", "precision (share of the flagged)")
    return figure


@styled
def p_value_reliability(p_values: Mapping[str, Stats], *, calibration: int) -> Figure:
    """Share of images with a p-value of at most each level, on linear and on logarithmic axes.

    Valid p-values of inliers stay on the diagonal: of them, at most 5 % have p <= 0.05. The band holds at least
    95 % of such curves, over the draw of the calibration images and of as many images as the first set has.
    Scores that tie press the curve of inliers down, at times below the band: such p-values are cautious, and
    valid none the less. A good detector lifts the curves of outliers far above it.

    Args:
        p_values: In (0, 1], shape (n,) by name of the set.
        calibration: Number of calibration inliers that the p-values were taken from.

    Raises:
        DataError: If there is no set, or one is empty or leaves (0, 1], or calibration is below 1.
    """
    if calibration < 1:
        raise DataError(f"p-values come from at least 1 calibration image, got {calibration}")
    sets = _checked(p_values)
    for name, each in sets.items():
        if each.min() <= 0 or each.max() > 1:
            raise DataError(f"p-values of {name} must lie in (0, 1], got {each.min():g} to {each.max():g}")
    least = 10 ** math.floor(math.log10(min(0.1, *(float(each.min()) for each in sets.values()))))
    reach = _reach(next(iter(sets.values())).size, calibration)
    figure = Figure(figsize=(9, 4.5))
    for axes, levels in zip(figure.subplots(1, 2), (np.linspace(0, 1, 501), np.geomspace(least, 1, 501)), strict=True):
        band = np.clip(levels - reach, least / 10, 1), np.clip(levels + reach, least / 10, 1)
        axes.fill_between(levels, *band, color="#dddddd", lw=0, label="95 % band of valid p-values")
        axes.plot(levels, levels, color="#888888", linewidth=0.8)
        for number, (name, each) in enumerate(sets.items()):
            share = np.searchsorted(np.sort(each), levels, "right") / each.size
            label = f"{named(name)} (n = {each.size:,})"
            axes.plot(levels, share, color=colour(number), linestyle=dash(number), drawstyle="steps-post", label=label)
        axes.set(xlabel="level", ylabel="share of images with p ≤ level")
    linear, log = figure.axes
    linear.set(xlim=(0, 1), ylim=(0, 1.01))
    log.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.2))
    linear.legend(loc="lower right")
    return figure


def _checked(sets: Mapping[str, Scores]) -> dict[str, Scores]:
    if not sets:
        raise DataError("a picture needs at least one set, got none")
    return {name: check_scores(each, name) for name, each in sets.items()}


def _width(number: int, count: int) -> float:
    """Line width of a curve, thinner from one to the next, so that none hides the one beneath it."""
    return 1.4 + 2.0 * (count - number) / count


def _reach(images: int, calibration: int) -> float:
    """Half the height of the band that 95 % of the curves of conformal p-values of inliers stay in.

    The p-values share one calibration set, so that two samples are compared: the distance between their
    distributions is the two-sample one of Kolmogorov and Smirnov, bounded after Dvoretzky, Kiefer and
    Wolfowitz (Wei and Dudley 2012). Between two of its levels, 1 / (calibration + 1) apart, the curve is flat
    and the diagonal is not.
    """
    return math.sqrt(math.log(2 / 0.05) / 2 * (1 / images + 1 / calibration)) + 1 / (calibration + 1)


def _density(places: Stats, edges: Stats) -> Stats:
    """Density along the axis, its peak at 1, shape (bins,): a histogram smoothed by Scott's bandwidth."""
    counts = np.histogram(places, edges)[0].astype(np.float64)
    step = edges[1] - edges[0]
    width = max(float(places.std()) * places.size**-0.2, step) / step  # bins
    offsets = np.arange(-len(counts) + 1, len(counts))
    smooth = np.convolve(counts, np.exp(-0.5 * (offsets / width) ** 2), "valid")
    density: Stats = smooth / smooth.max()
    return density


def _unit_square(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=xlabel, ylabel=ylabel, aspect="equal")
    axes.legend(loc="lower right" if axes.get_xlabel().startswith("false") else "lower left")
