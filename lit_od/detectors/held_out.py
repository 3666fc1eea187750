"""Images that fit no member of an ensemble, and set the members' scales."""

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.row_store import row_ranks
from lit_od.detectors.patch_maps import PatchDetector
from lit_od.detectors.state import SMALLEST
from lit_od.errors import DataError

GROUP = 5
"""One image of each group of so many consecutive ones is held out."""


def is_held(rows: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return True for the images, by number (n,), that set the scales."""
    chosen = row_ranks(seed, (rows // GROUP).astype(np.uint64)) % np.uint64(GROUP)
    held: NDArray[np.bool_] = chosen.astype(np.int64) == rows % GROUP
    return held


def fitted_before(row: int, seed: int) -> int:
    """Return the number of images before this one that fit the members."""
    group = row - row % GROUP
    return group - group // GROUP + int((~is_held(np.arange(group, row), seed)).sum())


def scale_of(member: PatchDetector, held: NDArray[np.float32]) -> tuple[float, float]:
    """Return the shift and the scale of a member's cells.

    Args:
        member: The fitted member.
        held: Patches of images that it was not fitted on, (m, gh, gw, d).

    Raises:
        DataError: If they do not vary.
    """
    cells = np.concatenate([member.cells(held[row : row + 1]).ravel() for row in range(len(held))]).astype(np.float64)
    low, median, high = (float(each) for each in np.percentile(cells, (25, 50, 75)))
    shift, scale = (0.0, median) if member.is_distance else (median, high - low)
    if not scale > SMALLEST:
        raise DataError(
            f"member {member.kind} gives {len(held)} held-out images no scale: half of their patches score {median:g}. "
            "Leave it out, or pass more images"
        )
    return shift, scale
