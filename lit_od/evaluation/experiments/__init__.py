"""Published experiments, run again from end to end: one module each, with `run(options) -> Report`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an experiment is to be run.

    Attributes:
        root: Data root; None takes LIT_OD_DATA, else the working folder.
        out: Folder for bundles, tables and pictures.
        seeds: Each is a run of its own; figures are given for each and as their median.
        quick: A smoke run: every step, with a budget that proves nothing.
        threads: Threads of ONNX Runtime and of decoding; None is one a core.
    """

    root: str | None
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What an experiment gave.

    Attributes:
        text: Tables for a person.
        figures: The same for a machine: plain JSON values.
    """

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
