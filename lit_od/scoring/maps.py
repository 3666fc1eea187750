"""Heat maps: a score for each pixel, without torch.

A pixel's score is its squared error where an autoencoder reconstructs, else the fall of the image's score
when the surroundings of the pixel are hidden (`lit_od.scoring.occlusion`).

A picture shows the prepared image, its reconstruction where the bundle carries `maps.onnx`, and the
image with its heat: pixels of high score are covered by a colour, from dark to bright. The scale is one
for all images of a bundle: half of it is the pixel threshold, which 99 % of the pixels of the calibration
inliers do not exceed; for hidden parts, 99 % of the pixels of the median golden image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import MAPS, Bundle, golden_arrays
from lit_od.detectors import PixelDetector
from lit_od.detectors.reconstruction import pixel_verdicts
from lit_od.errors import BackboneError, BundleError, DataError
from lit_od.images.batching import GRAPH_BATCH
from lit_od.scoring.drawing import enlarged, heat, in_colour, overlay, side_by_side
from lit_od.scoring.occlusion import occlusion_maps
from lit_od.scoring.scorer import Scorer
from lit_od.types import Images, Outputs, Stats


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
class HeatMaps:
    """Heat maps and pictures of one bundle.

    Attributes:
        scorer: The loaded bundle.
        threshold: Pixel score above which a pixel is called an outlier.
        graph: Reconstructs images; None where the bundle has no such graph.
    """

    scorer: Scorer
    threshold: float
    graph: MapGraph | None

    @classmethod
    def of(cls, bundle: Bundle, scorer: Scorer) -> Self:
        """Make the maps of a bundle ready.

        Where the bundle gives features, its golden images are mapped first, to set the scale.

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
        return cls(scorer, _threshold(scorer, bundle), graph)

    def heats(self, images: Images, outputs: Outputs | None = None) -> Stats:
        """Return the heat in [0, 1] of each pixel, (n, h, w); 0.5 is the threshold.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            outputs: Their outputs, if known: with a detector of maps the graph need not run again.
        """
        if outputs is not None and isinstance(self.scorer.detector, PixelDetector):
            _, scores = self.scorer.detector.score_map(outputs)
        else:
            scores = heat_maps(self.scorer, images)
        return heat(scores.astype(np.float64), self.threshold)

    def verdicts(self, outputs: Outputs) -> NDArray[np.bool_] | None:
        """Return True for outlying pixels, (n, h, w); None if the detector has no maps.

        Args:
            outputs: Outputs of the backbone for n images.
        """
        if not isinstance(self.scorer.detector, PixelDetector):
            return None
        return pixel_verdicts(self.scorer.detector.score_map(outputs)[1], self.threshold)

    def pictures(self, images: Images, outputs: Outputs) -> Iterator[Image.Image]:
        """Draw a picture of each image, lazily.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            outputs: The backbone's outputs for them: squared errors, the same shape, or features (n, d).
        """
        for start in range(0, len(images), GRAPH_BATCH):
            block = images[start : start + GRAPH_BATCH]
            heats = self.heats(block, outputs[start : start + GRAPH_BATCH])
            reconstructed = self._reconstructed(block)
            for row in range(len(block)):
                one = block[row : row + 1]
                parts = [in_colour(one)[0], overlay(one, heats[row : row + 1])[0]]
                if reconstructed is not None:
                    parts.insert(1, in_colour(reconstructed)[row])
                yield enlarged(side_by_side(parts), one.shape[1:3])

    def _reconstructed(self, images: Images) -> Images | None:
        if self.graph is None:
            return None
        _, pixels = self.graph(images)
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _threshold(scorer: Scorer, bundle: Bundle) -> float:
    """Return the bundle's pixel threshold, or one from its golden images' maps."""
    calibrated = bundle.manifest.calibration.pixel_threshold
    if calibrated is not None:
        return calibrated
    golden = golden_arrays(bundle)
    maps = heat_maps(scorer, golden["pixels"])
    # the median, since a golden image's format can distort its map
    return max(float(np.median(np.percentile(maps, 99, axis=(1, 2)))), 0.0)
