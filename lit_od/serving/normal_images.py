"""Normal images shown beside a picture: a bundle keeps none, the user names them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from PIL import Image

from lit_od.errors import DataError, ImageError
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SimilarImages

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
        kept, pictures = [], []
        for source in evenly(find(paths), MOST):
            try:
                pictures.append(_small(source))
            except ImageError:
                continue
            kept.append(source)
        if len(kept) < NEAREST:
            raise DataError(f"--normal needs at least {NEAREST} images that can be read, got {len(kept)}")
        return cls(kept, pictures)


def similar_images(normal: NormalImages, scorer: Scorer) -> SimilarImages:
    """Prepare normal images for a bundle to compare.

    Raises:
        DataError: If it can prepare fewer than NEAREST.
    """
    found = SimilarImages.of(scorer, normal.sources, scorer.preparation)
    if len(found.places) < NEAREST:
        raise DataError(
            f"--normal needs at least {NEAREST} images that the bundle can prepare, got {len(found.places)}"
        )
    return found


def _small(source: Source) -> bytes:
    image = source.decode()
    scale = SIDE / max(image.size)
    size = (max(1, round(image.height * scale)), max(1, round(image.width * scale)))
    file = io.BytesIO()
    Image.fromarray(prepare(image, Preparation(size=size))).save(file, "JPEG", quality=85)
    return file.getvalue()
