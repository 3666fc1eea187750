"""Options and results of published experiments.

Each experiment is a module with `run(options) -> ExperimentResult`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_od.evaluation.intervals import Interval, exact_binomial


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentOptions:
    """Options of an experiment.

    Attributes:
        root: Data root; None takes LIT_OD_DATA, else the working folder.
        out: Folder for bundles, tables and pictures.
        seeds: Seeds, each of a separate run; figures are given for each and as their median.
        quick: True for a smoke run: every step, with a budget that proves nothing.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
        overrides: Overrides of the experiment's recipe, as words of a command line, the data root among them.
        recipe: A shipped recipe's name or a YAML file, if the experiment takes one.
        data: Set or folder that takes the place of the recipe's, if the experiment takes one.
        contamination: Rate by which the test set is contaminated, if the experiment takes one.
        budget: "small" for two cores and some 20 minutes, if the experiment has one; it says what it leaves out.
        cache: Folder where features are kept between runs; None is `features` below `out`.
        trust: Import paths and names of hubs' models, outside lit_od, timm and torchvision, that the recipe may name.
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
    trust: Collection[str] = ()
    cache: Path | None = None
    budget: Literal["small", "full"] = "full"


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A published figure and ours.

    Attributes:
        what: Name of the measurement and its images.
        published: The figure, or the source's substitute for one.
        ours: The figure with its interval.
        differs: Differences from the source: data, budget, weights.
    """

    what: str
    published: str
    ours: str
    differs: str


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """Results of an experiment.

    Attributes:
        text: Tables for a person.
        figures: The same for a machine: plain JSON values.
        rows: The chief figures with the published ones.
    """

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    rows: tuple[ResultRow, ...] = ()


def middle(intervals: Sequence[Interval]) -> Interval:
    """Return the interval with the median value; the lower one of an even number."""
    return sorted(intervals, key=lambda each: each.value)[(len(intervals) - 1) // 2]


def share_of(flags: NDArray[np.bool_]) -> Interval:
    """Return the share of True among flags of shape (n,), with its exact interval."""
    return exact_binomial(int(flags.sum()), flags.size)


def over_seeds(intervals: Sequence[Interval]) -> str:
    """Write the middle one of the seeds' shares in percent, with its interval."""
    return in_percent(middle(intervals), repetitions=len(intervals))


def in_percent(interval: Interval, *, repetitions: int = 1) -> str:
    """Write a share and its 95 % interval in percent, with the number of seeds."""
    text = f"{100 * interval.value:.2f} [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    return f"{text}, median of {repetitions} seeds" if repetitions > 1 else text
