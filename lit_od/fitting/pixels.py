"""The threshold for pixels, from maps of calibration inliers."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lit_od.calibration.p_values import Calibration
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.reconstruction import PIXEL_PERCENT, pixel_threshold
from lit_od.fitting.engine import Engine
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.types import Maps

PIXELS = 2**24
"""Most pixels of calibration images that give the threshold for pixels: 128 MiB of scores."""


def pixel_rows(detector: Detector, images: int, *, pixels: int) -> NDArray[np.intp] | None:
    """Return the numbers of the images whose maps give the threshold for pixels.

    All of them for maps of patches; of errors as many, evenly spread, as `PIXELS` allows.

    Args:
        detector: The fitted detector.
        images: Number of calibration inliers.
        pixels: Number of pixels of a prepared image.

    Returns:
        None where no map is needed: there are none, or an image's score is its map's peak.
    """
    if not isinstance(detector, PixelDetector) or detector.score_is_peak:
        return None
    if detector.reads == "patches":
        return np.arange(images)
    return np.array(evenly(range(images), max(1, PIXELS // pixels)))


def maps_for_pixels(engine: Engine, detector: Detector, images: Sequence[Source]) -> Maps | None:
    """Return what is kept of the maps of calibration inliers that were held out.

    Args:
        engine: The processes that score.
        detector: The fitted detector.
        images: The calibration inliers.

    Returns:
        Those of the images of `pixel_rows`; None without them, and where this process does not lead.
    """
    rows = pixel_rows(detector, len(images), pixels=math.prod(engine.extractor.preparation.size))
    if rows is None or not isinstance(detector, PixelDetector):
        return None
    kept = list(engine.maps(detector, [images[row] for row in rows]))
    return np.concatenate(kept) if kept else None


def with_peaks(calibration: Calibration, detector: Detector, kept: Maps | None) -> Calibration:
    """Return the calibration with the peaks of maps of patches, where it needs them.

    Args:
        calibration: The calibration of scores.
        detector: The fitted detector.
        kept: Results of `engine.keep_of_maps` for the images of `pixel_rows`; None where there are none.
    """
    if kept is None or detector.reads != "patches":
        return calibration
    return replace(calibration, peaks=np.sort(kept.astype(np.float64)))


def threshold_for_pixels(detector: Detector, calibration: Calibration, kept: Maps | None) -> float | None:
    """Return the threshold for pixels; None without maps.

    It is that for images where an image's score is the peak of its map. For other maps of patches the same rule takes
    it from the peaks of the calibration inliers' maps. Of errors it is what 99 % of the pixels do not exceed.

    Args:
        detector: The fitted detector.
        calibration: The calibration of scores, with peaks where there are some.
        kept: Results of `engine.keep_of_maps` for the images of `pixel_rows`; None where there are none.
    """
    if isinstance(detector, PixelDetector) and detector.score_is_peak:
        return calibration.threshold
    if detector.reads == "patches":
        return calibration.of_peaks()
    if kept is not None and isinstance(detector, PixelDetector) and (counted := detector.counted) is not None:
        kept = kept[:, counted][:, None]
    return None if kept is None else pixel_threshold(kept, q=PIXEL_PERCENT)
