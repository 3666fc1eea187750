"""Divide normal images into those that fit a detector and those that calibrate it."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from lit_od.errors import ConfigError, DataError

T = TypeVar("T")

CALIBRATION_SHARE = 0.2


def fit_and_calibration(
    sources: Sequence[T], *, seed: int, share: float = CALIBRATION_SHARE
) -> tuple[list[T], list[T]]:
    """A seeded split; both parts keep the order in which the images came.

    Args:
        sources: Normal images.
        seed: The split is a function of it and of the number of images alone.
        share: Share of the images that calibrate, rounded to a whole number and at least one.

    Raises:
        ConfigError: If the share is outside (0, 1), or the seed is negative.
        DataError: If there are fewer than 3 images: two fit, one calibrates.
    """
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    if not 0 < share < 1:
        raise ConfigError(f"the calibration share must lie in (0, 1), got {share:g}")
    if len(sources) < 3:
        raise DataError(f"wanted at least 3 normal images (two fit, one calibrates), got {len(sources)}")
    held_out = min(max(1, round(share * len(sources))), len(sources) - 2)
    calibrates = np.zeros(len(sources), dtype=bool)
    calibrates[np.random.default_rng(seed).permutation(len(sources))[:held_out]] = True
    fit = [source for source, held in zip(sources, calibrates, strict=True) if not held]
    return fit, [source for source, held in zip(sources, calibrates, strict=True) if held]
