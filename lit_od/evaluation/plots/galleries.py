"""The most and the least outlying images, with their scores and p-values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lit_od.errors import DataError
from lit_od.evaluation.counts import check_scores
from lit_od.evaluation.plots.images import image_grid
from lit_od.formats.text import one_line
from lit_od.types import Images, Scores, Stats


def gallery(
    images: Images,
    scores: Scores,
    p_values: Stats,
    names: Sequence[str] | None = None,
    *,
    least: bool = False,
    count: int = 24,
) -> Figure:
    """Draw the images with the highest or the lowest scores, the extreme ones first.

    Args:
        images: Prepared images, (n, h, w, c) uint8, n at least 1.
        scores: Outlier scores, (n,).
        p_values: In (0, 1], (n,).
        names: A short text for each image, such as its set, n of them.
        least: Draw the lowest.
        count: Number of images that are shown.

    Raises:
        DataError: If there are no images, lengths differ, or a score is not finite.
    """
    ranked = np.argsort(-check_scores(scores, "gallery"), kind="stable")
    rows = (ranked[::-1] if least else ranked)[:count]
    lengths = {len(images), len(scores), len(p_values), *([len(names)] if names is not None else [])}
    if len(lengths) != 1:
        raise DataError(f"wanted a score and a p-value for each image, got lengths {sorted(lengths)}")
    captions = [f"{scores[row]:.3g}  p {p_values[row]:.2g}" for row in rows]
    if names is not None:
        captions = [f"{one_line(names[row])}\n{caption}" for row, caption in zip(rows, captions, strict=True)]
    title = f"{'least' if least else 'most'} outlying: {len(rows)} of {len(images):,}, score and p-value"
    return image_grid(images[rows], captions, title=title)
