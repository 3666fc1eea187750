"""The published experiments in one table, and what of them need not be run again."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_od.errors import ConfigError
from lit_od.evaluation.experiments import Options, Report, Row

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
    """

    name: str
    rows: tuple[Row, ...]
    seconds: float


def keep_report(report: Report, out: Path) -> None:
    """Write an experiment's tables and figures to its folder."""
    (out / "report.txt").write_text(report.text + "\n", encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report.figures, indent=2) + "\n", encoding="utf-8")


def keep_summary(name: str, options: Options, report: Report, seconds: float) -> Finished:
    """Write down that an experiment has come to its end, and how it was run."""
    tree = {"options": _told(options), "seconds": seconds, "rows": [asdict(row) for row in report.rows]}
    (options.out / SUMMARY).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    return Finished(name, report.rows, seconds)


def take_up(name: str, options: Options) -> Finished | None:
    """An experiment that was finished with the same options in the same folder; None where there is none.

    Raises:
        ConfigError: If the summary there cannot be read.
    """
    file = options.out / SUMMARY
    if not file.is_file():
        return None
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        found = Finished(name, tuple(Row(**row) for row in tree["rows"]), float(tree["seconds"]))
        return found if tree["options"] == _told(options) else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no summary of an experiment: remove it") from error


def table_of(finished: Iterable[Finished]) -> str:
    """A Markdown table, a line a figure; the time of an experiment stands in its first line."""
    lines = [_line(HEADS), _line(["---"] * len(HEADS))]
    for each in finished:
        for number, row in enumerate(each.rows):
            first = (f"`{each.name}`", duration(each.seconds)) if number == 0 else ("", "")
            lines.append(_line([first[0], row.what, row.published, row.ours, row.differs, first[1]]))
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """Seconds for a person: 48 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _told(options: Options) -> dict[str, Any]:
    """What a result depends on: not where it lies, nor how many threads made it."""
    tree = {name: value for name, value in asdict(options).items() if name not in ("out", "threads", "cache", "root")}
    told: dict[str, Any] = json.loads(json.dumps(tree))
    return told


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
