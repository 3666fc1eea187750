"""Test of heat maps: the score must fall when the hottest pixels are replaced.

The hottest pixels of an outlier are replaced by those of the normal image that is nearest to it in
feature space, and the outlier is scored anew. If the map points at the cause, the score falls farther
than with the same mask, moved elsewhere, over the same normal image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_od.checks import proportion
from lit_od.errors import DataError
from lit_od.evaluation.intervals import Interval, percentile_interval
from lit_od.types import Images, Scores, Stats

RESAMPLES = 10_000

Masks = NDArray[np.bool_]
"""Masks of pixels to replace, (n, h, w)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pointing:
    """Falls of scores when pixels are replaced.

    Attributes:
        top: Fall of each score with the hottest pixels replaced, (n,).
        elsewhere: The same with the mask moved, (n,).
        difference: Mean of top - elsewhere, with the interval of a paired bootstrap.
    """

    top: Stats
    elsewhere: Stats
    difference: Interval

    def line(self) -> str:
        """Format the means as one line."""
        found = self.difference
        return (
            f"top {self.top.mean():.4g}, elsewhere {self.elsewhere.mean():.4g}, "
            f"difference {found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"
        )


def pointing(
    score: Callable[[Images], Scores],
    outliers: Images,
    maps: NDArray[np.floating],
    normal: Images,
    *,
    rng: np.random.Generator,
    share: float = 0.1,
    level: float = 0.95,
) -> Pointing:
    """Measure how much farther scores fall at the hottest pixels than elsewhere.

    Args:
        score: Prepared images to outlier scores.
        outliers: Prepared images, (n, h, w, c) uint8, n at least 2.
        maps: Their heat maps, (n, h, w).
        normal: A normal image for each, which lends its pixels, (n, h, w, c) uint8.
        rng: Moves the masks, and draws the resamples.
        share: Share of an image's pixels that are replaced, between 0 and 1.
        level: Confidence level of the interval, between 0 and 1.

    Raises:
        ConfigError: If share or level is not between 0 and 1.
        DataError: If the shapes do not fit each other.
    """
    proportion("share", share)
    proportion("level", level)
    if maps.shape != outliers.shape[:3] or normal.shape != outliers.shape or len(maps) < 2:
        raise DataError(
            "wanted at least 2 outliers, a map and a normal image of the same size for each, got "
            f"{outliers.shape}, {maps.shape} and {normal.shape}"
        )
    masks = hottest(maps, share)
    before = score(outliers)
    top = before - score(np.where(masks[..., None], normal, outliers))
    elsewhere = before - score(np.where(moved(masks, rng)[..., None], normal, outliers))
    gaps = top - elsewhere
    draws = np.array([gaps[rng.integers(len(gaps), size=len(gaps))].mean() for _ in range(RESAMPLES)])
    return Pointing(top, elsewhere, percentile_interval(float(gaps.mean()), draws, level))


def hottest(maps: NDArray[np.floating], share: float) -> Masks:
    """Mask the given share of hottest pixels of each map, (n, h, w), at least one."""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(share * flat.shape[1]))
    order = np.argsort(-flat, axis=1, kind="stable")[:, :count]
    masks = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(masks, order, True, axis=1)
    return masks.reshape(maps.shape)


def moved(masks: Masks, rng: np.random.Generator) -> Masks:
    """Shift each mask, with wrap-around, by at least a quarter of each side."""
    _, height, width = masks.shape
    down = rng.integers(height // 4, height - height // 4 + 1, size=len(masks))
    right = rng.integers(width // 4, width - width // 4 + 1, size=len(masks))
    shifts = zip(masks, down.tolist(), right.tolist(), strict=True)
    return np.stack([np.roll(mask, (y, x), axis=(0, 1)) for mask, y, x in shifts])
