"""Plot curves: ROC, precision-recall, p-value reliability and learning curves."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_od.errors import DataError
from lit_od.evaluation.counts import Curve, Tally, aupr_of, auroc_of, check_sets
from lit_od.evaluation.plots.style import colour, dash, named, styled
from lit_od.evaluation.rates import Rates, rates
from lit_od.types import Scores, Stats


@styled
def learning_curves(columns: Mapping[str, Sequence[float] | Stats]) -> Figure:
    """Plot losses, learning rate and other figures by epoch, axes for each kind.

    Args:
        columns: Columns of a training's metrics.csv, all of one length: "epoch", and any others; NaN where
            a row lacks a figure. The mean over an epoch's rows is drawn. "step" is left out, names with "loss" go
            together, and names that begin with "lr" go on a logarithmic axis.

    Raises:
        DataError: If there is no "epoch", the lengths differ, or there is nothing to draw.
    """
    values = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    if "epoch" not in values:
        raise DataError(f'learning curves need a column "epoch", got {", ".join(values) or "none"}')
    lengths = {name: column.size for name, column in values.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"columns must be of one length, got {lengths}")
    epoch = values.pop("epoch")
    kinds: dict[str, dict[str, tuple[Stats, Stats]]] = {}
    for name, column in values.items():
        seen = np.isfinite(column) & np.isfinite(epoch)
        if name != "step" and seen.any():
            kind = "loss" if "loss" in name else "learning rate" if name.startswith("lr") else "figure"
            kinds.setdefault(kind, {})[name] = _epoch_means(epoch[seen], column[seen])
    if not kinds:
        raise DataError("nothing to draw: the columns besides epoch and step hold no finite number")
    figure = Figure(figsize=(4.6 * len(kinds), 3.6))
    panels = np.atleast_1d(figure.subplots(1, len(kinds)))
    for axes, kind in zip(panels, sorted(kinds, key=["loss", "figure", "learning rate"].index), strict=True):
        for number, (name, (epochs, means)) in enumerate(kinds[kind].items()):
            marker = "o" if epochs.size < 30 else ""
            axes.plot(epochs, means, marker=marker, markersize=3, color=colour(number), ls=dash(number), label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", title=kind)
        if kind == "learning rate" and all((means > 0).all() for _, means in kinds[kind].values()):
            axes.set_yscale("log")
        axes.legend()
    return figure


def _epoch_means(epochs: Stats, values: Stats) -> tuple[Stats, Stats]:
    distinct, places = np.unique(epochs, return_inverse=True)
    return distinct, np.bincount(places, weights=values) / np.bincount(places)


@styled
def roc_curves(inliers: Scores, outliers: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Plot the ROC curve of each set of outliers against the inliers.

    Args:
        inliers: Scores, shape (n,).
        outliers: Scores by name of the set, each of shape (m,).
        threshold: Marked by a dot on each curve; None draws none.

    Raises:
        DataError: If there is no set of outliers, or a set is empty or holds NaN or infinity.
    """
    figure = Figure(figsize=(5.5, 5.5))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for name, curve, style, at in _curves(inliers, outliers, threshold):
        false, found = curve.false / curve.false[-1], curve.found / curve.found[-1]
        axes.plot(np.append(0, false), np.append(0, found), label=f"{name}, AUROC {auroc_of(curve):.2%}", **style)
        if at is not None:
            axes.plot(at.fpr, at.tpr, "o", color=style["color"], clip_on=False)
    _unit_square(
        axes, "false-positive rate (share of inliers flagged)", "true-positive rate (share of outliers flagged)"
    )
    return figure


@styled
def precision_recall(inliers: Scores, outliers: Mapping[str, Scores], threshold: float | None = None) -> Figure:
    """Plot precision against recall for each set of outliers, the positives.

    A thin line at each set's share of outliers shows what scores without meaning give.

    Args:
        inliers: Scores, shape (n,).
        outliers: Scores by name of the set, each of shape (m,).
        threshold: Marked by a dot on each curve; None draws none.

    Raises:
        DataError: If there is no set of outliers, or a set is empty or holds NaN or infinity.
    """
    figure = Figure(figsize=(5.5, 5.5))
    axes = figure.subplots()
    for name, curve, style, at in _curves(inliers, outliers, threshold):
        recall, precision = curve.found / curve.found[-1], curve.found / (curve.found + curve.false)
        axes.axhline(float(precision[-1]), color=style["color"], linewidth=0.7, linestyle=":")
        places, heights = np.append(0, recall), np.append(precision[0], precision)
        axes.plot(places, heights, drawstyle="steps-pre", label=f"{name}, AUPR {aupr_of(curve):.2%}", **style)
        if at is not None:
            axes.plot(at.tpr, at.precision, "o", color=style["color"], clip_on=False)
    _unit_square(axes, "recall (share of outliers flagged)", "precision (share of the flagged)")
    return figure


@styled
def p_value_reliability(p_values: Mapping[str, Stats], *, calibration: int) -> Figure:
    """Plot the share of images with a p-value of at most each level.

    The axes are linear at the left and logarithmic at the right. Valid p-values of inliers stay on the
    diagonal: of them, at most 5 % have p <= 0.05. The band holds at least 95 % of such curves, over the draw
    of the calibration images and of as many images as the first set has. Scores that tie press the curve of
    inliers down, at times below the band: such p-values are cautious, and valid none the less. A good
    detector lifts the curves of outliers far above it.

    Args:
        p_values: In (0, 1], shape (n,) by name of the set.
        calibration: Number of calibration inliers that the p-values were taken from.

    Raises:
        DataError: If there is no set, or one is empty or leaves (0, 1], or calibration is below 1.
    """
    if calibration < 1:
        raise DataError(f"p-values come from at least 1 calibration image, got {calibration}")
    sets = check_sets(p_values)
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


def _curves(
    inliers: Scores, outliers: Mapping[str, Scores], threshold: float | None
) -> Iterator[tuple[str, Curve, dict[str, Any], Rates | None]]:
    """Yield name, curve, style and rates at the threshold (or None) of each set.

    Lines are thinner from one to the next, so that none hides the one beneath it.
    """
    for number, (name, scores) in enumerate(check_sets(outliers).items(), start=1):
        tally = Tally.of(inliers, scores)
        width = 1.4 + 2.0 * (len(outliers) - number) / len(outliers)
        style = {"color": colour(number), "linestyle": dash(number), "linewidth": width}
        at = None if threshold is None else rates(inliers, scores, threshold)
        yield named(name), Curve.of(tally.inliers, tally.outliers), style, at


def _reach(images: int, calibration: int) -> float:
    """Return half the height of the 95 % band of conformal p-values of inliers.

    The p-values share one calibration set, so that two samples are compared: the distance between their
    distributions is the two-sample one of Kolmogorov and Smirnov, bounded after Dvoretzky, Kiefer and
    Wolfowitz (Wei and Dudley 2012). Between two of its levels, 1 / (calibration + 1) apart, the curve is flat
    and the diagonal is not.
    """
    return math.sqrt(math.log(2 / 0.05) / 2 * (1 / images + 1 / calibration)) + 1 / (calibration + 1)


def _unit_square(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=xlabel, ylabel=ylabel, aspect="equal")
    axes.legend(loc="lower right" if axes.get_xlabel().startswith("false") else "lower left")
