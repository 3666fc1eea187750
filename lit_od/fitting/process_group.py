"""Fit in a process group: each process gathers its shard, the first one merges."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.fitting.engine import Engine, LocalEngine, first_pass
from lit_od.fitting.partial_state import PartialState, merged
from lit_od.fitting.shards import all_gather, own_shard, own_threads
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source, class_numbers
from lit_od.runtime.processes import ALONE, Group
from lit_od.runtime.threads import limited
from lit_od.types import Maps, Outputs, Scores


class EngineOptions(TypedDict, total=False):
    """Options of an engine, as `open_engine` takes them."""

    threads: int | None
    providers: Sequence[str] | None
    group: Group


def open_engine(
    model: bytes,
    preparation: Preparation,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    group: Group = ALONE,
) -> Engine:
    """Load a backbone in this process, and return the engine of its process group.

    Args:
        model: The backbone's ONNX file.
        preparation: Preparation of every image.
        threads: Threads of this process; None is one a core, or a process' part of the machine's cores.
        providers: Execution providers, as `Backbone.load` takes them; no two processes share a GPU.
        group: The processes that do the work together.

    Raises:
        BackboneError: If the graph is no backbone, or takes images of another shape.
        ConfigError: If a provider is absent.
    """
    threads = own_threads(threads, group)
    backbone = Backbone.load(model, threads=threads, providers=providers, device=group.device)
    local = LocalEngine(Extractor(backbone, preparation, threads), quiet=group.rank > 0)
    return local if group.size == 1 else GroupEngine(local, group)


@dataclass(frozen=True, slots=True)
class GroupEngine:
    """The processes of a group; the one of rank 0 leads.

    Attributes:
        local: The engine of this process.
        group: The processes, which exchange bytes.
    """

    local: LocalEngine
    group: Group

    @property
    def extractor(self) -> Extractor:
        """The backbone of this process."""
        return self.local.extractor

    @property
    def leads(self) -> bool:
        """True in the process of rank 0."""
        return self.group.rank == 0

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.group.size

    def gather(
        self, spec: DetectorSpec, images: Sequence[Source], *, after: bytes | None = None
    ) -> PartialState | None:
        """Accumulate the outputs of all images.

        Args:
            spec: The detector.
            images: Inliers, at least one.
            after: State of the first pass, for the second of detectors that need two.

        Returns:
            The merged state of all shards; None except on rank 0.

        Raises:
            ConfigError: If an option is invalid.
            DataError: If an image cannot be read, or has outputs that are not finite.
        """
        rows = own_shard(len(images), self.group)
        labels = class_numbers(images)[rows.start : rows.stop] if spec.needs_labels else None
        shard = images[rows.start : rows.stop]
        part = self.local.gather_shard(spec, shard, first_row=rows.start, labels=labels, after=after).to_bytes()
        with limited(self.extractor.threads):
            if self.leads:
                return merged(self.group.gather(part), trust=spec.trust, after=first_pass(spec, after))
            for _ in self.group.gather(part):  # other ranks receive nothing
                pass
        return None

    def finish(self, spec: DetectorSpec, gathered: PartialState | None) -> Detector:
        """Freeze on rank 0, and restore the detector from its state on the others."""
        if gathered is None:
            return spec.restore(safetensors.load(self.share(b"")))
        fitted = self.local.finish(spec, gathered)
        self.share(safetensors.save(fitted.state()))
        return fitted

    def outputs(self, images: Sequence[Source]) -> Outputs:
        """Return the outputs of images in their order, in every process."""
        return all_gather(self.local.outputs(self._own(images)), self.group)

    def maps(self, detector: PixelDetector, images: Sequence[Source]) -> Iterator[Maps]:
        """Yield results of `keep_of_maps` by shard, in order; none except on rank 0."""
        maps = list(self.local.maps(detector, self._own(images)))
        packed = safetensors.save({"maps": np.concatenate(maps)} if maps else {})
        for part in self.group.gather(packed):
            yield from safetensors.load(part).values()

    def score(self, detector: Detector, images: Sequence[Source], *, task: str) -> Scores:
        """Score images.

        Args:
            detector: The fitted detector.
            images: The images, all readable.
            task: Title of the progress bar.

        Returns:
            Scores in the order of the images, shape (n,), in every process.
        """
        return all_gather(self.local.score(detector, self._own(images), task=task), self.group)

    def share(self, data: bytes) -> bytes:
        """Return the bytes of rank 0 in every process."""
        return self.group.broadcast(data)

    def _own(self, images: Sequence[Source]) -> Sequence[Source]:
        rows = own_shard(len(images), self.group)
        return images[rows.start : rows.stop]
