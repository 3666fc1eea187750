"""The report of an int8 graph, beside the float graph that it is made of."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_od.backbone.model import Backbone
from lit_od.deploy.int8_choice import Int8Choice
from lit_od.deploy.int8_gate import Gate
from lit_od.evaluation.intervals import Interval
from lit_od.types import Images

BATCHES = (1, 32)
"""Batch sizes whose speed is measured."""

REPEATS = 7
"""Runs of each graph and batch size, in turns."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8Report:
    """Costs and gains of int8.

    Attributes:
        choice: The graph, and how it was chosen.
        gate: AUROC in float and in int8.
        agreement: Spearman's rank correlation of validation images' scores in float and in int8; None where they do
            not vary.
        halves: The same of two float fits on disjoint halves of the fit part; None where a half does not suffice.
        flagged: Share of validation images above the new threshold, with its exact 95 % interval.
        speed: Time in float over that in int8 on this machine, by batch size.
    """

    choice: Int8Choice
    gate: Gate
    agreement: float | None
    halves: float | None
    flagged: Interval
    speed: dict[int, float]

    @property
    def slow(self) -> str | None:
        """A warning where int8 is not faster here; None where it is."""
        late = [f"{ratio:.2f} times at batch {size}" for size, ratio in self.speed.items() if ratio <= 1]
        return f"int8 is not faster than float on this machine: {', '.join(late)} the speed" if late else None

    def metrics(self) -> dict[str, Any]:
        """Return the figures that a manifest keeps."""
        choice, gate = self.choice, self.gate
        return {
            "method": choice.method,
            "float_layers": list(choice.kept),
            "feature_error": choice.feature_error,
            "flagged": self.flagged.value,
            "rank_agreement": self.agreement,
            "rank_agreement_of_halves": self.halves,
            **{
                f"auroc {name}": {
                    "float": gate.areas[name][0],
                    "int8": gate.areas[name][1],
                    "change_low": change.low,
                    "change_high": change.high,
                }
                for name, change in gate.change.items()
            },
        }

    def text(self) -> str:
        """Format the report for a person."""
        choice, gate = self.choice, self.gate
        errors = ", ".join(f"{method} {error:.1%}" for method, error in choice.errors.items())
        lines = [
            f"{'layer':58}difference of its activations",
            *(f"{name[-56:]:58}{error:.2%}" for name, error in choice.layers.items()),
            f"feature error, of the median distance to the nearest neighbour: {errors}",
            f"taken is {choice.method}, in float stay {', '.join(choice.kept) or 'none'}: {choice.feature_error:.1%}",
        ]
        for name, change in gate.change.items():
            of_float, of_int8 = gate.areas[name]
            lines.append(
                f"AUROC against {name}: float {of_float:.2%}, int8 {of_int8:.2%}; change {change.value * 100:+.2f} "
                f"({change.low * 100:+.2f} to {change.high * 100:+.2f}) points"
            )
        lines += [
            f"above the new threshold are {self.flagged.value:.2%} of the validation images "
            f"({self.flagged.low:.2%} to {self.flagged.high:.2%})",
            f"ranks of normal images, float and int8: {_share(self.agreement)}; two float fits on halves: "
            f"{_share(self.halves)} (Spearman)",
            "speed, float's time over int8's: "
            + ", ".join(f"{ratio:.2f} at batch {size}" for size, ratio in self.speed.items()),
        ]
        return "\n".join(lines)


def speed_ratios(in_float: Backbone, in_int8: Backbone, images: Images) -> dict[int, float]:
    """Measure the time of the float graph over that of the int8 graph, run in turns.

    Args:
        in_float: The float graph.
        in_int8: The int8 graph.
        images: Prepared images, (n, h, w, c) uint8, n at least 1; repeated where a batch needs more.

    Returns:
        The ratio of least times by batch size, for each of `BATCHES`.
    """
    ratios = {}
    for size in BATCHES:
        batch = np.resize(images, (size, *images.shape[1:]))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            for backbone, spent in zip((in_float, in_int8), times, strict=True):
                started = time.perf_counter()
                backbone(batch)
                spent.append(time.perf_counter() - started)
        ratios[size] = min(times[0]) / min(times[1])
    return ratios


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
