"""Maps of images in the plane, by pixels or by features, made with t-SNE.

t-SNE (van der Maaten and Hinton 2008) keeps neighbours near each other; distances between groups, and
their sizes, mean nothing.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lit_od.errors import DataError, missing_extra
from lit_od.evaluation.plots.style import colour, named, styled
from lit_od.types import Stats

Rows = NDArray[np.generic]
"""One row an image: pixels (n, h, w, c) or features (n, d)."""

PERPLEXITY = 30.0
"""Approximate number of neighbours that count for an image; fewer if there are few images."""

DIRECTIONS = 50
"""Principal components that t-SNE starts from: fewer than thousands of pixels, in a tenth of the time."""

LEAST = 8
"""Least number of images of a map."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
"""One a set, besides its colour."""


def tsne(rows: Rows, *, seed: int = 0) -> Stats:
    """Compute places of images in the plane, shape (n, 2).

    The same rows and seed give the same places on one machine with one number of threads.

    Args:
        rows: Pixels or features, shape (n, ...), n at least 8.
        seed: Seed of the principal components and of the descent.

    Raises:
        DataError: If there are fewer rows, or they hold NaN or infinity.
        MissingExtra: If scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError:
        missing_extra("scikit-learn", "evaluate,cpu")
    if len(rows) < LEAST:
        raise DataError(f"t-SNE needs at least {LEAST} images, got {len(rows)}")
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise DataError("t-SNE needs finite values, got NaN or infinity")
    if not (flat != flat[0]).any():
        raise DataError(f"t-SNE needs images that differ, but all {len(rows)} are equal")
    if min(flat.shape) > DIRECTIONS:
        flat = PCA(DIRECTIONS, svd_solver="randomized", random_state=seed).fit_transform(flat)
    perplexity = min(PERPLEXITY, (len(flat) - 1) / 3)
    places: Stats = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(flat)
    return places.astype(np.float64)


@styled
def embedding_maps(
    spaces: Mapping[str, Mapping[str, Rows]], *, most: int = 400, seed: int = 0, title: str = ""
) -> Figure:
    """Draw t-SNE maps side by side, one a space, images coloured by set.

    Args:
        spaces: By title, such as "pixels", "features before training" and "features after training": the
            rows (n, ...) of each set by its name, the same images in every space. Put the inliers first.
        most: Images of a set that are drawn; of more a seeded sample, the same in every space.
        seed: Seed of the sample and of t-SNE.
        title: Title of the figure.

    Raises:
        DataError: If there is no space or set, the spaces hold different sets or numbers of images, or
            there are too few images.
        MissingExtra: If scikit-learn is not installed.
    """
    if not spaces or not all(spaces.values()):
        raise DataError("a picture needs at least one space with at least one set, got none")
    counts = {space: {name: len(rows) for name, rows in sets.items()} for space, sets in spaces.items()}
    sizes = next(iter(counts.values()))
    if any(each != sizes for each in counts.values()):
        raise DataError(f"every space must hold the same images of the same sets, got {counts}")
    rng = np.random.default_rng(seed)
    chosen = {name: np.sort(rng.permutation(size)[:most]) for name, size in sizes.items()}
    owner = np.repeat(np.arange(len(sizes)), [len(rows) for rows in chosen.values()])
    figure = Figure(figsize=(4.2 * len(spaces), 4.6))
    panels = np.atleast_1d(figure.subplots(1, len(spaces)))
    for axes, (space, sets) in zip(panels, spaces.items(), strict=True):
        rows = np.concatenate([sets[name][chosen[name]].reshape(len(chosen[name]), -1) for name in sizes])
        places = tsne(rows, seed=seed)
        for number in range(len(sizes)):
            own = places[owner == number]
            axes.plot(
                *own.T,
                MARKERS[number % len(MARKERS)],
                color=colour(number),
                markersize=3.2,
                alpha=0.65,
                markeredgewidth=0,
                rasterized=True,  # thousands of dots would make a vector file of megabytes
            )
        axes.set(title=space, xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        for spine in axes.spines.values():
            spine.set(visible=True, color="#cccccc")
    for number, (name, size) in enumerate(sizes.items()):
        shown = f"{len(chosen[name]):,} of {size:,}" if size > most else f"n = {size:,}"
        marker = MARKERS[number % len(MARKERS)]
        panels[0].plot([], [], marker, color=colour(number), markersize=5, label=f"{named(name)} ({shown})")
    figure.legend(loc="outside lower center", ncols=min(4, len(sizes)))
    if title:
        figure.suptitle(title)
    return figure
