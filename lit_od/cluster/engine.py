"""Fit on a Ray cluster: workers gather items of images, the driver merges them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.work_items import decode, items
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.engine import LocalEngine, first_pass
from lit_od.fitting.partial_state import PartialState, merged
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source, class_numbers
from lit_od.types import Labels, Maps, Outputs, Scores

EngineSource: TypeAlias = tuple[bytes, Preparation, int, Sequence[str] | None]
"""A worker's engine before it is loaded: the ONNX file, the preparation, threads and providers."""


class FitWorker:
    """A worker that turns an item into the partial state of its images, as bytes.

    Args:
        source: The engine to load.
        spec: The detector.
        after: State of the first pass, for the second of detectors that need two.
    """

    def __init__(self, source: EngineSource, spec: DetectorSpec, after: bytes | None) -> None:
        self._engine, self._spec, self._after = _loaded(source), spec, after

    def __call__(self, data: bytes) -> bytes:
        """Return the state of an item's images."""
        item = decode(data)
        labels = np.frombuffer(item.labels, np.int64) if item.labels else None
        return self._engine.gather_shard(
            self._spec, item.sources(), first_row=item.first, labels=labels, after=self._after
        ).to_bytes()


class OutputWorker:
    """A worker that turns an item into the outputs of its images, as safetensors."""

    def __init__(self, source: EngineSource) -> None:
        self._engine = _loaded(source)

    def __call__(self, data: bytes) -> bytes:
        """Return the outputs of an item's images."""
        return safetensors.save({"rows": self._engine.outputs(decode(data).sources())})


class ScoreWorker:
    """A worker that turns an item into the scores of its images, or into their maps.

    Args:
        source: The engine to load.
        spec: The detector.
        state: Its state, as safetensors.
        maps: Give maps instead of scores, where the detector has them.
    """

    def __init__(self, source: EngineSource, spec: DetectorSpec, state: bytes, maps: bool = False) -> None:
        self._engine, self._detector, self._maps = _loaded(source), spec.restore(safetensors.load(state)), maps

    def __call__(self, data: bytes) -> bytes:
        """Return the scores of an item's images, or their maps."""
        sources = decode(data).sources()
        if self._maps and isinstance(self._detector, PixelDetector):
            rows = np.concatenate(list(self._engine.maps(self._detector, sources)))
        else:
            rows = self._engine.score(self._detector, sources, task="scoring")
        return safetensors.save({"rows": rows})


def _loaded(source: EngineSource) -> LocalEngine:
    model, preparation, threads, providers = source
    backbone = Backbone.load(model, threads=threads, providers=providers)
    return LocalEngine(Extractor(backbone, preparation, threads), quiet=True)


@dataclass(frozen=True, slots=True)
class RayEngine:
    """The workers of a cluster, led by this process.

    This process itself runs only the golden images.

    Attributes:
        extractor: The backbone of this process.
        pool: The workers.
    """

    extractor: Extractor
    pool: Pool

    @property
    def leads(self) -> bool:
        """True: workers run none of the caller's code."""
        return True

    @property
    def size(self) -> int:
        """One process runs the caller's code."""
        return 1

    def gather(self, spec: DetectorSpec, images: Sequence[Source], *, after: bytes | None = None) -> PartialState:
        """Accumulate the outputs of all images.

        Args:
            spec: The detector.
            images: Inliers, at least one.
            after: State of the first pass, for the second of detectors that need two.

        Returns:
            The merged states of all items.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If an image cannot be read, or has outputs that are not finite.
        """
        labels = class_numbers(images) if spec.needs_labels else None
        parts = self._answers(FitWorker, (spec, after), images, "fitting", labels)
        return merged(parts, trust=spec.trust, after=first_pass(spec, after))

    def finish(self, spec: DetectorSpec, gathered: PartialState | None) -> Detector:
        """Freeze what was gathered into the fitted detector."""
        return self._local.finish(spec, gathered)

    def outputs(self, images: Sequence[Source]) -> Outputs:
        """Return the outputs of images in their order, shape (n, ...)."""
        return self._rows(OutputWorker, (), images, "running the backbone")

    def maps(self, detector: PixelDetector, images: Sequence[Source]) -> Iterator[Maps]:
        """Yield results of `keep_of_maps`, an item's at a time."""
        for answer in self._answers(ScoreWorker, (*_sent(detector), True), images, "mapping"):
            yield safetensors.load(answer)["rows"]

    def score(self, detector: Detector, images: Sequence[Source], *, task: str) -> Scores:
        """Score images.

        Args:
            detector: The fitted detector.
            images: The images, all readable.
            task: Title of the progress bar.

        Returns:
            Scores in the order of the images, shape (n,).
        """
        scores = self._rows(ScoreWorker, _sent(detector), images, task) if images else np.empty(0)
        return np.asarray(scores, np.float64)

    def share(self, data: bytes) -> bytes:
        """Return the same bytes."""
        return data

    @property
    def _local(self) -> LocalEngine:
        return LocalEngine(self.extractor)

    def _rows(self, worker: type[Any], arguments: tuple[Any, ...], images: Sequence[Source], task: str) -> Outputs:
        answers = self._answers(worker, arguments, images, task)
        return np.concatenate([safetensors.load(each)["rows"] for each in answers])

    def _answers(
        self,
        worker: type[Any],
        arguments: tuple[Any, ...],
        images: Sequence[Source],
        task: str,
        labels: Labels | None = None,
    ) -> Iterator[bytes]:
        """Yield the workers' answers in the order of the images."""
        model = self.extractor.backbone.model
        data = model if isinstance(model, bytes) else model.read_bytes()
        source: EngineSource = (data, self.extractor.preparation, self.pool.threads, self.pool.providers)
        work_items = list(items(images, workers=self.pool.workers, labels=labels))
        with tqdm(total=len(work_items), desc=task, unit="item", disable=None, leave=False) as bar:
            for answer in self.pool.map(worker, (source, *arguments), work_items):
                bar.update()
                yield answer


def _sent(detector: Detector) -> tuple[DetectorSpec, bytes]:
    # this process has loaded the detector, so its import path is trusted here
    spec = DetectorSpec(detector.kind, detector.options(), (detector.kind,))
    return spec, safetensors.save(detector.state())
