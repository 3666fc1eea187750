"""Divide normal images into those that fit a detector and those that calibrate it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError

T = TypeVar("T")

CALIBRATION_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Subset(Sequence[T]):
    """Some of a sequence's images, each made when it is asked for: eight bytes an image, whatever it is.

    Attributes:
        whole: The sequence.
        rows: Their numbers in it, ascending, shape (n,).
    """

    whole: Sequence[T]
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[T]:
        return (self.whole[int(row)] for row in self.rows)

    @overload
    def __getitem__(self, row: int) -> T: ...

    @overload
    def __getitem__(self, row: slice) -> "Subset[T]": ...

    def __getitem__(self, row: int | slice) -> "T | Subset[T]":
        if isinstance(row, slice):
            return Subset(self.whole, self.rows[row])
        return self.whole[int(self.rows[row])]


def fit_and_calibration(
    sources: Sequence[T], *, seed: int, share: float = CALIBRATION_SHARE
) -> tuple[list[T], list[T]]:
    """The parts of `fit_and_calibration_parts`, each image in memory."""
    fit, calibration = fit_and_calibration_parts(sources, seed=seed, share=share)
    return list(fit), list(calibration)


def fit_and_calibration_parts(
    sources: Sequence[T], *, seed: int, share: float = CALIBRATION_SHARE
) -> tuple[Subset[T], Subset[T]]:
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
    return Subset(sources, np.flatnonzero(~calibrates)), Subset(sources, np.flatnonzero(calibrates))
