"""The images of a set that say most about a detector, with explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError
from lit_od.evaluation.image_sets import ImageSet
from lit_od.images.batching import load
from lit_od.images.geometry import Box
from lit_od.images.ground_truth import GroundTruth
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.scoring.drawing import outline, overlay
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.regions import Region, above, find_regions
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SimilarImages
from lit_od.types import Features, Images, Maps, Scores

SHOWN = 12
"""Images of a gallery."""

NEIGHBOURS = 3
"""Nearest normal images shown with each image."""

SEARCHED = 2000
"""Largest number of normal images that are searched."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownRegions:
    """Regions of an image, as they are drawn over its prepared pixels.

    Attributes:
        found: Regions in the image's own pixels, the largest peak first.
        boxes: Their boxes in prepared pixels.
        outline: Lines around them, x and y of both ends in corners of prepared pixels, (k, 4).
    """

    found: Sequence[Region]
    boxes: Sequence[Box]
    outline: NDArray[np.intp]

    @classmethod
    def of(cls, one: Maps, found: Sequence[Region], threshold: float) -> "ShownRegions":
        """Find the boxes and the outline of an image's regions.

        Args:
            one: The image's map, (h, w).
            found: All its regions in its own pixels.
            threshold: Pixels above it belong to regions.
        """
        boxes = [region.box for region in find_regions(one, threshold)]
        return cls(found, boxes, outline(above(one, threshold)))


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """One image of a gallery.

    Attributes:
        name: Name of the image in rows of scores.
        score: Its outlier score.
        p_value: Its p-value.
        image: Prepared pixels, (h, w, c) uint8.
        neighbours: The nearest normal images, nearest first, with their names.
        views: Pictures beside it by title: its reconstruction and its heat, (h, w, c) uint8, and the mask of its
            defects, (h, w) bool, as far as there are any. Without maps only the most outlying have heat.
        regions: Its regions; None if the detector has no maps.
    """

    name: str
    score: float
    p_value: float
    image: Images
    neighbours: Sequence[tuple[str, Images]] = ()
    views: Mapping[str, NDArray[np.uint8] | NDArray[np.bool_]] = field(default_factory=dict)
    regions: ShownRegions | None = None


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


@dataclass(frozen=True, slots=True, eq=False)
class Galleries:
    """A maker of galleries.

    Attributes:
        scorer: A bundle's scorer.
        maps: Heat maps of the same bundle.
        normals: Normal images to search for neighbours; None shows none.
        truth: Masks of defective images; None where there are none.
    """

    scorer: Scorer
    maps: HeatMaps
    normals: Normals | None = None
    truth: GroundTruth | None = None

    def gallery(self, images: ImageSet, scores: Scores) -> Gallery:
        """Collect the `SHOWN` most and least outlying images of a set; each image once.

        Args:
            images: The set.
            scores: Scores of its images, shape (n,).

        Raises:
            DataError: If an image cannot be read any more, or a mask cannot be read.
        """
        order = np.argsort(-scores, kind="stable")
        most = order[: min(SHOWN, -(-len(order) // 2))]
        least = order[len(most) :][::-1][:SHOWN]
        return Gallery(
            images.name,
            self._cards(images, scores, most, heated=True),
            self._cards(images, scores, least, heated=False),
        )

    def _cards(self, images: ImageSet, scores: Scores, rows: NDArray[np.intp], *, heated: bool) -> list[Card]:
        sources = [images.sources[row] for row in rows]
        cards: list[Card] = []
        scorer = replace(self.scorer, extractor=replace(self.scorer.extractor, preparation=images.preparation))
        p_values = scorer.calibration.p_values(scores[rows])
        for result, found in scorer.stream_outputs(sources, maps=True):
            found.require_sound()
            pixels, names = found.batch.images, result.name
            near = [[] for _ in names] if self.normals is None else self.normals.nearest(pixels, found.outputs, names)
            views = self._views(pixels, result.maps, heated=heated or result.maps is not None)
            for row, source in enumerate(found.batch.sources):
                own = {title: pictures[row] for title, pictures in views.items()}
                if (mask := self._mask(source, images.preparation)) is not None:
                    own["truth"] = mask
                regions, limit = None, scorer.pixel_threshold
                if result.maps is not None and result.regions is not None and limit is not None:
                    regions = ShownRegions.of(result.maps[row], result.regions[row], limit)
                score, p_value = float(scores[rows[len(cards)]]), float(p_values[len(cards)])
                cards.append(Card(source.name, score, p_value, pixels[row], near[row], own, regions))
        return cards

    def _views(self, pixels: Images, maps: Maps | None, *, heated: bool) -> dict[str, Images]:
        """Draw reconstructions and heats, as far as there are any, (n, h, w, c) each."""
        views = {}
        if (reconstructed := self.maps.reconstructed(pixels)) is not None:
            views["reconstruction"] = reconstructed
        if heated:
            views["map"] = overlay(pixels, self.maps.heats(pixels, maps))
        return views

    def _mask(self, source: Source, preparation: Preparation) -> NDArray[np.bool_] | None:
        masks = [] if self.truth is None else self.truth.masks(source, preparation)
        return np.any([each.pixels for each in masks], axis=0) if masks else None
