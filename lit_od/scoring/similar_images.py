"""Find the nearest normal images, by features or by the pixels of small copies.

The measure is the Euclidean distance, for all who show nearest images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lit_od.images.batching import Batch, batches
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Scorer
from lit_od.types import Features, Images, Output, Stats

SIDE = 32
"""Longest side of the small copies, in pixels."""

BATCH_SIZE = 64
"""Images that are prepared at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class SimilarImages:
    """Normal images to look for the nearest among.

    Attributes:
        places: Positions, among all images, of those that can be compared, (m,).
        rows: Their features, or the pixels of small copies where the graph gives no features, (m, d).
        output: Output of the graph.
    """

    places: NDArray[np.int64]
    rows: Features
    output: Output

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        sources: Sequence[Source],
        preparation: Preparation,
        *,
        readable: bool = False,
    ) -> Self:
        """Run images through a bundle's backbone.

        Those without finite features are left out.

        Args:
            scorer: A bundle, ready; where its graph gives no features, it is not run.
            sources: The normal images.
            preparation: Their preparation.
            readable: Refuse images that cannot be read instead of leaving them out.

        Raises:
            DataError: If images must be readable, and one is not.
        """
        by_features = scorer.backbone.output == "features"
        places: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        rows: list[Features] = []
        first = 0
        small = preparation.for_image((SIDE, SIDE))  # large images are not held whole
        stream: Iterable[tuple[Batch, Features | None]] = (
            ((each.batch, each.outputs) for each in replace(scorer.extractor, preparation=preparation).outputs(sources))
            if by_features
            else zip(batches(sources, small, batch_size=BATCH_SIZE, threads=scorer.threads), repeat(None))
        )
        for batch, found in stream:
            if readable:
                batch.require_readable()
            if len(batch.images):
                each = small_pixels(batch.images) if found is None else found
                finite = np.isfinite(each).all(axis=1)
                places.append(first + batch.rows[finite].astype(np.int64))
                rows.append(each[finite])
            first += len(batch.sources)
        known = np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)
        return cls(np.concatenate(places), known, scorer.backbone.output)

    def nearest(self, images: Images, outputs: Features, count: int) -> tuple[NDArray[np.int64], Stats]:
        """Find the nearest normal images of each image, nearest first.

        Args:
            images: Prepared images, (n, h, w, c) uint8, n at least 1.
            outputs: Output of the graph for them, (n, ...).
            count: Normal images to find for each, at most as many as there are.

        Returns:
            Their positions and distances, (n, count) each.
        """
        queries = outputs if self.output == "features" else small_pixels(images)
        rows, distances = nearest_rows(queries, self.rows, count)
        return self.places[rows], distances


def nearest_rows(rows: Features, bank: Features, count: int) -> tuple[NDArray[np.int64], Stats]:
    """Find the nearest rows of a bank for each row, nearest first.

    Args:
        rows: Shape (n, d), n at least 1.
        bank: Shape (m, d).
        count: Rows to find for each, at most m.

    Returns:
        Their numbers and Euclidean distances, shape (n, count) each.
    """
    found = []
    for row in rows:  # one at a time: all at once would hold (n, m, d)
        distances = np.linalg.norm((bank - row).astype(np.float64), axis=1)
        best = np.argsort(distances, kind="stable")[:count]
        found.append((best, distances[best]))
    return np.stack([best for best, _ in found]), np.stack([distances for _, distances in found])


def small_pixels(images: Images) -> Features:
    """Shrink images to at most `SIDE` a side; return their pixels in [0, 1], (n, d).

    So few pixels suffice to find similar images (Torralba, Fergus and Freeman, 80 Million Tiny Images, 2008).

    Args:
        images: At least one, (n, h, w, c) uint8.
    """
    height, width, channels = images.shape[1:]
    small = Preparation(size=(min(height, SIDE), min(width, SIDE)), mode="grey" if channels == 1 else "rgb")
    pixels = np.stack([prepare(image, small) for image in images])
    return pixels.reshape(len(images), -1).astype(np.float32) / 255
