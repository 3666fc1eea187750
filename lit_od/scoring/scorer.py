"""Score images with a bundle."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Self

import numpy as np

from lit_od.backbone.extractor import BATCH_SIZE, Extracted, Extractor, compute_of, finite_rows
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_file import open_bundle, open_graph
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import Detector, PixelDetector
from lit_od.errors import BundleError, ConfigError, LitODWarning
from lit_od.images.geometry import Geometry
from lit_od.images.preparation import Preparation
from lit_od.images.sources import LazySequence, Source
from lit_od.runtime.threads import limited
from lit_od.runtime.vnni import lacks_vnni
from lit_od.scoring.image_likes import ImageLike, expanded, sources_of
from lit_od.scoring.regions import Region, carried, find_regions
from lit_od.scoring.result import Result, ResultMaps
from lit_od.types import Images, Scores

WITHOUT_VNNI = (
    "the graph has int8 weights of 8 bits, and this processor has no VNNI: it computes them without saturation "
    "(session.x64quantprecision), more slowly. For this machine quantise without --target vnni"
)
"""Warning of a scorer."""

NOT_FINITE = "the backbone gives NaN or infinity for this image"
"""Error of a readable image with non-finite outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A loaded bundle. Scoring changes no state, so several threads may share it.

    Attributes:
        extractor: The backbone, the preparation of images, and threads.
        detector: The fitted detector.
        calibration: Calibration scores and threshold.
        pixel_threshold: Regions are above it; None where the detector has no maps.
    """

    extractor: Extractor
    detector: Detector
    calibration: Calibration
    pixel_threshold: float | None = None

    @property
    def backbone(self) -> Backbone:
        """The loaded graph."""
        return self.extractor.backbone

    @property
    def preparation(self) -> Preparation:
        """Preparation of every image."""
        return self.extractor.preparation

    @property
    def threads(self) -> int | None:
        """Threads of decoding, of the graph and of scoring; None is one a core."""
        return self.extractor.threads

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        trust: Collection[str] = (),
    ) -> Self:
        """Read a bundle, check every byte of it, and make it ready.

        Args:
            bundle: Its folder, or the model file that it was compiled into.
            threads: Threads for decoding, ONNX Runtime and FAISS. None takes one a core.
            providers: Execution providers, as `Backbone.load` takes them.
            trust: Import paths of detectors that may be followed; importing a module runs its code.

        Raises:
            BundleError: If the folder is no bundle or does not match its manifest.
            ConfigError: If a provider is absent.
            MissingExtra: If no ONNX Runtime is installed.
        """
        return cls.of(open_bundle(bundle, trust=trust), threads=threads, providers=providers)

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None) -> Self:
        """Load the graph of a bundle that has been read.

        Args:
            bundle: The bundle.
            threads: As `load`.
            providers: As `load`.

        Raises:
            BundleError: If the detector does not read the graph's output.
            ConfigError: If a provider is absent.
            MissingExtra: If no ONNX Runtime is installed.
        """
        if bundle.manifest.model.weight_bits == 8 and lacks_vnni():
            warnings.warn(WITHOUT_VNNI, LitODWarning, stacklevel=2)
        backbone = open_graph(bundle, threads=threads, providers=providers)
        extractor = Extractor(backbone, bundle.manifest.preparation, threads)
        if backbone.output != bundle.detector.reads:
            raise BundleError(
                f"the graph gives {backbone.output}, its {bundle.detector.kind} detector reads {bundle.detector.reads}"
            )
        pixel_threshold = bundle.manifest.calibration.pixel_threshold
        if isinstance(bundle.detector, PixelDetector) and bundle.detector.score_is_peak:
            pixel_threshold = bundle.calibration.threshold
        return cls(extractor, bundle.detector, bundle.calibration, pixel_threshold)

    def score(
        self,
        images: Sequence[ImageLike] | ImageLike,
        *,
        batch_size: int = BATCH_SIZE,
        maps: bool = False,
        min_area: float = 0,
    ) -> Result:
        """Score images, all of them in memory.

        Args:
            images: One image or a list of them: paths, encoded images as bytes or open binary files, which are
                read from where they stand, Pillow images, uint8 arrays of shape (h, w) or (h, w, 3); or one array
                of shape (n, h, w, c).
            batch_size: Images a run of the graph.
            maps: Give maps and regions too, where the detector has maps; the graph runs no more often.
            min_area: Area, in the image's own pixels, of the smallest region that is given. It changes no verdict.

        Returns:
            Results in the order of the images.

        Raises:
            DataError: If an array is no image.
            ConfigError: If batch_size is less than 1.
        """
        if _is_prepared(images, self.preparation):
            return self._score_prepared(np.asarray(images), batch_size, maps, min_area)
        results = self.stream(sources_of(images), batch_size=batch_size, maps=maps, min_area=min_area)
        return Result.joined(list(results))

    def stream(
        self,
        images: str | Path | Iterable[str | Path | Source],
        *,
        batch_size: int = BATCH_SIZE,
        maps: bool = False,
        min_area: float = 0,
    ) -> Iterator[Result]:
        """Score a stream of images in bounded memory, decoding ahead of the graph.

        Args:
            images: A PATH (an image, a folder, a list, an .npz: see `lit_od.images.find_local.find`), or any number
                of PATHs and sources.
            batch_size: Images a result; one with tiles.
            maps: As `score`.
            min_area: As `score`.

        Yields:
            Results of the next images, in their order.
        """
        outputs = self.stream_outputs(images, batch_size=batch_size, maps=maps, min_area=min_area)
        yield from map(itemgetter(0), outputs)

    def stream_outputs(
        self,
        images: str | Path | Iterable[str | Path | Source],
        *,
        batch_size: int = BATCH_SIZE,
        maps: bool = False,
        min_area: float = 0,
    ) -> Iterator[tuple[Result, Extracted]]:
        """Score as `stream`, and yield batches and outputs too.

        Args:
            images: As `stream`.
            batch_size: Images a result.
            maps: As `score`.
            min_area: As `score`.

        Yields:
            Result, and the batch with the outputs that it comes from.
        """
        for found in self.extractor.scores(expanded(images), self.detector, maps=maps, batch_size=batch_size):
            yield self._verdicts(found, maps, min_area), found
            del found  # large with tiles: it must not wait for the next

    def _score_prepared(self, images: Images, batch_size: int, maps: bool, min_area: float) -> Result:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if not len(images):  # a graph need not know what to do with no image
            return self._result([], np.empty(0), [])
        compute, parts = compute_of(self.detector, maps=maps), []
        for start in range(0, len(images), batch_size):
            outputs = self.backbone(images[start : start + batch_size])
            with limited(self.threads):
                parts.append(finite_rows(outputs, compute)[1:])
        scores, *mapped = parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)]
        errors: list[str | None] = [None] * len(scores)
        if np.isnan(scores).any():
            errors = [NOT_FINITE if unknown else None for unknown in np.isnan(scores)]
        names = _Numbered(len(scores))
        if not mapped:
            return self._result(names, scores, errors)
        regions = self._regions(mapped[0], [Geometry(self.preparation.size)] * len(scores), min_area)
        return self._result(names, scores, errors, mapped[0], regions)

    def _verdicts(self, found: Extracted, maps: bool, min_area: float) -> Result:
        batch, readable = found.batch, found.scores
        scores = np.full(len(batch.sources), np.nan)
        errors: list[str | None] = [None] * len(batch.sources)
        scores[batch.rows] = readable
        for row in batch.rows[np.isnan(readable)]:
            errors[row] = NOT_FINITE
        for row, error in batch.errors.items():
            errors[row] = str(error)
        names = [source.name for source in batch.sources]
        if not maps or not isinstance(self.detector, PixelDetector):
            return self._result(names, scores, errors)
        known = dict(zip(batch.rows.tolist(), batch.geometry, strict=True))
        geometry, whole = [known.get(row) for row in range(len(names))], self._whole_maps(found)
        return self._result(names, scores, errors, whole, self._regions(whole, geometry, min_area))

    def _whole_maps(self, found: Extracted) -> ResultMaps:
        """Return the maps of all images of a batch, those that could not be read too."""
        if self.preparation.has_tiles:  # the batch is one image then
            return (np.empty((0, 0), np.float32),) if found.maps is None else tuple(np.asarray(found.maps, np.float32))
        sides = self.preparation.size if found.maps is None else found.maps.shape[1:]
        whole = np.full((len(found.batch.sources), *sides), np.nan, np.float32)
        if found.maps is not None:
            whole[found.batch.rows] = found.maps
        return whole

    def _regions(
        self, maps: ResultMaps, geometry: Sequence[Geometry | None], min_area: float
    ) -> list[tuple[Region, ...]] | None:
        """Return the regions of each image; None without a threshold for pixels."""
        if self.pixel_threshold is None:
            return None
        found = []
        for one, own in zip(maps, geometry, strict=True):
            within = [] if own is None else find_regions(one, self.pixel_threshold)
            regions = carried(within, own, self.preparation.for_image(own.upright)) if own is not None else []
            found.append(tuple(each for each in regions if each.area >= min_area))
        return found

    def _result(
        self,
        names: Sequence[str],
        scores: Scores,
        errors: Sequence[str | None],
        maps: ResultMaps | None = None,
        regions: Sequence[tuple[Region, ...]] | None = None,
    ) -> Result:
        p_values = self.calibration.p_values(scores)
        if any(errors):
            p_values[np.isnan(scores)] = np.nan
        return Result(names, scores, p_values, self.calibration.is_outlier(scores), errors, maps, regions)


class _Numbered(LazySequence[str]):
    """The names #0, #1 ... of images that have none; made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def at(self, row: int) -> str:
        """Return a name."""
        return f"#{row}"


def _is_prepared(images: object, preparation: Preparation) -> bool:
    """Return True for an array that the preparation would leave unchanged."""
    return (
        isinstance(images, np.ndarray)
        and images.shape[1:] == preparation.shape
        and images.dtype == np.uint8
        and preparation.takes_as_is
    )
