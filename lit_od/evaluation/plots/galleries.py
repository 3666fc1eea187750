"""The most and the least outlying images, with their scores and p-values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.evaluation.counts import check_scores
from lit_od.evaluation.plots.images import image_grid
from lit_od.formats.text import one_line
from lit_od.types import Images, Scores, Stats


def most_outlying(
    images: Images,
    scores: Scores,
    p_values: Stats,
    names: Sequence[str] | None = None,
    *,
    count: int = 24,
    title: str = "most outlying",
) -> Figure:
    """Draw the images with the highest scores, the highest first.

    Args:
        images: Prepared images, (n, h, w, c) uint8, n at least 1.
        scores: Outlier scores, (n,).
        p_values: In (0, 1], (n,).
        names: A short text for each image, such as its set, n of them.
        count: Largest number of images drawn.
        title: Title of the figure.

    Raises:
        DataError: If there are no images, lengths differ, or a score is not finite.
    """
    return _gallery(images, scores, p_values, names, _ranked(scores)[:count], title)


def least_outlying(
    images: Images,
    scores: Scores,
    p_values: Stats,
    names: Sequence[str] | None = None,
    *,
    count: int = 24,
    title: str = "least outlying",
) -> Figure:
    """Draw the images with the lowest scores, the lowest first.

    Args:
        images: Prepared images, (n, h, w, c) uint8, n at least 1.
        scores: Outlier scores, (n,).
        p_values: In (0, 1], (n,).
        names: A short text for each image, such as its set, n of them.
        count: Largest number of images drawn.
        title: Title of the figure.

    Raises:
        DataError: If there are no images, lengths differ, or a score is not finite.
    """
    return _gallery(images, scores, p_values, names, _ranked(scores)[::-1][:count], title)


def _ranked(scores: Scores) -> NDArray[np.intp]:
    return np.argsort(-check_scores(scores, "gallery"), kind="stable")


def _gallery(
    images: Images,
    scores: Scores,
    p_values: Stats,
    names: Sequence[str] | None,
    rows: NDArray[np.intp],
    title: str,
) -> Figure:
    lengths = {len(images), len(scores), len(p_values), *([len(names)] if names is not None else [])}
    if len(lengths) != 1:
        raise DataError(f"wanted a score and a p-value for each image, got lengths {sorted(lengths)}")
    captions = [f"{scores[row]:.3g}  p {p_values[row]:.2g}" for row in rows]
    if names is not None:
        captions = [f"{one_line(names[row])}\n{caption}" for row, caption in zip(rows, captions, strict=True)]
    return image_grid(images[rows], captions, title=f"{title}: {len(rows)} of {len(images):,}, score and p-value")
