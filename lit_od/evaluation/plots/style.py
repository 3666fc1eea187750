"""Style of all pictures: colours, sizes, and an axis for scores of any range.

Figures are made without pyplot, so that no window system and no global state is involved; the settings
hold while a picture is drawn or saved and are gone afterwards.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_od.errors import ConfigError
from lit_od.formats.text import one_line
from lit_od.types import Scores, Stats

P = ParamSpec("P")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart with every common colour blindness; inliers come first, in blue."""

DASHES = ("-", "--", ":", "-.")
"""Line styles: the next one if a picture has more sets than there are colours."""

SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,  # inches
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "lit_od",
}

LOG_FROM = 50.0
"""Ratio of the largest score to the smallest set's median above which the axis is logarithmic."""

STRAY = 0.005
"""Share of a set's scores, at either end, that need not be shown in place ..."""

FAR = 0.5
"""... if they lie farther out than this share of what the others span; they are drawn at the edge."""


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Apply the settings of all pictures while a block runs.

    They replace Matplotlib's defaults; other settings of the caller do not count.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Return a function that draws with the settings of all pictures."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with drawing():
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, path: Path) -> None:
    """Write a picture as .png, .svg or .pdf; equal pictures give equal bytes.

    Raises:
        ConfigError: If the file name has another ending.
    """
    fixed = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
    if path.suffix not in fixed:
        raise ConfigError(f"a picture's file name must end in {', '.join(fixed)}, got {path.name!r}")
    with drawing():
        figure.savefig(path, metadata={fixed[path.suffix]: None})


def colour(number: int) -> str:
    """Return the colour of the set with this number, from 0."""
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> str:
    """Return the line style of the set with this number, from 0."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def named(name: str) -> str:
    """Return a set's name as printable text of a picture.

    A dollar begins no formula, and the name appears in legends.
    """
    shown = one_line(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # Matplotlib keeps such a label out of a legend


@dataclass(frozen=True, slots=True)
class ScoreAxis:
    """A linear or logarithmic axis for scores; far ones are drawn at its edges.

    Attributes:
        log: True if the axis is logarithmic.
        low: Lower end of the axis.
        high: Upper end of the axis.
        held: Number of scores beyond the ends, which are drawn there.
    """

    log: bool
    low: float
    high: float
    held: int

    @classmethod
    def of(cls, sets: Sequence[Scores], *also: float | None) -> "ScoreAxis":
        """Choose the axis for sets of scores.

        Args:
            sets: Scores of each set, shape (n,).
            also: Values that the axis must show, such as a threshold; None is left out.
        """
        shown = [value for value in also if value is not None]
        low = min(float(each.min()) for each in sets)
        high = max(float(each.max()) for each in sets)
        middle = min(float(np.median(each)) for each in sets)
        log = min([low, *shown]) > 0 and max([high, *shown]) > LOG_FROM * middle
        scaled = [np.log10(each) if log else each for each in sets]
        marks = [float(np.log10(value)) if log else value for value in shown]
        start = min([*(float(np.quantile(each, STRAY, method="higher")) for each in scaled), *marks])
        end = max([*(float(np.quantile(each, 1 - STRAY, method="lower")) for each in scaled), *marks])
        least, most = (float(np.log10(low)), float(np.log10(high))) if log else (low, high)
        reach = FAR * (end - start)
        start = min(start, least) if start - least <= reach else start
        end = max(end, most) if most - end <= reach else end
        margin = 0.03 * (end - start) or (0.5 if log or not end else 0.05 * abs(end))
        start, end = start - margin, end + margin
        held = sum(int(((each < start) | (each > end)).sum()) for each in scaled)
        return cls(log, 10**start if log else start, 10**end if log else end, held)

    def clip(self, scores: Scores) -> Scores:
        """Move scores beyond the ends to the ends."""
        return np.clip(scores, self.low, self.high)

    def scale(self, scores: Scores | Stats) -> Stats:
        """Return places along the axis, log10 on a logarithmic one."""
        return np.log10(scores) if self.log else scores

    def edges(self, count: int) -> Stats:
        """Return the borders of `count` bins of equal drawn width, shape (count + 1,)."""
        space = np.geomspace if self.log else np.linspace
        edges: Stats = space(self.low, self.high, count + 1)
        return edges

    def dress(self, axes: Axes, which: Literal["x", "y"], label: str = "outlier score") -> None:
        """Set the scale, ends and label of an axis.

        Args:
            axes: Matplotlib's axes.
            which: The axis that shows scores.
            label: Its label, to which the scale and the number of held scores are added.
        """
        notes = ["log scale"] if self.log else []
        if self.held:
            notes.append(f"{self.held:,} beyond the edges, drawn there")
        label += f" ({'; '.join(notes)})" if notes else ""
        scale = "log" if self.log else "linear"
        if which == "x":
            axes.set(xscale=scale, xlim=(self.low, self.high), xlabel=label)
        else:
            axes.set(yscale=scale, ylim=(self.low, self.high), ylabel=label)


def mark_threshold(axes: Axes, threshold: float | None, which: Literal["x", "y"], *, legend: bool = False) -> None:
    """Draw the threshold across an axis, if there is one.

    Args:
        axes: Matplotlib's axes.
        threshold: The threshold; None draws nothing.
        which: The axis that shows scores.
        legend: True adds a legend.
    """
    if threshold is None:
        return
    draw = axes.axvline if which == "x" else axes.axhline
    draw(threshold, label=f"threshold {threshold:.4g}", color="#000000", linewidth=1.2, linestyle=(0, (5, 2)))
    if legend:
        axes.legend(loc="lower right")


def set_rows(sizes: Mapping[str, int]) -> tuple[Figure, Axes]:
    """Make axes with a row for each set, the first on top, with its size."""
    figure = Figure(figsize=(8, 1.2 + 0.75 * len(sizes)))
    axes = figure.subplots()
    axes.set_yticks(range(len(sizes)), [f"{named(name)}\nn = {size:,}" for name, size in sizes.items()])
    axes.set_ylim(len(sizes) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure, axes
