"""The logger of a training: `metrics.csv`, with a row an epoch.

`lit_od.training.loop.train` hands it to the Trainer; the loggers that a recipe names come after it.
"""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_od.formats.atomic import atomic_file


class EpochLog(Logger):
    """A Lightning logger that keeps one row an epoch, also over a resumed run.

    Attributes:
        file: The CSV file, rewritten after each epoch.
        rows: Figures by epoch; in processes other than the first it stays empty.
    """

    def __init__(self, file: Path, *, resume: bool = False) -> None:
        """Start a file, or continue an existing one.

        Args:
            file: The CSV file.
            resume: True keeps the rows of an existing file.
        """
        super().__init__()
        self.file = file
        self.rows: dict[int, dict[str, float]] = {}
        if resume and file.is_file():
            with file.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    figures = {name: float(text) for name, text in row.items() if text}
                    self.rows[int(figures.pop("epoch"))] = figures

    @property
    def name(self) -> str:
        """Name of the log for Lightning."""
        return self.file.stem

    @property
    def version(self) -> str:
        """Empty version: a run folder holds one log."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log nothing: hyper-parameters are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add figures to their epoch's row and write the file.

        Those of single steps are left out.
        """
        figures = {name: float(value) for name, value in metrics.items() if name != "epoch" and name[-5:] != "_step"}
        if "epoch" not in metrics or not figures:
            return
        self.rows.setdefault(int(metrics["epoch"]), {}).update(figures)
        columns = sorted({name for row in self.rows.values() for name in row})
        with atomic_file(self.file) as partial, partial.open("w", encoding="utf-8", newline="") as lines:
            table = csv.DictWriter(lines, ["epoch", *columns], restval="", lineterminator="\n")
            table.writeheader()
            for epoch, row in sorted(self.rows.items()):
                table.writerow({"epoch": epoch, **row})
