"""Regions: connected parts of a map above the threshold for pixels.

Pixels that touch by a side or a corner are connected. Runs of pixels along rows are joined where they touch, which is
exact, and fast where few pixels are above the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_od.images.geometry import Box, Geometry
from lit_od.images.preparation import Preparation
from lit_od.types import Maps


@dataclass(frozen=True, slots=True)
class Region:
    """A connected part of an image that stands out.

    Attributes:
        box: Left, top, right and bottom in pixels; right and bottom are excluded.
        area: Number of its pixels.
        peak: Largest value of the map in it.
        at: x and y of the pixel where the map has that value.
    """

    box: Box
    area: int
    peak: float
    at: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Runs:
    """A mask as runs of neighbouring pixels along rows, in reading order.

    Attributes:
        row: Row of each, shape (r,).
        start: First column of each, shape (r,).
        stop: Column behind the last of each, shape (r,).
        label: Region of each, from 0 in the order of their first runs, shape (r,).
    """

    row: NDArray[np.intp]
    start: NDArray[np.intp]
    stop: NDArray[np.intp]
    label: NDArray[np.intp]


def above(maps: Maps, threshold: float) -> NDArray[np.bool_]:
    """Return True for values above a threshold, compared in float64 as scores are."""
    found: NDArray[np.bool_] = maps > np.float64(threshold)
    return found


def label_runs(mask: NDArray[np.bool_]) -> Runs:
    """Find the 8-connected regions of a mask.

    Args:
        mask: Shape (h, w).

    Returns:
        All runs of true pixels, labelled.
    """
    height, width = mask.shape
    step = width + 1  # a false column parts the rows
    flat = np.zeros(1 + height * step, dtype=np.int8)
    flat[1:].reshape(height, step)[:, :width] = mask
    edges = np.flatnonzero(np.diff(flat))
    start, stop = edges[::2], edges[1::2]
    # runs of the row before that touch each run; those of other rows are too far away by at least one pixel
    first = np.searchsorted(stop + step, start, side="left")
    count = np.searchsorted(start + step, stop, side="right") - first
    below = np.repeat(np.arange(len(start)), count)
    offset = np.arange(len(below)) - np.repeat(np.cumsum(count) - count, count)
    label = _components(len(start), below, np.repeat(first, count) + offset)
    row = start // step
    return Runs(row, start - row * step, stop - row * step, label)


def find_regions(one: Maps, threshold: float) -> list[Region]:
    """Find the regions of a map, the largest peak first.

    Args:
        one: A map, shape (h, w).
        threshold: Pixels above it belong to regions.

    Returns:
        Regions in pixels of the map.
    """
    mask = above(one, threshold)
    if not mask.any():
        return []
    runs = label_runs(mask)
    lengths, regions = runs.stop - runs.start, int(runs.label.max()) + 1
    area = np.bincount(runs.label, weights=lengths).astype(np.intp)
    left, top = (np.full(regions, max(one.shape)) for _ in range(2))
    right, bottom = (np.zeros(regions, np.intp) for _ in range(2))
    np.minimum.at(left, runs.label, runs.start)
    np.minimum.at(top, runs.label, runs.row)
    np.maximum.at(right, runs.label, runs.stop)
    np.maximum.at(bottom, runs.label, runs.row + 1)
    places, labels = np.flatnonzero(mask), np.repeat(runs.label, lengths)
    values = one.reshape(-1)[places]
    order = np.lexsort((places, -values, labels))  # of equal peaks the first in reading order
    best = order[np.r_[True, np.diff(labels[order]) > 0]]
    found = []
    for at in np.argsort(-values[best], kind="stable").tolist():
        y, x = divmod(int(places[best[at]]), one.shape[1])
        box = (int(left[at]), int(top[at]), int(right[at]), int(bottom[at]))
        found.append(Region(box, int(area[at]), float(values[best[at]]), (x, y)))
    return found


def carried(regions: Sequence[Region], geometry: Geometry, preparation: Preparation) -> list[Region]:
    """Carry regions of a prepared image to the pixels of the image as it was given.

    Args:
        regions: Regions in pixels of the prepared image.
        geometry: The image's own.
        preparation: Its preparation.

    Returns:
        The same regions, boxes rounded outwards, areas multiplied by the pixels of the image to a prepared one.
    """
    scale = geometry.scale(preparation) if regions else 1.0
    return [
        Region(
            geometry.box(each.box, preparation),
            max(1, round(each.area * scale)),
            each.peak,
            geometry.pixel(*each.at, preparation),
        )
        for each in regions
    ]


def _components(count: int, one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find the connected components of a graph, in the order of their first nodes.

    Args:
        count: Number of nodes.
        one: A node of each edge, shape (e,).
        other: The other node of each edge, shape (e,).

    Returns:
        Number of the component of each node, shape (count,).
    """
    root = np.arange(count)
    while True:
        low, high = np.minimum(root[one], root[other]), np.maximum(root[one], root[other])
        differ = low < high
        if not differ.any():
            break
        np.minimum.at(root, high[differ], low[differ])
        while (root[root] != root).any():
            root = root[root]
    numbers: NDArray[np.intp] = np.unique(root, return_inverse=True)[1].astype(np.intp)
    return numbers
