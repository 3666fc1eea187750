"""Engines run images through the backbone into a detector, or into scores.

An engine is this process (`LocalEngine`), a process group (`process_group.GroupEngine`) or a Ray cluster
(`cluster.engine.RayEngine`). Each process or worker of the latter two runs a LocalEngine over its shard of
the images; their states are merged in the order of the images, so that all engines give the same bundle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from lit_od.backbone.extractor import Extractor
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.partial_state import PartialState
from lit_od.images.sources import Source, class_numbers, tiled
from lit_od.runtime.threads import limited, thread_count
from lit_od.types import Labels, Maps, Outputs, Scores


class Engine(Protocol):
    """Processes or workers that fit and score together.

    The processes among them call the same methods in the same order. Images are given whole; the engine divides them.
    All of them must be readable, and have finite outputs.
    """

    @property
    def extractor(self) -> Extractor:
        """The backbone of this process, which makes the golden images."""
        ...

    @property
    def leads(self) -> bool:
        """True in the process that merges, proves and writes."""
        ...

    @property
    def size(self) -> int:
        """Number of processes that run the caller's code."""
        ...

    def gather(
        self, spec: DetectorSpec, images: Sequence[Source], *, after: bytes | None = None
    ) -> PartialState | None:
        """Accumulate the outputs of all images.

        Args:
            spec: The detector.
            images: Inliers, at least one.
            after: State of the first pass, for the second of detectors that need two.

        Returns:
            The accumulated state; None unless this process leads.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If an image cannot be read, or has outputs that are not finite.
        """
        ...

    def finish(self, spec: DetectorSpec, gathered: PartialState | None) -> Detector:
        """Return the fitted detector in every process.

        Raises:
            DataError: If the images do not suffice.
        """
        ...

    def outputs(self, images: Sequence[Source]) -> Outputs:
        """Return the outputs of images in their order, shape (n, ...), in every process."""
        ...

    def maps(self, detector: PixelDetector, images: Sequence[Source]) -> Iterator[Maps]:
        """Yield results of `keep_of_maps` in order; none unless this process leads."""
        ...

    def score(self, detector: Detector, images: Sequence[Source], *, task: str) -> Scores:
        """Score images.

        Args:
            detector: The fitted detector.
            images: The images, all readable.
            task: Title of the progress bar.

        Returns:
            Scores in the order of the images, shape (n,), in every process.
        """
        ...

    def share(self, data: bytes) -> bytes:
        """Return the leading process' bytes in every process; other bytes are ignored."""
        ...


def fit_detector(engine: Engine, spec: DetectorSpec, images: Sequence[Source]) -> tuple[Detector, PartialState | None]:
    """Fit a detector, in as many passes as it needs.

    With tiles it is fitted on those of all images.

    Args:
        engine: The processes that do the work.
        spec: The detector.
        images: Inliers; labelled where the detector needs classes.

    Returns:
        The detector, in every process; and the state of its last pass, in the one that leads.

    Raises:
        ConfigError: If an option is invalid.
        DataError: If the images do not suffice, or one of them is unfit.
    """
    images = tiled(images, engine.extractor.preparation)
    gathered = engine.gather(spec, images)
    for _ in range(1, spec.passes):
        first = engine.share(gathered.to_bytes() if gathered is not None else b"")
        gathered = engine.gather(spec, images, after=first)
    return engine.finish(spec, gathered), gathered


def first_pass(spec: DetectorSpec, state: bytes | None) -> PartialState | None:
    """Rebuild the state of a detector's first pass; None where this is the first."""
    return None if state is None else PartialState.from_bytes(state, trust=spec.trust)


def keep_of_maps(detector: PixelDetector, maps: Maps) -> Maps:
    """Reduce maps (m, h, w) of patches to peaks (m,); keep those of errors."""
    return maps.max(axis=(1, 2)) if detector.reads == "patches" else maps


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """This process alone.

    Attributes:
        extractor: The backbone.
        quiet: Show no progress, even where standard error is a terminal.
    """

    extractor: Extractor
    quiet: bool = False

    @property
    def leads(self) -> bool:
        """True: there is no other process."""
        return True

    @property
    def size(self) -> int:
        """One process."""
        return 1

    def gather(self, spec: DetectorSpec, images: Sequence[Source], *, after: bytes | None = None) -> PartialState:
        """Accumulate the outputs of all images.

        Args:
            spec: The detector.
            images: Inliers, at least one.
            after: State of the first pass, for the second of detectors that need two.

        Returns:
            The accumulated state.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If an image cannot be read, or has outputs that are not finite.
        """
        return self.gather_shard(spec, images, labels=class_numbers(images) if spec.needs_labels else None, after=after)

    def gather_shard(
        self,
        spec: DetectorSpec,
        images: Sequence[Source],
        *,
        first_row: int = 0,
        labels: Labels | None = None,
        after: bytes | None = None,
    ) -> PartialState:
        """Accumulate the outputs of a shard; merged, all shards are the fit.

        Args:
            spec: The detector.
            images: The shard's images, consecutive ones.
            first_row: Number of its first image among all.
            labels: Class numbers of its images, shape (n,), for class-conditional detectors.
            after: State of the first pass, for the second of detectors that need two.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If an image cannot be read, or has outputs that are not finite.
        """
        first = first_pass(spec, after)
        gathered, done = spec.accumulator(first_row=first_row, after=None if first is None else first.gathered), 0
        # few threads for numpy's products: others decode and run the next images
        with limited(max(1, thread_count(self.extractor.threads) // 4)), self._progress(images, "fitting") as bar:
            for found in self.extractor.outputs(images):
                found.require_sound()
                count = len(found.outputs)
                gathered.update(found.outputs, None if labels is None else labels[done : done + count])
                done += count
                bar.update(count)
        return PartialState(spec.kind, gathered, first_row, done)

    def finish(self, spec: DetectorSpec, gathered: PartialState | None) -> Detector:
        """Freeze what was gathered into the fitted detector."""
        assert gathered is not None
        with limited(self.extractor.threads):
            return gathered.finish()

    def outputs(self, images: Sequence[Source]) -> Outputs:
        """Return the outputs of images in order, shape (n, ...); (0, 0) of no image."""
        found = [np.empty((0, 0), np.float32)]
        for each in self.extractor.outputs(images):
            each.require_sound()
            found.append(each.outputs)
        return np.concatenate(found[1:]) if len(found) > 1 else found[0]

    def maps(self, detector: PixelDetector, images: Sequence[Source]) -> Iterator[Maps]:
        """Yield results of `keep_of_maps` batch by batch."""
        for each in self.extractor.scores(images, detector, maps=True):
            each.require_sound()
            if each.maps is not None:
                yield keep_of_maps(detector, each.maps)

    def score(self, detector: Detector, images: Sequence[Source], *, task: str) -> Scores:
        """Score images.

        Args:
            detector: The fitted detector.
            images: The images, all readable.
            task: Title of the progress bar.

        Returns:
            Scores in the order of the images, shape (n,).
        """
        scores = [np.empty(0)]
        with self._progress(images, task) as bar:
            for each in self.extractor.scores(images, detector):
                each.require_sound()
                scores.append(each.scores)
                bar.update(len(scores[-1]))
        return np.concatenate(scores)

    def share(self, data: bytes) -> bytes:
        """Return the same bytes."""
        return data

    def _progress(self, images: Sequence[Source], task: str) -> "tqdm[Any]":
        return tqdm(total=len(images), desc=task, unit="img", disable=True if self.quiet else None, leave=False)
