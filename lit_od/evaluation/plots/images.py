"""Pictures of images side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lit_od.errors import DataError
from lit_od.evaluation.plots.style import styled
from lit_od.types import Images


@styled
def image_grid(images: Images, captions: Sequence[str] | None = None, *, columns: int = 8, title: str = "") -> Figure:
    """Draw images side by side, row by row, in the order given.

    Args:
        images: (n, h, w, c) uint8, n at least 1, c 1 or 3.
        captions: A short text under each image, n of them.
        columns: Images in a row.
        title: Title of the figure.

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
