"""Images that fit no member of an ensemble, and set the members' scales."""

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.row_store import row_ranks
from lit_od.detectors.base import Detector
from lit_od.detectors.state import SMALLEST
from lit_od.errors import DataError
from lit_od.types import Stats

GROUP = 5
"""One image of each group of so many consecutive ones is held out."""


def is_held(rows: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return True for the images, by number (n,), that set the scales."""
    chosen = row_ranks(seed, (rows // GROUP).astype(np.uint64)) % np.uint64(GROUP)
    held: NDArray[np.bool_] = chosen.astype(np.int64) == rows % GROUP
    return held


def fitted_before(row: int, seed: int, views: int = 1) -> int:
    """Return the number of rows before this one that fit the members.

    Args:
        row: Number of the row.
        seed: Seed of the choice.
        views: Consecutive rows that are views of one image.
    """
    image, view = divmod(row, views)
    group = image - image % GROUP
    images = group - group // GROUP + int((~is_held(np.arange(group, image), seed)).sum())
    return images * views + (0 if is_held(np.array([image]), seed)[0] else view)


def scale_of(member: Detector, scores: Stats, *, images: int) -> tuple[float, float]:
    """Return the shift and the scale of a member's scores.

    Args:
        member: The fitted member.
        scores: Its scores of images that it was not fitted on, or of their cells, shape (m,).
        images: Number of these images.

    Raises:
        DataError: If they do not vary.
    """
    low, median, high = (float(each) for each in np.percentile(scores, (25, 50, 75)))
    shift, scale = (0.0, median) if member.is_distance else (median, high - low)
    if not scale > SMALLEST:
        raise DataError(
            f"member {member.kind} gives {images} held-out images no scale: half of their scores are {median:g}. "
            "Leave it out, or pass more images"
        )
    return shift, scale
