"""Pictures of a training: learning curves and samples of its images.

Matplotlib is imported when one is drawn.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lit_od.types import Images

COLUMNS = 8
"""Images a row of the grid of samples."""


def learning_curves(rows: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Draw losses and other figures against epochs.

    Args:
        rows: Figures by epoch, counted from 0.
        path: The .png to write.
    """
    from lit_od.evaluation import plots

    epochs = sorted(rows)
    names = sorted({name for row in rows.values() for name in row})
    columns = {name: [rows[epoch].get(name, np.nan) for epoch in epochs] for name in names}
    plots.save(plots.learning_curves({"epoch": epochs, **columns}), path)


def sample_grid(before: Images, after: Images | None, path: Path) -> None:
    """Draw images in rows, with the same images augmented under each row.

    Args:
        before: Shape (n, h, w, c), uint8.
        after: The same shape, or None without augmentation.
        path: The .png to write.
    """
    from lit_od.evaluation import plots

    stacks = [before] if after is None else [before, after]
    rows = [images[start : start + COLUMNS] for start in range(0, len(before), COLUMNS) for images in stacks]
    filled = [np.pad(row, [(0, COLUMNS - len(row)), (0, 0), (0, 0), (0, 0)], constant_values=255) for row in rows]
    title = "as they are" if after is None else "as they are, and below them augmented"
    plots.save(plots.image_grid(np.concatenate(filled), columns=COLUMNS, title=title), path)
