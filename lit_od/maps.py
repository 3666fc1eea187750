"""Heat maps of what makes images outliers, without torch.

`heat_maps` gives a score for each pixel: the squared error where an autoencoder reconstructs, else how
far the image's score falls when the part around the pixel is hidden (`lit_od.occlusion`).

A picture shows the prepared image, its reconstruction where the bundle carries `maps.onnx`, and the
image with its heat: pixels whose score stands out are covered by a colour, from dark to bright. The
scale is one for all images of a bundle: half of it is the pixel threshold, which 99 % of the pixels of
the calibration inliers do not exceed; where parts are hidden, 99 % of the pixels of the median golden image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import MAPS, Bundle, golden_arrays
from lit_od.detectors import Reconstruction
from lit_od.detectors.reconstruction import pixel_scores, pixel_verdicts
from lit_od.errors import BackboneError, BundleError, DataError
from lit_od.images.batching import RUN
from lit_od.occlusion import occlusion_maps
from lit_od.scorer import Scorer
from lit_od.types import Features, Images, Stats

GAP = 2
"""White pixels between the parts of a picture."""

OPAQUE = 0.75
"""How much of the image a colour at or above the pixel threshold covers."""

SMALLEST = 128
"""Pictures of smaller images are enlarged, pixel by pixel, until their shorter side is at least this long."""

_STEPS = ((0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70), (237, 105, 37),
          (251, 155, 6), (247, 209, 61), (252, 255, 164))  # fmt: skip
"""Ten evenly spaced colours of Matplotlib's "inferno": lightness rises evenly, as the eye sees it, also in grey."""


def heat_maps(scorer: Scorer, images: Images) -> NDArray[np.float32]:
    """A score for each pixel, higher where more of the outlier score comes from.

    Squared errors, the mean over channels, where the detector reads errors. Else the fall of the score
    where a pixel is hidden, below 0 where the score rises; that takes as many runs of the graph an image
    as `lit_od.occlusion` has windows.

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
    if not isinstance(scorer.detector, Reconstruction):
        return occlusion_maps(scorer, images)
    maps = np.empty(images.shape[:3], dtype=np.float32)
    for start in range(0, len(images), RUN):
        maps[start : start + RUN] = pixel_scores(scorer.backbone(images[start : start + RUN]))
    return maps


@dataclass(frozen=True, slots=True, eq=False)
class HeatMaps:
    """Draws what makes images outliers to one bundle.

    Attributes:
        scorer: The bundle, ready.
        threshold: Pixel score above which a pixel is called an outlier.
        graph: Reconstructs; None where the bundle brings no such graph.
    """

    scorer: Scorer
    threshold: float
    graph: MapGraph | None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        scorer: Scorer | None = None,
    ) -> Self:
        """The maps of a bundle. Where it gives features, its golden images are mapped first, to have the scale.

        Args:
            bundle: Which has been read.
            threads: As `Scorer.load` takes them.
            providers: As `Scorer.load` takes them.
            scorer: The same bundle, where it is ready already; it brings its own threads and providers.

        Raises:
            BundleError: If its `maps.onnx` gives no heat maps.
        """
        graph = None
        if MAPS in bundle.files:
            try:
                graph = MapGraph.load(bundle.files[MAPS], threads=threads, providers=providers)
            except BackboneError as error:
                raise BundleError(f"{MAPS}: {error}") from error
        scorer = scorer or Scorer.of(bundle, threads=threads, providers=providers)
        return cls(scorer, _threshold(scorer, bundle), graph)

    def heats(self, images: Images, errors: Features | None = None) -> Stats:
        """Heat in [0, 1] of each pixel of prepared images, (n, h, w); 0.5 is the threshold.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            errors: Their squared errors, where they are known: the graph need not run again.
        """
        if errors is not None and isinstance(self.scorer.detector, Reconstruction):
            scores = pixel_scores(errors)
        else:
            scores = heat_maps(self.scorer, images).astype(np.float64)
        return heat(scores, self.threshold)

    def verdicts(self, outputs: Features) -> NDArray[np.bool_] | None:
        """Which pixels are called outliers, (n, h, w); None where the detector reads features, and calls none so.

        Args:
            outputs: What the backbone gives of n images.
        """
        if not isinstance(self.scorer.detector, Reconstruction):
            return None
        return pixel_verdicts(pixel_scores(outputs), self.threshold)

    def pictures(self, images: Images, outputs: Features) -> Iterator[Image.Image]:
        """A picture of each image, made when it is asked for.

        Args:
            images: Prepared images, (n, h, w, c) uint8.
            outputs: What the backbone gives of them: squared errors, the same shape, or features (n, d).
        """
        for start in range(0, len(images), RUN):
            block = images[start : start + RUN]
            heats = self.heats(block, outputs[start : start + RUN])
            reconstructed = self._reconstructed(block)
            for row in range(len(block)):
                one = block[row : row + 1]
                parts = [in_colour(one)[0], overlay(one, heats[row : row + 1])[0]]
                if reconstructed is not None:
                    parts.insert(1, in_colour(reconstructed)[row])
                yield _enlarged(_beside(parts), one.shape[1:3])

    def _reconstructed(self, images: Images) -> Images | None:
        if self.graph is None:
            return None
        _, pixels = self.graph(images)
        return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _threshold(scorer: Scorer, bundle: Bundle) -> float:
    """The bundle's pixel threshold; where parts are hidden, that which its golden images give."""
    calibrated = bundle.manifest.calibration.pixel_threshold
    if calibrated is not None:
        return calibrated
    golden = golden_arrays(bundle)
    maps = heat_maps(scorer, golden["pixels"])
    # the median, since a golden image's other format can make its own map odd
    return max(float(np.median(np.percentile(maps, 99, axis=(1, 2)))), 0.0)


