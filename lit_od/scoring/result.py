"""Verdicts on images: arrays, rows and data frames."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.formats.atomic import atomic_file
from lit_od.formats.text import csv_cell, csv_path, csv_row, unicode_text
from lit_od.images.object_store import arrow
from lit_od.scoring.regions import Region
from lit_od.types import Scores, Stats

VALUES = ("score", "p_value", "is_outlier")
"""Columns that an image has unless it cannot be read: arrays of `Result`, with their types in `arrow_columns`."""

COLUMNS = ("path", *VALUES, "error")
"""Columns of the rows, from left to right."""

ResultMaps: TypeAlias = NDArray[np.float32] | tuple[NDArray[np.float32], ...]
"""Maps of n images: (n, h, w), or with tiles n of (h, w)."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Scores, p-values and decisions for n images, in input order.

    Attributes:
        name: Path or name of each, length n.
        score: Outlier scores, (n,) float64, higher is more outlying; NaN where the image could not be read.
        p_value: Conformal p-values in (0, 1], (n,); NaN where the image could not be read.
        is_outlier: True where the score is above the threshold, (n,); False where there is no score.
        error: Reason why an image could not be read; None where it could, length n.
        maps: Maps in the prepared geometry, (n, h, w); NaN where there is no score. With tiles a tuple of n maps, each
            (h, w) at the image's own resolution, (0, 0) where it could not be read. None where no maps were asked for,
            or the detector has none.
        regions: Regions of each image above the threshold for pixels, in the image's own pixels, the largest peak
            first, length n; none where there is no score. None where there are no maps.
        statistics: `image_statistics` of each, (n, 3); NaN where the image could not be read. None where they were not
            computed.
    """

    name: Sequence[str]
    score: Scores
    p_value: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    error: Sequence[str | None]
    maps: ResultMaps | None = None
    regions: Sequence[tuple[Region, ...]] | None = None
    statistics: Stats | None = None

    def __len__(self) -> int:
        return len(self.name)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row an image, in order, as `lit-od score` writes them.

        `pandas.DataFrame(result.rows())` and `polars.DataFrame(result.rows())` make a data frame of them.

        Returns:
            The keys are `COLUMNS`; values that an image does not have are None.
        """
        return [dict(zip(COLUMNS, values, strict=True)) for values in self.row_values()]

    def row_values(self) -> Iterator[tuple[Any, ...]]:
        """Yield each row's values, in the order of `COLUMNS`; None where it has none."""
        values = zip(*(getattr(self, part).tolist() for part in VALUES), strict=True)
        for name, found, error in zip(self.name, values, self.error, strict=True):
            yield (name, *([None] * len(VALUES) if error else found), error)

    def to_csv(self, file: str | Path) -> None:
        """Write the rows as CSV, as `lit-od score --out` does.

        The file appears whole or not at all.

        Raises:
            OSError: If the file cannot be written.
        """
        lines = [csv_row(COLUMNS)]
        for values in self.row_values():
            path, *cells = map(csv_cell, values)
            lines.append(csv_row([csv_path(path), *cells]))
        with atomic_file(Path(file)) as partial:
            partial.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as an Arrow stream, by the Arrow PyCapsule interface.

        `pyarrow.table(result)`, `polars.DataFrame(result)` and `pandas.DataFrame.from_arrow(result)` read it.

        Raises:
            MissingExtra: If PyArrow is not installed.
        """
        arrow()
        import pyarrow as pa

        stream: object = pa.table(arrow_columns(self)).__arrow_c_stream__(requested_schema)
        return stream

    @classmethod
    def joined(cls, results: Sequence["Result"]) -> Self:
        """Return the verdicts of several results, one after the other."""
        return cls(
            [name for result in results for name in result.name],
            np.concatenate([np.empty(0), *(result.score for result in results)]),
            np.concatenate([np.empty(0), *(result.p_value for result in results)]),
            np.concatenate([np.empty(0, dtype=bool), *(result.is_outlier for result in results)]),
            [error for result in results for error in result.error],
            _joined([result.maps for result in results if result.maps is not None]),
            [each for result in results for each in result.regions or ()]
            if any(result.regions is not None for result in results)
            else None,
            np.concatenate(found) if (found := [r.statistics for r in results if r.statistics is not None]) else None,
        )


def _joined(maps: Sequence[ResultMaps]) -> ResultMaps | None:
    arrays = [each for each in maps if isinstance(each, np.ndarray)]
    if len(arrays) < len(maps):
        return tuple(own for each in maps for own in each)
    return np.concatenate(arrays) if arrays else None


def arrow_columns(result: Result) -> dict[str, Any]:
    """Return the rows as Arrow arrays by column, null where an image has no value.

    In names that are not Unicode, bytes are backslash escapes.
    """
    import pyarrow as pa

    broken = np.array([error is not None for error in result.error], dtype=bool)
    types = {"score": pa.float64(), "p_value": pa.float64(), "is_outlier": pa.bool_()}
    return {
        "path": pa.array([unicode_text(name) for name in result.name], pa.string()),
        **{part: pa.array(getattr(result, part), types[part], mask=broken) for part in VALUES},
        "error": pa.array([None if error is None else unicode_text(error) for error in result.error], pa.string()),
    }
