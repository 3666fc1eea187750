"""Pictures of a training: its curves, and what its images look like."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_od.types import Images

COLUMNS = 8
"""Images a row of the grid of samples."""


def learning_curves(rows: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Draw losses on the left, and on the right what lies in 0 to 1, against epochs.

    Args:
        rows: Figures by epoch, counted from 0.
        path: The .png to write.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, rows, {"train_loss": "training", "val_loss": "validation"}, "loss")
    shares = {"val_accuracy": "accuracy (validation)", "val_outlier_auroc": "AUROC against held-out classes"}
    _curves(right, rows, shares, "share")
    figure.savefig(path, dpi=120)


def sample_grid(before: Images, after: Images | None, path: Path) -> None:
    """Draw images in rows; under each row the same images augmented, where they are.

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


def _curves(axis: Axes, rows: Mapping[int, Mapping[str, float]], curves: Mapping[str, str], title: str) -> None:
    epochs = sorted(rows)
    for name, label in curves.items():
        values = np.array([rows[epoch].get(name, np.nan) for epoch in epochs])
        if np.isfinite(values).any():
            axis.plot([epoch + 1 for epoch in epochs], values, marker="o", markersize=3, label=label)
    if axis.lines:
        axis.legend(frameon=False)
    axis.set_xlabel("epoch")
    axis.set_ylabel(title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
