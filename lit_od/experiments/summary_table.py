"""The published experiments in one table, and summaries of finished ones."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_od.errors import ConfigError
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow
from lit_od.formats.atomic import atomic_file
from lit_od.recipes.overrides import parse_overrides

SUMMARY = "summary.json"
"""File that records a finished experiment, beside its report."""

HEADS = ("experiment", "what", "published", "ours, 95 % interval", "what differs", "time")


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished experiment.

    Attributes:
        name: Name of the experiment.
        rows: Its chief figures.
        seconds: Wall time of its run.
        quick: True if it was a smoke run.
    """

    name: str
    rows: tuple[ResultRow, ...]
    seconds: float
    quick: bool


def keep_report(report: ExperimentResult, out: Path) -> None:
    """Write an experiment's tables and figures to its folder."""
    keep(report.text + "\n", out / "report.txt")
    keep(json.dumps(report.figures, indent=2) + "\n", out / "report.json")


def keep_summary(name: str, options: ExperimentOptions, report: ExperimentResult, seconds: float) -> Finished:
    """Record that an experiment has finished, with its options.

    Args:
        name: Name of the experiment.
        options: Its options.
        report: Its results.
        seconds: Wall time of its run.
    """
    rows = [asdict(row) for row in report.rows]
    tree = {"name": name, "options": _decisive(options), "seconds": seconds, "rows": rows}
    keep(json.dumps(tree, indent=2) + "\n", options.out / SUMMARY)
    return Finished(name, report.rows, seconds, options.quick)


def keep(text: str, file: Path) -> None:
    """Write a file atomically."""
    with atomic_file(file) as fresh:
        fresh.write_text(text, encoding="utf-8")


def take_up(name: str, options: ExperimentOptions) -> Finished | None:
    """Return the finished experiment with these options in this folder, else None."""
    kept = _summary_in(options.out, name)
    return kept[0] if kept is not None and kept[1] == _decisive(options) else None


def require_own_folder(name: str, options: ExperimentOptions) -> None:
    """Raise ConfigError if a full run would replace a smoke run, or the reverse."""
    kept = _summary_in(options.out, name)
    if kept is not None and kept[0].quick != options.quick:
        held = "smoke run (--quick)" if kept[0].quick else "full run"
        raise ConfigError(f"{options.out} holds a {held}: name another --out, or remove it")


def table_of(finished: Iterable[Finished]) -> str:
    """Write a Markdown table, a line a figure.

    The time of an experiment stands in its first line.
    """
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    for each in finished:
        for number, row in enumerate(each.rows):
            first, time = (f"`{each.name}`", duration(each.seconds)) if number == 0 else ("", "")
            first += " smoke run" if each.quick else ""
            lines.append(_line([first.strip(), row.what, row.published, row.ours, row.differs, time]))
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """Write seconds for a person: 48 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary_in(folder: Path, name: str) -> tuple[Finished, dict[str, Any]] | None:
    """Read an experiment's summary and its options; None without a whole one."""
    try:
        tree = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        rows, options = tuple(ResultRow(**row) for row in tree["rows"]), dict(tree["options"])
        own = tree.get("name", name) == name
        if isinstance(options["overrides"], list):  # the form of earlier versions
            options["overrides"] = _without_root(options["overrides"])
        return (Finished(name, rows, float(tree["seconds"]), options["quick"]), options) if own else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, ConfigError):
        return None


def _decisive(options: ExperimentOptions) -> dict[str, Any]:
    """Return the options that decide a result: neither places, threads nor trust."""
    without = ("out", "threads", "cache", "root", "trust")
    tree = {name: value for name, value in asdict(options).items() if name not in without}
    tree["overrides"] = _without_root(options.overrides)
    kept: dict[str, Any] = json.loads(json.dumps(tree))
    return kept


def _without_root(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of overrides by path, the data root left out."""
    return {path: value for path, value in parse_overrides(overrides) if path != "data.root"}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
