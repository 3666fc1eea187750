"""How all pictures look: colours, sizes, and an axis for scores of any range.

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
"""Line styles: the next one where a picture has more sets than there are colours."""

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
"""Scores are drawn on a logarithmic axis where the largest of them is this often the smallest set's median."""

STRAY = 0.005
"""Share of a set's scores, at either end, that need not be shown in place ..."""

FAR = 0.5
"""... if they lie farther out than this share of what the others span; they are drawn at the edge."""


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The settings of all pictures while a block runs, on top of Matplotlib's own defaults."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws with the settings of all pictures."""

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
    """Colour of the set with this number, from 0."""
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> str:
    """Line style of the set with this number, from 0."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def named(name: str) -> str:
    """A set's name as text of a picture: printable, its dollars no beginning of a formula, and shown in legends."""
    shown = one_line(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # Matplotlib keeps such a label out of a legend


@dataclass(frozen=True, slots=True)
class ScoreAxis:
    """An axis for scores: linear or logarithmic, with far outlying scores held at its edges.

    Attributes:
        log: Whether it is logarithmic.
        low: Its lower end.
        high: Its upper end.
        held: Number of scores beyond its ends, which are drawn there.
    """

    log: bool
    low: float
    high: float
    held: int

    @classmethod
    def of(cls, sets: Sequence[Scores], *also: float | None) -> "ScoreAxis":
        """Choose the axis for sets of scores, each of shape (n,), and values that it must show, such as a threshold."""
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
        """Scores with those beyond the ends moved to the ends."""
        return np.clip(scores, self.low, self.high)

    def scale(self, scores: Scores | Stats) -> Stats:
        """Places along the axis, equal distances to the eye: log10 where it is logarithmic."""
        return np.log10(scores) if self.log else scores

    def edges(self, count: int) -> Stats:
        """Borders of `count` bins of equal width to the eye, shape (count + 1,)."""
        space = np.geomspace if self.log else np.linspace
        edges: Stats = space(self.low, self.high, count + 1)
        return edges

    def dress(self, axes: Axes, which: Literal["x", "y"], label: str = "outlier score") -> None:
        """Give an axis its scale, ends and label, which says what was done to the scores."""
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
    """Draw the threshold across an axis, if there is one."""
    if threshold is None:
        return
    draw = axes.axvline if which == "x" else axes.axhline
    draw(threshold, label=f"threshold {threshold:.4g}", color="#000000", linewidth=1.2, linestyle=(0, (5, 2)))
    if legend:
        axes.legend(loc="lower right")


def set_rows(sizes: Mapping[str, int]) -> tuple[Figure, Axes]:
    """Axes with a row for each set, the first on top, named with its number of images."""
    figure = Figure(figsize=(8, 1.2 + 0.75 * len(sizes)))
    axes = figure.subplots()
    axes.set_yticks(range(len(sizes)), [f"{named(name)}\nn = {size:,}" for name, size in sizes.items()])
    axes.set_ylim(len(sizes) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    return figure, axes
