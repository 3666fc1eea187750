"""Split normal images into a fit part and a calibration part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import ConfigError, DataError

T = TypeVar("T")

CALIBRATION_SHARE = 0.2

VALIDATION_SHARE = 0.25
"""Share of the images that do not calibrate by which choices are made: 60 / 20 / 20 in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Subset(Sequence[T]):
    """Lazy subset of a sequence: eight bytes a row until an item is needed.

    Attributes:
        whole: The sequence.
        rows: Row numbers in it, ascending, shape (n,).
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


def evenly(sequence: Sequence[T], most: int) -> list[T]:
    """Return at most so many elements of a sequence, evenly spread, in their order.

    Args:
        sequence: The elements; of none there is no sample.
        most: Most elements to return, at least 1.
    """
    rows = np.unique(np.linspace(0, len(sequence) - 1, min(most, len(sequence))).astype(int))
    return [sequence[row] for row in rows.tolist()]


def fit_and_calibration(
    sources: Sequence[T], *, seed: int, share: float = CALIBRATION_SHARE
) -> tuple[list[T], list[T]]:
    """Split as `fit_and_calibration_parts`, into lists.

    Args:
        sources: Normal images.
        seed: Seed of the split, at least 0.
        share: Share of the images that calibrate, in (0, 1).

    Returns:
        The fit part and the calibration part.

    Raises:
        ConfigError: If the share is outside (0, 1), or the seed is negative.
        DataError: If there are fewer than 3 images.
    """
    fit, calibration = fit_and_calibration_parts(sources, seed=seed, share=share)
    return list(fit), list(calibration)


def fit_and_calibration_parts(
    sources: Sequence[T], *, seed: int, share: float = CALIBRATION_SHARE
) -> tuple[Subset[T], Subset[T]]:
    """Split images at random by a seed; both parts keep the images' order.

    Args:
        sources: Normal images.
        seed: Seed of the split, at least 0; seed and number of images alone decide the split.
        share: Share of the images that calibrate, in (0, 1), rounded to a whole number and at least one.

    Returns:
        The fit part and the calibration part.

    Raises:
        ConfigError: If the share is outside (0, 1), or the seed is negative.
        DataError: If there are fewer than 3 images: two fit, one calibrates.
    """
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    held_out = held_out_images(len(sources), share=share)
    if not held_out:
        raise DataError(
            f"wanted at least 3 normal images (two fit, one calibrates), got {len(sources)}: pass more images, or give "
            "calibration.method cross"
        )
    calibrates = np.zeros(len(sources), dtype=bool)
    calibrates[np.random.default_rng(seed).permutation(len(sources))[:held_out]] = True
    return Subset(sources, np.flatnonzero(~calibrates)), Subset(sources, np.flatnonzero(calibrates))


def held_out_images(images: int, *, share: float = CALIBRATION_SHARE) -> int:
    """Return the number of images that a share holds out.

    It is 0 of fewer than 3 images, two of which fit.

    Args:
        images: Number of all images.
        share: Share of them, in (0, 1).

    Raises:
        ConfigError: If the share is outside (0, 1).
    """
    if not 0 < share < 1:
        raise ConfigError(f"the calibration share must lie in (0, 1), got {share:g}")
    return max(0, min(max(1, round(share * images)), images - 2))


def fit_validation_calibration(sources: Sequence[T], *, seed: int) -> tuple[Subset[T], Subset[T], Subset[T]]:
    """Split images by a seed, 60 / 20 / 20; the parts keep the images' order.

    Args:
        sources: Normal images.
        seed: Seed of the split, at least 0; the calibration part is that of `fit_and_calibration_parts`.

    Returns:
        The parts that fit, by which choices are made, and that calibrate.

    Raises:
        ConfigError: If the seed is negative.
        DataError: If there are fewer than 4 images.
    """
    if len(sources) < 4:
        raise DataError(f"wanted at least 4 normal images (two fit, one validates, one calibrates), got {len(sources)}")
    rest, calibration = fit_and_calibration_parts(sources, seed=seed)
    fit, validation = fit_and_calibration_parts(rest, seed=seed, share=VALIDATION_SHARE)
    return fit, validation, calibration
