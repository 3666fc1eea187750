"""Classify images with a bundle a class: the class with the largest p-value wins.

Scores of different bundles are not comparable; their p-values are. Each p-value is valid by itself, so
that A's bundle rejects an image of class A at level a with a probability of at most a.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.calibration.p_values import Calibration
from lit_od.calibration.rules import inliers_needed
from lit_od.errors import ConfigError
from lit_od.images.sources import Source
from lit_od.scoring.result import Result
from lit_od.scoring.scorer import Scorer
from lit_od.types import Scores, Stats

NONE = "none"
"""Label of an image that every bundle rejects."""


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Classes and p-values of n images, in input order.

    Attributes:
        name: Path or name of each, length n.
        label: The class of each, or "none"; None where an image could not be read, length n.
        p_values: By class, (n,) each; NaN where an image could not be read.
        error: Reason why an image could not be read; None where it could, length n.
    """

    name: Sequence[str]
    label: Sequence[str | None]
    p_values: Mapping[str, NDArray[np.float64]]
    error: Sequence[str | None]


def classify(
    scorers: Mapping[str, Scorer], sources: Sequence[Source], *, level: float, batch_size: int = BATCH_SIZE
) -> Iterator[Classification]:
    """Classify images batch by batch, in bounded memory.

    Args:
        scorers: By class, at least two.
        sources: The images; each bundle prepares them by its own preparation.
        level: In [0, 1): an image with a largest p-value below it is labelled "none".
        batch_size: Images a result.

    Yields:
        Classes of the next images, in their order.

    Raises:
        ConfigError: If there are fewer than two classes, one is called "none", or the level is invalid, by
            itself or for the number of calibration images of a bundle.
    """
    require_classes(list(scorers), level)
    require_reachable(scorers, level)
    names = list(scorers)
    streams = [scorer.stream(sources, batch_size=batch_size) for scorer in scorers.values()]
    return (_decided(dict(zip(names, results, strict=True)), scorers, level) for results in zip(*streams, strict=True))


def require_classes(names: Sequence[str], level: float) -> None:
    """Raise ConfigError unless the class names and the level are valid."""
    if not 0 <= level < 1:
        raise ConfigError(f"level must lie in [0, 1), got {level:g}")
    for name in names:
        if name == NONE:
            raise ConfigError(f"a class cannot be called {NONE!r}, which stands for no class: give another NAME=BUNDLE")
        if names.count(name) > 1:
            raise ConfigError(f"two classes are called {name!r}: give them names, as in --bundle cats=DIR")
    if len(names) < 2:
        raise ConfigError(f"a classifier needs a bundle for each of two classes or more, got {len(names)}")


def require_reachable(scorers: Mapping[str, Scorer], level: float) -> None:
    """Raise ConfigError unless every bundle can give a p-value below the level.

    The least p-value of n calibration images is 1 / (n + 1): if a single bundle cannot go below the level,
    no image is ever labelled "none". At level 0 every bundle passes.
    """
    for name, scorer in scorers.items():
        images = scorer.calibration.scores.size
        if level > 0 and 1 / (1 + images) >= level:
            raise ConfigError(
                f"level={level:g} needs at least {images_needed(level):,} calibration inliers, bundle {name!r} has "
                f"{images:,}, so that no image could be called {NONE!r}. Calibrate on more images, or pass a higher "
                "level, or 0 to give every image a class"
            )


def images_needed(level: float) -> int:
    """Return the least number n of calibration images with 1 / (n + 1) < level.

    Computed with the floating-point division of the p-values.
    """
    needed = inliers_needed(level)
    return needed if 1 / (1 + needed) < level else needed + 1


def z_score(calibration: Calibration, scores: Scores) -> Stats:
    """Standardise scores by the calibration scores' mean and deviation, shape (n,)."""
    away = scores - calibration.scores.mean()
    spread = calibration.scores.std()
    if spread > 0:
        return np.asarray(away / spread)
    return np.where(away == 0, 0.0, np.copysign(np.inf, away))


def largest(p_values: Stats, z_scores: Stats) -> NDArray[np.intp]:
    """Choose each image's class: largest p-value, then lowest z-score, then first.

    Args:
        p_values: A row a class, (k, n).
        z_scores: The same shape; see `z_score`.

    Returns:
        Rows, shape (n,).
    """
    tied = p_values == p_values.max(axis=0)
    ranked = np.where(tied, z_scores, np.inf)
    lowest = tied & (ranked == ranked.min(axis=0))
    return np.asarray(lowest.argmax(axis=0))


def _decided(results: Mapping[str, Result], scorers: Mapping[str, Scorer], level: float) -> Classification:
    names, first = list(results), next(iter(results.values()))
    by_image = zip(*(result.error for result in results.values()), strict=True)
    errors = [next((error for error in of_bundles if error), None) for of_bundles in by_image]
    p_values = np.stack([result.p_value for result in results.values()])  # (k, n)
    z_scores = np.stack([z_score(scorers[name].calibration, result.score) for name, result in results.items()])
    readable = np.array([error is None for error in errors])
    p_values[:, ~readable] = np.nan
    labels: list[str | None] = [None] * len(errors)
    rows = np.flatnonzero(readable)
    for row, chosen in zip(rows.tolist(), largest(p_values[:, rows], z_scores[:, rows]).tolist(), strict=True):
        labels[row] = names[chosen] if p_values[chosen, row] >= level else NONE
    return Classification(first.name, labels, dict(zip(names, p_values, strict=True)), errors)
