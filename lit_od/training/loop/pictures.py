"""Pictures of a training: learning curves and samples of its images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lit_od.evaluation import plots
from lit_od.types import Images

COLUMNS = 8
"""Images a row of the grid of samples."""


def learning_curves(rows: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Draw losses and other figures against epochs.

    Args:
        rows: Figures by epoch, counted from 0.
        path: The .png to write.
    """
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
    stacks = [before] if after is None else [before, after]
    lines = -(-len(before) // COLUMNS) * len(stacks)
    figure = Figure(figsize=(COLUMNS, 1.1 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, images in enumerate(stacks):
        for position, image in enumerate(images):
            axis = axes[position // COLUMNS * len(stacks) + place, position % COLUMNS]
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            if position % COLUMNS == 0:
                axis.set_title(("as they are", "augmented")[place], fontsize=7, loc="left")
    figure.savefig(path, dpi=120)
