"""Fit statistics on a cluster: workers send the states of their shares, the driver merges them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from lit_od.backbone.model import Backbone
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.work_items import decode, items
from lit_od.detectors.registry import detector_from_state
from lit_od.fitting.fit import class_numbers, partial_fit, score_all
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.types import Labels

_NEVER = 1 << 40


class FitWorker:
    """The work of one worker: from an item to the partial state of its images, as bytes."""

    def __init__(
        self,
        model: bytes,
        preparation: Preparation,
        detector: Mapping[str, Any],
        threads: int,
        providers: Sequence[str] | None,
    ) -> None:
        self._backbone = Backbone.load(model, threads=threads, providers=providers)
        self._preparation, self._detector, self._threads = preparation, detector, threads

    def __call__(self, data: bytes) -> bytes:
        """The state of an item's images."""
        item = decode(data)
        state = partial_fit(
            self._backbone,
            self._preparation,
            item.sources(),
            self._detector,
            first_row=item.first,
            labels=np.frombuffer(item.labels, np.int64) if item.labels else None,
            threads=self._threads,
            bar=False,
        )
        return state.to_bytes()


class ScoreWorker:
    """The work of one worker: from an item to the scores of its images, which must all be readable, float64."""

    def __init__(
        self,
        model: bytes,
        preparation: Preparation,
        detector: Mapping[str, Any],
        threads: int,
        providers: Sequence[str] | None,
        state: bytes,
    ) -> None:
        self._backbone = Backbone.load(model, threads=threads, providers=providers)
        options = {key: value for key, value in detector.items() if key != "kind"}
        self._fitted = detector_from_state(str(detector["kind"]), options, safetensors.load(state))
        self._preparation, self._threads = preparation, threads

    def __call__(self, data: bytes) -> bytes:
        """The scores of an item's images."""
        sources = decode(data).sources()
        scores = score_all(self._backbone, self._preparation, self._fitted, sources, threads=self._threads)
        return scores.tobytes()


class FirstOfCluster:
    """The driver as the first process of a `lit_od.runtime.processes.Group`, whose others are the workers of a cluster.

    What the others send is computed when it is asked for, in the order in which `fit_bundle` asks: the states of
    the images that fit, the scores of those that calibrate, and of the outliers. There are so many others that
    the driver's own share is empty.
    """

    rank = 0
    size = _NEVER
    device: int | None = None
    local_size = 1

    def __init__(
        self,
        pool: Pool,
        *,
        model: bytes,
        preparation: Preparation,
        detector: Mapping[str, Any],
        fit: Sequence[Source],
        calibration: Sequence[Source],
        outliers: Sequence[Source] = (),
    ) -> None:
        self._pool = pool
        self._given = (model, preparation, dict(detector), pool.threads, pool.providers)
        self._fitted = b""
        labels = class_numbers(fit) if detector.get("class_conditional") else None
        self._steps: list[Callable[[], Iterator[bytes]]] = [
            lambda: self._map(FitWorker, self._given, fit, "fitting", labels),
            lambda: self._map(ScoreWorker, (*self._given, self._fitted), calibration, "calibrating"),
            lambda: self._map(ScoreWorker, (*self._given, self._fitted), outliers, "scoring outliers"),
        ]

    def gather(self, part: bytes) -> Iterator[bytes]:
        """What the workers have found, in the order of the images; `part` is the driver's, of no image."""
        yield from self._steps.pop(0)()

    def broadcast(self, data: bytes) -> bytes:
        """The same bytes; the first ones are the fitted detector, which later steps take to the workers."""
        self._fitted = self._fitted or data
        return data

    def _map(
        self,
        work: Callable[..., Any],
        given: Sequence[Any],
        sources: Sequence[Source],
        what: str,
        labels: Labels | None = None,
    ) -> Iterator[bytes]:
        if not sources:
            return
        work_items = list(items(sources, workers=self._pool.workers, labels=labels))
        with tqdm(total=len(work_items), desc=what, unit="item", disable=None, leave=False) as bar:
            for answer in self._pool.map(work, given, work_items):
                bar.update()
                yield answer
