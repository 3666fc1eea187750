"""Score images with a bundle."""

import io
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.backbone.extractor import BATCH_SIZE, Extracted, Extractor, finite_scores
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import Detector
from lit_od.errors import BundleError, ConfigError, DataError, LitODWarning
from lit_od.images.find_local import find
from lit_od.images.preparation import Preparation
from lit_od.images.sources import EncodedImage, ImageArray, ImageFile, LazySequence, OpenImage, Source
from lit_od.runtime.threads import limited
from lit_od.runtime.vnni import lacks_vnni
from lit_od.types import Images, Scores

ImageLike: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8]
"""A path, an encoded image as bytes or open binary file, a Pillow image, or uint8 pixels (h, w), (h, w, 1 | 3 | 4)."""


WITHOUT_VNNI = (
    "the graph has int8 weights of 8 bits, and this processor has no VNNI: it computes them without saturation "
    "(session.x64quantprecision), more slowly. For this machine quantise without --target vnni"
)
"""Warning of a scorer."""

NOT_FINITE = "the backbone gives NaN or infinity for this image"
"""Error of a readable image with non-finite outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Scores, p-values and decisions for n images, in input order.

    Attributes:
        name: Path or name of each, length n.
        score: Outlier scores, (n,) float64, higher is more outlying; NaN where the image could not be read.
        p_value: Conformal p-values in (0, 1], (n,); NaN where the image could not be read.
        is_outlier: True where the score is above the threshold, (n,); False where there is no score.
        error: Reason why an image could not be read; None where it could, length n.
    """

    name: Sequence[str]
    score: Scores
    p_value: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    error: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.name)

    @classmethod
    def joined(cls, results: Sequence["Result"]) -> Self:
        """Return the verdicts of several results, one after the other."""
        return cls(
            [name for result in results for name in result.name],
            np.concatenate([np.empty(0), *(result.score for result in results)]),
            np.concatenate([np.empty(0), *(result.p_value for result in results)]),
            np.concatenate([np.empty(0, dtype=bool), *(result.is_outlier for result in results)]),
            [error for result in results for error in result.error],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A loaded bundle. Scoring changes no state, so several threads may share it.

    Attributes:
        extractor: The backbone, the preparation of images, and threads.
        detector: The fitted detector.
        calibration: Calibration scores and threshold.
    """

    extractor: Extractor
    detector: Detector
    calibration: Calibration

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
            bundle: Its folder.
            threads: Threads for decoding, ONNX Runtime and FAISS. None takes one a core.
            providers: Execution providers, as `Backbone.load` takes them.
            trust: Import paths of detectors that may be followed; importing a module runs its code.

        Raises:
            BundleError: If the folder is no bundle or does not match its manifest.
            ConfigError: If a provider is absent.
            MissingExtra: If no ONNX Runtime is installed.
        """
        return cls.of(Bundle.read(bundle, trust=trust), threads=threads, providers=providers)

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
        backbone = Backbone.load(bundle.files[BACKBONE], threads=threads, providers=providers)
        extractor = Extractor(backbone, bundle.manifest.preparation, threads)
        if backbone.output != bundle.detector.reads:
            raise BundleError(
                f"the graph gives {backbone.output}, its {bundle.detector.kind} detector reads {bundle.detector.reads}"
            )
        return cls(extractor, bundle.detector, bundle.calibration)

    def score(self, images: Sequence[ImageLike] | ImageLike, *, batch_size: int = BATCH_SIZE) -> Result:
        """Score images, all of them in memory.

        Args:
            images: One image or a list of them: paths, encoded images as bytes or open binary files, which are
                read from where they stand, Pillow images, uint8 arrays of shape (h, w) or (h, w, 3); or one array
                of shape (n, h, w, c).
            batch_size: Images a run of the graph.

        Returns:
            Results in the order of the images.

        Raises:
            DataError: If an array is no image.
            ConfigError: If batch_size is less than 1.
        """
        if _is_prepared(images, self.preparation):
            return self._score_prepared(np.asarray(images), batch_size)
        sources = [source for row, image in enumerate(_as_list(images)) for source in _sources(image, row)]
        return Result.joined(list(self.stream(sources, batch_size=batch_size)))

    def stream(
        self, images: str | Path | Iterable[str | Path | Source], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[Result]:
        """Score a stream of images in bounded memory, decoding ahead of the graph.

        Args:
            images: A PATH (an image, a folder, a list, an .npz: see `lit_od.images.find_local.find`), or any number
                of PATHs and sources.
            batch_size: Images a result.

        Yields:
            Results of the next images, in their order.
        """
        for result, _ in self.stream_outputs(images, batch_size=batch_size):
            yield result

    def stream_outputs(
        self, images: str | Path | Iterable[str | Path | Source], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Result, Extracted]]:
        """Score as `stream`, and yield batches and outputs too.

        Args:
            images: As `stream`.
            batch_size: Images a result.

        Yields:
            Result, and the batch with the outputs that it comes from.
        """
        sources, detector = _expanded(images), self.detector
        for found in self.extractor.scores(sources, detector.score, batch_size=batch_size):
            yield self._verdicts(found), found

    def _score_prepared(self, images: Images, batch_size: int) -> Result:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        parts = []
        for start in range(0, len(images), batch_size):
            outputs = self.backbone(images[start : start + batch_size])
            with limited(self.threads):
                parts.append(finite_scores(outputs, self.detector.score)[1])
        scores = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0), *parts])
        errors: list[str | None] = [None] * len(scores)
        if np.isnan(scores).any():
            errors = [NOT_FINITE if unknown else None for unknown in np.isnan(scores)]
        return self._result(_Numbered(len(scores)), scores, errors)

    def _verdicts(self, found: Extracted) -> Result:
        batch, readable = found.batch, found.scores
        scores = np.full(len(batch.sources), np.nan)
        errors: list[str | None] = [None] * len(batch.sources)
        scores[batch.rows] = readable
        for row in batch.rows[np.isnan(readable)]:
            errors[row] = NOT_FINITE
        for row, error in batch.errors.items():
            errors[row] = str(error)
        return self._result([source.name for source in batch.sources], scores, errors)

    def _result(self, names: Sequence[str], scores: Scores, errors: Sequence[str | None]) -> Result:
        p_values = self.calibration.p_values(scores)
        if any(errors):
            p_values[np.isnan(scores)] = np.nan
        return Result(names, scores, p_values, self.calibration.is_outlier(scores), errors)


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
        and not preparation.crops
    )


