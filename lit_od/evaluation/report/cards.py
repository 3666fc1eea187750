"""The images of a set that say most about a detector, with explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lit_od.errors import DataError, ImageError
from lit_od.evaluation.image_sets import ImageSet
from lit_od.images.geometry import Box
from lit_od.images.ground_truth import GroundTruth
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.scoring.drawing import outline, overlay, reduced, reduced_maps, reduction
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.regions import Region, above, find_regions
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SimilarImages
from lit_od.types import Features, Images, Maps, Scores

SHOWN = 12
"""Images of a gallery."""

NEIGHBOURS = 3
"""Nearest normal images shown with each image."""

MOST_SIDE = 1024
"""Pixels a side of a picture; larger images are reduced."""

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
    def of(cls, one: Maps, found: Sequence[Region], threshold: float, factor: int = 1) -> "ShownRegions":
        """Find the boxes and the outline of an image's regions.

        Args:
            one: The image's map, (h, w).
            found: All its regions in its own pixels.
            threshold: Pixels above it belong to regions.
            factor: The picture is reduced by it.
        """
        boxes: list[Box] = []
        for left, top, right, bottom in (region.box for region in find_regions(one, threshold)):
            boxes.append((left // factor, top // factor, -(-right // factor), -(-bottom // factor)))
        return cls(found, boxes, outline(reduced_maps(above(one, threshold)[None], factor)[0]))


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


def small_picture(source: Source, preparation: Preparation) -> Images:
    """Return an image's prepared pixels, at most `MOST_SIDE` a side.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        pixels = source.prepare(preparation)
    except ImageError as error:
        raise DataError(f"{source.name}: {error}. Take it out (lit-od check lists such files)") from None
    shown: Images = reduced(pixels[None], reduction(pixels.shape[:2], MOST_SIDE))[0]
    return shown


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
        pixels = {row: small_picture(self.sources[row], self.preparation) for row in rows}
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
            names, factor = result.name, reduction(found.batch.images.shape[1:3], MOST_SIDE)
            pixels = reduced(found.batch.images, factor)
            maps = None if result.maps is None else reduced_maps(np.asarray(result.maps), factor)
            near = [[] for _ in names] if self.normals is None else self.normals.nearest(pixels, found.outputs, names)
            views = self._views(pixels, maps, heated=heated or maps is not None)
            for row, source in enumerate(found.batch.sources):
                own = {title: pictures[row] for title, pictures in views.items()}
                if (mask := self._mask(source, images.preparation)) is not None:
                    own["truth"] = mask
                regions, limit = None, scorer.pixel_threshold
                if result.maps is not None and result.regions is not None and limit is not None:
                    regions = ShownRegions.of(result.maps[row], result.regions[row], limit, factor)
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
        if not masks:
            return None
        mask = np.any([each.pixels for each in masks], axis=0)
        shown: NDArray[np.bool_] = reduced_maps(mask[None], reduction(mask.shape, MOST_SIDE))[0]
        return shown
