"""Find nearest normal images; the user names them, since a bundle keeps none."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.errors import DataError, ImageError
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import likenesses, similarity_rows
from lit_od.types import Features, Images, Output

NEAREST = 3
"""Normal images shown beside a picture."""

MOST = 1000
"""Largest number of normal images that are kept; of more, evenly spaced ones are taken."""

SIDE = 96
"""Longer side of a small picture, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class NormalImages:
    """Normal images and their small pictures.

    Attributes:
        sources: The readable images.
        pictures: A JPEG of each.
    """

    sources: Sequence[Source]
    pictures: Sequence[bytes]

    @classmethod
    def read(cls, paths: Sequence[str]) -> Self:
        """Read the images that PATHs name; unreadable ones are left out.

        Raises:
            DataError: If fewer than NEAREST can be read.
        """
        found = find(paths)
        chosen = [found[row] for row in np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST)).astype(int))]
        kept, pictures = [], []
        for source in chosen:
            try:
                pictures.append(_small(source))
            except ImageError:
                continue
            kept.append(source)
        if len(kept) < NEAREST:
            raise DataError(f"--normal needs at least {NEAREST} images that can be read, got {len(kept)}")
        return cls(kept, pictures)


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Search for normal images by a bundle's features, or by pixels of small copies.

    Attributes:
        rows: Numbers of the normal images that the bundle can prepare, (m,).
        features: Their rows for comparison, (m, d).
        output: Kind of the bundle's output.
    """

    rows: NDArray[np.int64]
    features: Features
    output: Output

    @classmethod
    def of(cls, normal: NormalImages, scorer: Scorer) -> Self:
        """Compute the rows of normal images for one bundle.

        Raises:
            DataError: If it can prepare fewer than NEAREST.
        """
        rows: list[NDArray[np.int64]] = []
        features: list[Features] = []
        first = 0
        for batch, found in likenesses(scorer, normal.sources, scorer.preparation):
            finite = np.isfinite(found).all(axis=1) if len(found) else np.zeros(0, dtype=bool)
            if finite.any():
                rows.append(first + batch.rows[finite].astype(np.int64))
                features.append(found[finite])
            first += len(batch.sources)
        count = sum(len(each) for each in rows)
        if count < NEAREST:
            raise DataError(f"--normal needs at least {NEAREST} images that the bundle can prepare, got {count}")
        return cls(np.concatenate(rows), np.concatenate(features), scorer.backbone.output)

    def find(self, images: Images, outputs: Features) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the NEAREST normal images to each image, by Euclidean distance.

        Returns:
            Their numbers and distances, nearest first, (n, k) each.
        """
        rows, distances = [], []
        for row in similarity_rows(self.output, images, outputs):  # one at a time: all at once would hold (n, m, d)
            apart = np.linalg.norm((self.features - row).astype(np.float64), axis=1)
            best = np.argsort(apart, kind="stable")[:NEAREST]
            rows.append(self.rows[best])
            distances.append(apart[best])
        return np.stack(rows), np.stack(distances)


def _small(source: Source) -> bytes:
    image = source.decode()
    scale = SIDE / max(image.size)
    size = (max(1, round(image.height * scale)), max(1, round(image.width * scale)))
    file = io.BytesIO()
    Image.fromarray(prepare(image, Preparation(size=size))).save(file, "JPEG", quality=85)
    return file.getvalue()
