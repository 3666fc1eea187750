"""The images of a set that say most about a detector, with explanations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.detectors.base import PixelDetector
from lit_od.errors import DataError
from lit_od.evaluation.image_sets import ImageSet
from lit_od.images.batching import load
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.scoring.drawing import overlay
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SimilarImages
from lit_od.types import Features, Images, Scores

SHOWN = 12
"""Images of a gallery."""

NEIGHBOURS = 3
"""Nearest normal images shown with each image."""

SEARCHED = 2000
"""Largest number of normal images that are searched."""


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """One image of a gallery.

    Attributes:
        name: Name of the image in rows of scores.
        score: Its outlier score.
        p_value: Its p-value.
        image: Prepared pixels, (h, w, c) uint8.
        neighbours: The nearest normal images, nearest first, with their names.
        explained: Reconstruction and heat beside the image, if the detector reads errors.
        heat: The image under its heat, (h, w, 3) uint8, for the most outlying, if the detector reads features.
    """

    name: str
    score: float
    p_value: float
    image: Images
    neighbours: Sequence[tuple[str, Images]] = ()
    explained: Image.Image | None = None
    heat: Images | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """The most and the least outlying images of a set, each from the extreme inwards."""

    name: str
    most: Sequence[Card]
    least: Sequence[Card]


class Normals:
    """Normal images, searched for the nearest to an image."""

    def __init__(self, scorer: Scorer, images: ImageSet) -> None:
        """Run the backbone over at most `SEARCHED` of the images, evenly spread.

        Raises:
            DataError: If one cannot be read, or there is none.
        """
        if not images.sources:
            raise DataError("nearest normal images need normal images, got none")
        self.sources = evenly(images.sources, SEARCHED)
        self.preparation = images.preparation
        self._similar = SimilarImages.of(scorer, self.sources, images.preparation, readable=True)

    def nearest(self, images: Images, outputs: Features, names: Sequence[str]) -> list[list[tuple[str, Images]]]:
        """Find the nearest normal images of each of n images.

        The measure is the distance of features, or that of pixels if the graph has none. An image is not
        its own neighbour: one of the same name is passed over.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            outputs: Outputs of the graph for them, (n, ...).
            names: Names of the images, n of them.
        """
        ids, _ = self._similar.nearest(images, outputs, NEIGHBOURS + 1)
        kept = [
            [row for row in near if self.sources[row].name != name][:NEIGHBOURS]
            for near, name in zip(ids, names, strict=True)
        ]
        rows = sorted({row for each in kept for row in each})
        pixels = dict(zip(rows, load([self.sources[row] for row in rows], self.preparation), strict=True))
        return [[(self.sources[row].name, pixels[row]) for row in each] for each in kept]


def gallery(
    scorer: Scorer, images: ImageSet, scores: Scores, *, maps: HeatMaps, normals: Normals | None = None
) -> Gallery:
    """Collect the `SHOWN` most and least outlying images of a set; each image once.

    Args:
        scorer: A bundle's scorer.
        images: The set.
        scores: Scores of its images, shape (n,).
        maps: Heat maps of the same bundle.
        normals: Normal images to search for neighbours; None shows none.

    Raises:
        DataError: If an image cannot be read any more.
    """
    order = np.argsort(-scores, kind="stable")
    most = order[: min(SHOWN, -(-len(order) // 2))]
    least = order[len(most) :][::-1][:SHOWN]
    return Gallery(
        images.name,
        _cards(scorer, images, scores, most, maps, normals, heated=True),
        _cards(scorer, images, scores, least, maps, normals, heated=False),
    )


def _cards(
    scorer: Scorer,
    images: ImageSet,
    scores: Scores,
    rows: NDArray[np.intp],
    maps: HeatMaps,
    normals: Normals | None,
    *,
    heated: bool,
) -> list[Card]:
    if not len(rows):
        return []
    sources = [images.sources[row] for row in rows]
    parts = _extracted(scorer, sources, images.preparation)
    pixels = np.concatenate([each for each, _ in parts])
    outputs = np.concatenate([each for _, each in parts])
    names = [source.name for source in sources]
    near = [[] for _ in names] if normals is None else normals.nearest(pixels, outputs, names)
    has_maps, nothing = isinstance(scorer.detector, PixelDetector), [None] * len(names)
    explained = [each.picture for each in maps.pictures(pixels)] if has_maps else nothing
    heats = list(overlay(pixels, maps.heats(pixels))) if heated and not has_maps else nothing
    p_values = scorer.calibration.p_values(scores[rows])
    return [
        Card(names[at], float(scores[row]), float(p_values[at]), pixels[at], near[at], explained[at], heats[at])
        for at, row in enumerate(rows)
    ]


def _extracted(scorer: Scorer, sources: Sequence[Source], preparation: Preparation) -> list[tuple[Images, Features]]:
    parts = []
    for found in replace(scorer.extractor, preparation=preparation).outputs(sources):
        found.batch.require_readable()
        parts.append((found.batch.images, found.outputs))
    return parts
