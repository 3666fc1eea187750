"""A check that a graph's rows do not depend on each other.

Dynamic quantisation and batch normalisation in training mode compute scales over the whole batch: an image alone gets
another score than among others, which a comparison of equal batches does not show.
"""

import numpy as np

from lit_od.backbone.model import Backbone
from lit_od.errors import BackboneError
from lit_od.types import Features, Images

TOLERANCE = 1e-5
"""Largest max |a - b| / max |a| of an image's outputs beside others, at one place of batches of one size, where a graph
whose rows are independent computes the same to the bit."""

SIZE_TOLERANCE = 1e-3
"""The same between an image alone and in a batch: rounding differs with the size, most on GPUs that take TF32."""

IMAGES = 3
"""Images that are tried."""


def require_independent(backbone: Backbone, images: Images) -> None:
    """Check that images have the same outputs alone and beside different images.

    Args:
        backbone: The graph.
        images: Prepared images, (n, h, w, c) uint8, n at least 1; the first `IMAGES` are tried.

    Raises:
        BackboneError: If the outputs of one differ by more than `TOLERANCE` or `SIZE_TOLERANCE`, relative.
    """
    images = images[:IMAGES]
    alone = np.concatenate([backbone(image[None]) for image in images])
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    beside, *others = (
        backbone(np.concatenate([images, company]))[: len(images)]
        for company in (255 - images, noise, *(np.full_like(images, level) for level in (0, 128, 255)))
    )
    behind = backbone(np.concatenate([noise, images]))[len(images) :]
    gap = max(relative_gap(beside, other) for other in others)
    size_gap = max(relative_gap(alone, other) for other in (beside, behind))
    if not (gap <= TOLERANCE and size_gap <= SIZE_TOLERANCE):
        raise BackboneError(
            "the graph's output for an image must not depend on the other images of its batch: it differs by "
            f"{gap:.2g} relative beside other images, at most {TOLERANCE:g} is allowed, and by {size_gap:.2g} from the "
            f"image alone, at most {SIZE_TOLERANCE:g}. Use a graph without dynamic quantisation, and with batch "
            "normalisation in evaluation mode (track_running_stats=True)"
        )


def relative_gap(wanted: Features, got: Features) -> float:
    """Return max |a - b| / max |a|.

    It is infinite where one is finite and the other is not.

    Args:
        wanted: Outputs a, shape (n, ...).
        got: Outputs b of the same images, the same shape.
    """
    finite = np.isfinite(wanted)
    if (finite != np.isfinite(got)).any():
        return float("inf")
    gap = float(np.abs(wanted[finite] - got[finite]).max(initial=0.0))
    return gap / max(float(np.abs(wanted[finite]).max(initial=0.0)), 1e-30)
