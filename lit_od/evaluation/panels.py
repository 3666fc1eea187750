"""Pictures of a training's course and of images; `lit_od.evaluation.plots` offers them with the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_od.errors import DataError
from lit_od.evaluation.style import colour, dash, styled
from lit_od.types import Images, Stats


@styled
def learning_curves(columns: Mapping[str, Sequence[float] | Stats]) -> Figure:
    """Losses, learning rate and other figures by epoch, each kind on axes of its own.

    Args:
        columns: Columns of a training's metrics.csv, all of one length: "epoch", and any others; NaN where
            a row lacks a figure. The mean over an epoch's rows is drawn. "step" is left out, names with "loss" go
            together, and names that begin with "lr" go on a logarithmic axis.

    Raises:
        DataError: If there is no "epoch", the lengths differ, or nothing is there to draw.
    """
    values = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    if "epoch" not in values:
        raise DataError(f'learning curves need a column "epoch", got {", ".join(values) or "none"}')
    lengths = {name: column.size for name, column in values.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"columns must be of one length, got {lengths}")
    epoch = values.pop("epoch")
    kinds: dict[str, dict[str, tuple[Stats, Stats]]] = {}
    for name, column in values.items():
        seen = np.isfinite(column) & np.isfinite(epoch)
        if name != "step" and seen.any():
            kind = "loss" if "loss" in name else "learning rate" if name.startswith("lr") else "figure"
            kinds.setdefault(kind, {})[name] = _epoch_means(epoch[seen], column[seen])
    if not kinds:
        raise DataError("nothing to draw: the columns besides epoch and step hold no finite number")
    figure = Figure(figsize=(4.6 * len(kinds), 3.6))
    panels = np.atleast_1d(figure.subplots(1, len(kinds)))
    for axes, kind in zip(panels, sorted(kinds, key=["loss", "figure", "learning rate"].index), strict=True):
        for number, (name, (epochs, means)) in enumerate(kinds[kind].items()):
            marker = "o" if epochs.size < 30 else ""
            axes.plot(epochs, means, marker=marker, markersize=3, color=colour(number), ls=dash(number), label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", title=kind)
        if kind == "learning rate" and all((means > 0).all() for _, means in kinds[kind].values()):
            axes.set_yscale("log")
        axes.legend()
    return figure


@styled
def image_grid(images: Images, captions: Sequence[str] | None = None, *, columns: int = 8, title: str = "") -> Figure:
    """Images side by side, row by row, in the order given.

    Args:
        images: (n, h, w, c) uint8, n at least 1, c 1 or 3.
        captions: A short text under each image, n of them.
        columns: Images in a row.
        title: Over all.

    Raises:
        DataError: If the images have another shape or type, or there are not n captions.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3) or not len(images):
        raise DataError(f"a grid needs uint8 images (n, h, w, 1 or 3), n at least 1, got {images.dtype} {images.shape}")
    if captions is not None and len(captions) != len(images):
        raise DataError(f"captions must be one an image, got {len(captions)} for {len(images)} images")
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    gap = max(1, width // 14)
    tall, wide = height + gap + (width // 4 if captions else 0), width + gap
    canvas = np.full((rows * tall, columns * wide, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(columns * 0.95, rows * 0.95 * tall / wide + (0.35 if title else 0.05)))
    axes = figure.subplots()
    for number, image in enumerate(images):
        top, left = number // columns * tall, number % columns * wide
        canvas[top : top + height, left : left + width] = image
        if captions:
            middle, below = left + width / 2, top + height + gap / 2
            axes.text(middle, below, captions[number], fontsize=6.5, ha="center", va="top", parse_math=False)
    axes.imshow(canvas, interpolation="nearest" if width < 64 else "antialiased")
    axes.set_axis_off()
    axes.set_title(title)
    return figure


def _epoch_means(epochs: Stats, values: Stats) -> tuple[Stats, Stats]:
    distinct, places = np.unique(epochs, return_inverse=True)
    return distinct, np.bincount(places, weights=values) / np.bincount(places)
