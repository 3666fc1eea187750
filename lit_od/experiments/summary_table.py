"""The published experiments in one table, and what of them need not be run again."""

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
"""What is kept of a finished experiment beside its report."""

HEADS = ("experiment", "what", "published", "ours, 95 % interval", "what differs", "time")


@dataclass(frozen=True, slots=True)
class Finished:
    """An experiment that has come to its end.

    Attributes:
        name: Of the experiment.
        rows: Its chief figures.
        seconds: Wall time of its run.
        quick: Whether it was a smoke run.
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
    """Write down that an experiment has come to its end, and how it was run."""
    rows = [asdict(row) for row in report.rows]
    tree = {"name": name, "options": _told(options), "seconds": seconds, "rows": rows}
    keep(json.dumps(tree, indent=2) + "\n", options.out / SUMMARY)
    return Finished(name, report.rows, seconds, options.quick)


def keep(text: str, file: Path) -> None:
    """Write a file that is there whole, as it was or as it shall be, whatever happens."""
    with atomic_file(file) as fresh:
        fresh.write_text(text, encoding="utf-8")


def take_up(name: str, options: ExperimentOptions) -> Finished | None:
    """An experiment that was finished with the same options in the same folder; None where there is none."""
    kept = _summary_in(options.out, name)
    return kept[0] if kept is not None and kept[1] == _told(options) else None


def require_own_folder(name: str, options: ExperimentOptions) -> None:
    """Raise ConfigError if a full run would write over a smoke run, or a smoke run over the work of hours."""
    kept = _summary_in(options.out, name)
    if kept is not None and kept[0].quick != options.quick:
        held = "smoke run (--quick)" if kept[0].quick else "full run"
        raise ConfigError(f"{options.out} holds a {held}: name another --out, or remove it")


def table_of(finished: Iterable[Finished]) -> str:
    """A Markdown table, a line a figure; the time of an experiment stands in its first line."""
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    for each in finished:
        for number, row in enumerate(each.rows):
            first, time = (f"`{each.name}`", duration(each.seconds)) if number == 0 else ("", "")
            first += " smoke run" if each.quick else ""
            lines.append(_line([first.strip(), row.what, row.published, row.ours, row.differs, time]))
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """Seconds for a person: 48 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary_in(folder: Path, name: str) -> tuple[Finished, dict[str, Any]] | None:
    """What is kept of an experiment in its folder, and its options; None where nothing is, or nothing whole."""
    try:
        tree = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        rows, told = tuple(ResultRow(**row) for row in tree["rows"]), dict(tree["options"])
        own = tree.get("name", name) == name
        if isinstance(told["overrides"], list):  # as they were kept before
            told["overrides"] = _but_where(told["overrides"])
        return (Finished(name, rows, float(tree["seconds"]), told["quick"]), told) if own else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, ConfigError):
        return None


def _told(options: ExperimentOptions) -> dict[str, Any]:
    """What a result depends on: not where it lies, nor how many threads made it."""
    tree = {name: value for name, value in asdict(options).items() if name not in ("out", "threads", "cache", "root")}
    tree["overrides"] = _but_where(options.overrides)
    told: dict[str, Any] = json.loads(json.dumps(tree))
    return told


def _but_where(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides change, wherever the data lie."""
    return {path: value for path, value in parse_overrides(overrides) if path != "data.root"}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
