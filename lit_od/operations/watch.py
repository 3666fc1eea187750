"""Score what arrives, and write each row once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.extractor import BATCH_SIZE, Extracted
from lit_od.formats.text import unicode_text
from lit_od.images.video_place import Frame
from lit_od.images.watch_folder import ArrivedFile, FolderWatch
from lit_od.operations.deliveries import Deliveries
from lit_od.operations.moves import Moves
from lit_od.operations.row_log import Row, Rows
from lit_od.scoring.result import COLUMNS, Result
from lit_od.scoring.scorer import Scorer

FRAME_COLUMNS = (*COLUMNS, "frame", "time")
"""Columns of rows of frames."""

Arrival: TypeAlias = ArrivedFile | Frame

Draw: TypeAlias = Callable[[Extracted, NDArray[np.bool_]], None]
"""Function that draws the chosen images of a batch."""


@dataclass
class Watch:
    """The loop that scores what arrives.

    Attributes:
        scorer: The loaded bundle.
        rows: Takes the rows.
        columns: Names of the rows' columns.
        folder: The folder that is watched; None of a video.
        moves: Moves files of the folder once they have their row.
        deliveries: Hand the rows on.
        draw: Draws maps; None draws none.
        outliers_only: Draw, and hand on, outliers alone.
        scored: Number of rows with a score.
        outliers: Number of outliers.
        unreadable: Number of rows with an error.
    """

    scorer: Scorer
    rows: Rows
    columns: Sequence[str]
    folder: FolderWatch | None = None
    moves: Moves | None = None
    deliveries: Sequence[Deliveries] = ()
    draw: Draw | None = None
    outliers_only: bool = False
    scored: int = field(default=0, init=False)
    outliers: int = field(default=0, init=False)
    unreadable: int = field(default=0, init=False)

    def run(
        self,
        arrivals: Iterable[Iterable[Arrival]],
        stop: Event,
        *,
        batch_size: int = BATCH_SIZE,
        after: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Score and write rows until nothing arrives any more, or until stopped.

        Args:
            arrivals: Images as they arrive: those that are there at once, or all of a video file.
            stop: Ends the loop after the batch that is being scored.
            batch_size: Images in a batch.
            after: Called after each batch with its number of rows.
        """
        for found in arrivals:
            if stop.is_set():
                return
            if isinstance(found, Sequence) and not found:
                continue
            for result, extracted in self.scorer.stream_outputs(
                found, batch_size=batch_size, maps=self.draw is not None
            ):
                after(self._take(result, extracted))
                if stop.is_set():
                    return

    def _take(self, result: Result, found: Extracted) -> int:
        """Write the rows of a batch, and do what follows from them; return their number."""
        images, kinds = cast(Sequence[Arrival], found.batch.sources), _kinds(result)
        taken = np.ones(len(images), np.bool_)
        for place in found.batch.errors:
            taken[place] = not self._put_off(images[place])
        chosen = taken & result.is_outlier if self.outliers_only else taken
        if self.draw is not None:
            self.draw(found, chosen)
        rows = [
            Row((*values, image.number, image.time), image.key, image.version, kind)
            if isinstance(image, Frame)
            else Row(values, image.key, image.version, kind)
            for image, values, kind in zip(images, result.row_values(), kinds, strict=True)
        ]
        written = [row for row, is_taken in zip(rows, taken, strict=True) if is_taken]
        if not written:
            return 0
        self.rows.write(written)
        if self.folder is not None and self.moves is not None:
            for row in written:
                self.moves.move(row.kind, Path(row.key), row.version)
        if self.deliveries:
            objects = [self._object(row) for row, wanted in zip(rows, chosen, strict=True) if wanted]
            for each in self.deliveries:
                each.put(objects)
        self.outliers += sum(row.kind == "outliers" for row in written)
        self.unreadable += (errors := sum(row.kind == "errors" for row in written))
        self.scored += len(written) - errors
        return len(written)

    def _object(self, row: Row) -> dict[str, object]:
        """Return a row as a JSON object holds it."""
        known = (unicode_text(value) if isinstance(value, str) else value for value in row.values)
        return dict(zip(self.columns, known, strict=True))

    def _put_off(self, image: Arrival) -> bool:
        return self.folder is not None and isinstance(image, ArrivedFile) and self.folder.again(image)


def _kinds(result: Result) -> list[str]:
    return [
        "errors" if error is not None else "outliers" if outlying else "inliers"
        for error, outlying in zip(result.error, result.is_outlier.tolist(), strict=True)
    ]