def _as_list(images: Sequence[ImageLike] | ImageLike) -> Sequence[ImageLike]:
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    if isinstance(images, str | Path | bytes | Image.Image | np.ndarray) or _is_open_file(images):
        return [images]  # type: ignore[list-item]  # a file that is open is no sequence
    return images  # type: ignore[return-value]


def _is_open_file(image: object) -> bool:
    """Return True for a binary file or what reads like one."""
    return hasattr(image, "read") and not isinstance(image, io.TextIOBase)


def _sources(image: ImageLike, row: int) -> list[Source]:
    match image:
        case str() | Path():
            return [ImageFile(Path(image), str(image))]
        case bytes():
            return [EncodedImage(image, f"#{row}")]
        case Image.Image():
            return [OpenImage(image, f"#{row}")]
        case np.ndarray() if image.ndim == 4:
            return [ImageArray(pixels, f"#{row}.{part}") for part, pixels in enumerate(image)]
        case np.ndarray():
            return [ImageArray(image, f"#{row}")]
    if _is_open_file(image):
        return [EncodedImage(image.read(), f"#{row}")]
    raise DataError(
        "wanted a path, the bytes or open binary file of an image, a Pillow image or a uint8 array, got "
        f"{type(image).__name__}"
    )


def _expanded(images: str | Path | Iterable[str | Path | Source]) -> Iterator[Source]:
    for image in [images] if isinstance(images, str | Path) else images:
        if isinstance(image, str | Path):
            yield from find([image])
        else:
            yield image
