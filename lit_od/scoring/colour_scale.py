"""The colours of a bundle's maps: values to heat, and heat to colours."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lit_od.types import Images, Maps, Stats

AT_THRESHOLD = 0.5
"""Heat of a value at the threshold."""

TOP = 16
"""Heights of the threshold above the normal value at which the colours end."""

STEPS = ((0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70), (237, 105, 37),
         (251, 155, 6), (247, 209, 61), (252, 255, 164))  # fmt: skip
"""Ten evenly spaced colours of Matplotlib's "inferno", which has even steps of perceived lightness, also in grey."""


@dataclass(frozen=True, slots=True)
class ColourScale:
    """A scale that brings a bundle's map values to heat in [0, 1]; it never falls.

    Heat is 0 up to the normal value, and rises evenly to `AT_THRESHOLD` at the threshold. Above it each doubling of the
    height over the normal value adds the same, so that strong outliers still differ; `TOP` heights are 1. Where the
    threshold is not above the normal value, heat is 1 above it and 0 elsewhere.

    Attributes:
        normal: Median value of a normal map.
        threshold: Value above which a pixel stands out.
    """

    normal: float
    threshold: float

    @classmethod
    def of_maps(cls, maps: Maps, threshold: float, *, least: float = -math.inf) -> Self:
        """Make the scale of normal images' maps.

        Args:
            maps: Their maps, (n, h, w).
            threshold: Value above which a pixel stands out.
            least: Least normal value, for maps that say what lowers the score too.
        """
        # the median image too, since the format of a golden image can distort its map
        middle = float(np.median(np.median(maps.astype(np.float64), axis=(1, 2))))
        return cls(max(middle, least), float(threshold))

    @property
    def height(self) -> float:
        """Height of the threshold above the normal value; 0 where it is not above it."""
        return max(self.threshold - self.normal, 0.0)

    def heat(self, values: Maps) -> Stats:
        """Return the heat of values, in their shape."""
        if not self.height:
            return np.asarray(values > self.threshold, dtype=np.float64)
        with np.errstate(over="ignore"):  # a tiny height
            heights = np.maximum(values.astype(np.float64) - self.normal, 0.0) / self.height
        above = np.log(np.clip(heights, 1.0, TOP)) / np.log(TOP)
        found: Stats = AT_THRESHOLD * np.minimum(heights, 1.0) + (1 - AT_THRESHOLD) * above
        return found

    def marks(self) -> list[tuple[float, float, str]]:
        """List heat, value and name of the marks beside a bar of colours.

        They rise; those above the threshold have no name.
        """
        if not self.height:
            return [(AT_THRESHOLD, self.threshold, "threshold")]
        heights = [0.0, *(2.0**power for power in range(int(np.log2(TOP)) + 1))]
        values = self.normal + np.array(heights) * self.height
        values[1] = self.threshold
        names = ["normal", "threshold", *[""] * (len(heights) - 2)]
        return list(zip(self.heat(values).tolist(), values.tolist(), names, strict=True))


def colours(heats: Stats) -> Images:
    """Map heats in [0, 1] to colours, shape (..., 3), uint8."""
    steps = np.array(STEPS, dtype=np.float64)  # (k, 3)
    places = np.linspace(0, 1, len(steps))
    mixed: NDArray[np.float64] = np.stack([np.interp(heats, places, channel) for channel in steps.T], axis=-1)
    found: Images = np.rint(mixed).astype(np.uint8)
    return found
