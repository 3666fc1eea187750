"""Published experiments, run again from end to end: one module each, with `run(options) -> Report`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lit_od.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentOptions:
    """How an experiment is to be run.

    Attributes:
        root: Data root; None takes LIT_OD_DATA, else the working folder.
        out: Folder for bundles, tables and pictures.
        seeds: Each is a run of its own; figures are given for each and as their median.
        quick: A smoke run: every step, with a budget that proves nothing.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
        overrides: Of the experiment's recipe, as words of a command line, the data root among them.
        recipe: A shipped recipe's name or a YAML file, where the experiment takes one.
        data: Set or folder that takes the place of the recipe's, where the experiment takes one.
        contamination: Rate by which the test set is contaminated, where the experiment takes one.
        budget: "small" for two cores and some 20 minutes, where the experiment has one; it says what it leaves out.
        cache: Folder where features are kept between runs; None is `features` below `out`.
    """

    root: str | None
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    threads: int | None = None
    overrides: tuple[str, ...] = ()
    recipe: str | None = None
    data: str | None = None
    contamination: float | None = None
    cache: Path | None = None
    budget: Literal["small", "full"] = "full"


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A published figure and ours beside it.

    Attributes:
        what: What was measured on what.
        published: The figure, or what the source has in its place.
        ours: The figure with its interval.
        differs: What is not as in the source: data, budget, weights.
    """

    what: str
    published: str
    ours: str
    differs: str


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What an experiment gave.

    Attributes:
        text: Tables for a person.
        figures: The same for a machine: plain JSON values.
        rows: Its chief figures beside the published ones.
    """

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    rows: tuple[ResultRow, ...] = ()


def middle(intervals: Sequence[Interval]) -> Interval:
    """The interval whose value is the median of an odd number of repetitions; of an even one the lower of the two."""
    return sorted(intervals, key=lambda each: each.value)[(len(intervals) - 1) // 2]


def in_percent(interval: Interval, *, repetitions: int = 1) -> str:
    """A share and its 95 % interval in percent, and of how many seeds it is the median."""
    text = f"{100 * interval.value:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{text}, median of {repetitions} seeds" if repetitions > 1 else text