def heat(scores: Stats, threshold: float) -> Stats:
    """Pixel scores as heat in [0, 1]: 0.5 is the threshold, 1 twice the threshold and all above."""
    if threshold == 0:  # inliers that are reconstructed without any error
        return np.asarray(scores > 0, dtype=np.float64)
    with np.errstate(over="ignore"):  # a threshold next to nothing
        return np.clip(scores / (2 * threshold), 0.0, 1.0)


def overlay(images: Images, heats: Stats) -> Images:
    """Images (n, h, w, c), uint8, in colour under their heat (n, h, w) in [0, 1]: (n, h, w, 3), uint8.

    A pixel without heat stays as it is; from 0.5 on a colour covers it by `OPAQUE`.
    """
    cover = (OPAQUE * np.minimum(2 * heats, 1.0))[..., None]  # (n, h, w, 1)
    mixed: NDArray[np.float64] = (1 - cover) * in_colour(images) + cover * colours(heats)
    return np.rint(mixed).astype(np.uint8)


def colours(heats: Stats) -> Images:
    """The colour of each heat in [0, 1]: shape (..., 3), uint8."""
    steps = np.array(_STEPS, dtype=np.float64)  # (k, 3)
    places = np.linspace(0, 1, len(steps))
    mixed = np.stack([np.interp(heats, places, channel) for channel in steps.T], axis=-1)
    found: Images = np.rint(mixed).astype(np.uint8)
    return found


def in_colour(images: Images) -> Images:
    """Images (n, h, w, 1 or 3) as (n, h, w, 3)."""
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _beside(parts: Sequence[Images]) -> Images:
    """Parts (h, w, 3) from left to right, with white between them."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    joined = [piece for part in parts for piece in (part, gap)]
    return np.concatenate(joined[:-1], axis=1)


def _enlarged(pixels: Images, size: tuple[int, ...]) -> Image.Image:
    factor = -(-SMALLEST // min(size))
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
