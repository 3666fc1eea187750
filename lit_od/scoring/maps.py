"""Heat maps: a score for each pixel, without torch.

A pixel's score is its squared error where an autoencoder reconstructs, else the fall of the image's score
when the surroundings of the pixel are hidden (`lit_od.scoring.occlusion`).

A picture shows the prepared image, its reconstruction where the bundle carries `maps.onnx`, the image with its
heat, and the colours' values: pixels of high score are covered by a colour, from dark to bright. The scale is one
for all images of a bundle: it begins at the median of golden images' maps, and half of it is the threshold for
pixels, around which regions are outlined. For hidden parts it begins at 0 at least, their threshold is what 99 % of
the pixels of the median golden image do not exceed, and they have no regions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import MAPS, Bundle, golden_arrays
from lit_od.detectors import PixelDetector
from lit_od.errors import BackboneError, BundleError, DataError
from lit_od.images.batching import GRAPH_BATCH
from lit_od.images.preparation import counted_pixels
from lit_od.runtime.threads import limited
from lit_od.scoring.colour_scale import ColourScale
from lit_od.scoring.drawing import (
    colour_bar,
    enlarged,
    in_colour,
    outlined,
    overlay,
    reduced,
    reduced_maps,
    reduction,
    side_by_side,
)
from lit_od.scoring.occlusion import occlusion_maps
from lit_od.scoring.regions import above
from lit_od.scoring.scorer import Scorer
from lit_od.types import Images, Maps, Stats

MOST_SIDE = 2048
"""Pixels a side of a picture's image; larger ones are reduced."""


def heat_maps(scorer: Scorer, images: Images) -> NDArray[np.float32]:
    """Compute a score for each pixel, higher where it adds more to the outlier score.

    Squared errors, the mean over channels, where the detector reads errors. Else the fall of the score
    where a pixel is hidden, below 0 where the score rises; that takes as many runs of the graph an image
    as `lit_od.scoring.occlusion` has windows.

    Args:
        scorer: A loaded bundle; its threads are used.
        images: Prepared images, (n, h, w, c) uint8, as `scorer.preparation` makes them.

    Returns:
        Shape (n, h, w).

    Raises:
        DataError: If the images are not prepared.
    """
    shape = scorer.preparation.shape
    if images.shape[1:] != shape or images.dtype != np.uint8:
        raise DataError(
            f"heat maps want prepared images, uint8 (n, {str(shape)[1:]}, got {images.dtype} {images.shape}"
        )
    if not isinstance(scorer.detector, PixelDetector):
        return occlusion_maps(scorer, images)
    maps = np.empty(images.shape[:3], dtype=np.float32)
    for start in range(0, len(images), GRAPH_BATCH):
        rows = slice(start, start + GRAPH_BATCH)
        _, maps[rows] = scorer.detector.score_map(scorer.backbone(images[rows]))
    return maps


@dataclass(frozen=True, slots=True, eq=False)
class MapPicture:
    """A map with its picture.

    Attributes:
        map: The map, (h, w) float32.
        outlying: True for pixels above the threshold, (h, w); None if the detector has no maps.
        picture: The image beside its heat.
    """

    map: NDArray[np.float32]
    outlying: NDArray[np.bool_] | None
    picture: Image.Image


@dataclass(frozen=True, slots=True, eq=False)
class HeatMaps:
    """Heat maps and pictures of one bundle.

    Attributes:
        scorer: The loaded bundle.
        scale: Colours of all its pictures.
        graph: Reconstructs images; None where the bundle has no such graph.
    """

    scorer: Scorer
    scale: ColourScale
    graph: MapGraph | None

    @classmethod
    def of(cls, bundle: Bundle, scorer: Scorer) -> Self:
        """Make the maps of a bundle ready.

        Its golden images are mapped first, to set the scale.

        Args:
            bundle: The bundle.
            scorer: The same bundle, loaded; its threads and its provider are used.

        Raises:
            BundleError: If its `maps.onnx` gives no heat maps.
        """
        graph = None
        if MAPS in bundle.files:
            try:
                graph = MapGraph.load(
                    bundle.files[MAPS], threads=scorer.backbone.threads, providers=[scorer.backbone.provider]
                )
            except BackboneError as error:
                raise BundleError(f"{MAPS}: {error}") from error
        return cls(scorer, colour_scale(bundle, scorer), graph)

    def heats(self, images: Images, maps: Maps | None = None) -> Stats:
        """Return the heat in [0, 1] of each pixel, (n, h, w).

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            maps: Their maps, if known; else they are computed.
        """
        return self.scale.heat(heat_maps(self.scorer, images) if maps is None else maps)

    def pictures(self, images: Images, maps: Maps | None = None) -> Iterator[MapPicture]:
        """Draw a picture of each image, lazily, of at most `MOST_SIDE` pixels a side.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            maps: Their maps, (n, h, w), as the scores' own run gives them where the detector has maps. Else they are
                computed.
        """
        for start in range(0, len(images), GRAPH_BATCH):
            block = images[start : start + GRAPH_BATCH]
            mapped = heat_maps(self.scorer, block) if maps is None else maps[start : start + GRAPH_BATCH]
            reconstructed = self.reconstructed(block)
            for row, values in enumerate(mapped):
                middle = None if reconstructed is None else reconstructed[row]
                yield self._picture(block[row], values, middle)

    def _picture(self, image: Images, values: NDArray[np.float32], reconstructed: Images | None) -> MapPicture:
        limit, factor = self.scorer.pixel_threshold, reduction(values.shape, MOST_SIDE)
        one = reduced(image[None], factor)
        heat = overlay(one, self.scale.heat(reduced_maps(values[None], factor)))[0]
        outlying = None if limit is None else above(values, limit)
        shown = None if outlying is None else reduced_maps(outlying[None], factor)[0]
        parts = [enlarged(in_colour(one)[0]), enlarged(heat) if shown is None else outlined(heat, shown)]
        if reconstructed is not None:
            parts.insert(1, enlarged(in_colour(reduced(reconstructed[None], factor))[0]))
        drawn = side_by_side([*parts, colour_bar(self.scale, len(parts[0]))])
        return MapPicture(values, outlying, Image.fromarray(drawn))

    def reconstructed(self, images: Images) -> Images | None:
        """Return reconstructions, uint8 in the images' shape; None without a graph."""
        if self.graph is None:
            return None
        _, pixels = self.graph(images)
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def colour_scale(bundle: Bundle, scorer: Scorer) -> ColourScale:
    """Return the scale of a bundle's maps.

    It comes from the maps of its golden images and the threshold for pixels.

    Args:
        bundle: The bundle.
        scorer: The same bundle, loaded.
    """
    with limited(scorer.threads):
        maps = heat_maps(scorer, golden_arrays(bundle)["pixels"])
    least = -math.inf if isinstance(scorer.detector, PixelDetector) else 0.0
    threshold, counted = scorer.pixel_threshold, counted_pixels(scorer.preparation)
    if counted is not None:
        maps = maps[:, counted][:, None]
    if threshold is None:
        # the median, since a golden image's format can distort its map
        threshold = max(float(np.median(np.percentile(maps, 99, axis=(1, 2)))), 0.0)
    return ColourScale.of_maps(maps, threshold, least=least)
