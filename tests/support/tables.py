"""Parquet files that hold images, and images as workers find them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.cluster.work_items import decode, items
from lit_od.images.sources import Source
from tests.support.images import GREY


def arrow(module: str = "pyarrow") -> Any:
    """A module of PyArrow; without it the test that asks is skipped."""
    return pytest.importorskip(module, reason="needs the extra ray")


def write_table(file: Path, columns: dict[str, Any], rows: int = 3, **options: Any) -> str:
    pa, parquet = arrow(), arrow("pyarrow.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), file, row_group_size=rows, **options)
    return str(file)


def travelled(sources: Sequence[Source], workers: int = 1) -> list[Source]:
    """The images as workers find them."""
    return [source for item in items(sources, workers=workers) for source in decode(item).sources()]


def pixels(sources: Sequence[Source]) -> np.ndarray:
    return np.stack([source.prepare(GREY) for source in sources])
