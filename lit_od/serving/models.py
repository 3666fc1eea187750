"""Models: bundles that answer with scores, heat maps and nearest normal images."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lit_od.bundle.folder import Bundle
from lit_od.images.batching import GRAPH_BATCH, Batch
from lit_od.images.sources import Source
from lit_od.runtime.onnx_session import PROVIDERS
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import SimilarImages
from lit_od.serving.limits import Refused
from lit_od.serving.map_answers import LARGE, MAPPED, has_maps, map_answers, map_card, map_outputs
from lit_od.serving.normal_images import NEAREST, NormalImages, similar_images
from lit_od.serving.protocol import PLAIN, VERSION
from lit_od.serving.tensors import Column
from lit_od.types import Features

NEAREST_ROW, NEAREST_DISTANCE = "nearest", "nearest_distance"
"""Outputs that are computed only on request."""


Answers: TypeAlias = dict[str, Column]
"""Outputs for n images by their names in the protocol; those that nobody asked for are left out."""


def part(answers: Answers, rows: slice) -> Answers:
    """Return the answers for some of the images."""
    return {name: column[rows] for name, column in answers.items()}


def joined(parts: Sequence[Answers]) -> Answers:
    """Join the outputs of a request's pieces.

    Raises:
        Refused: If they hold maps of different sizes.
    """
    whole: Answers = {}
    for name, first in parts[0].items():
        if isinstance(first, np.ndarray):
            columns = [np.asarray(each[name]) for each in parts]
            if len({column.shape[1:] for column in columns}) > 1:
                raise Refused(400, f"the output {name} of images of different sizes is no tensor: send each by itself")
            whole[name] = np.concatenate(columns)
        else:
            elements: list[Any] = [element for each in parts for element in each[name]]
            whole[name] = elements
    return whole


def maps_of(bundle: Bundle, scorer: Scorer) -> Callable[[], HeatMaps]:
    """Return a function that makes the heat maps of a bundle by its first call.

    Their scale comes from mapping golden images. It raises BundleError if the bundle's graph of maps gives none.
    """
    lock = threading.Lock()
    load = cache(lambda: HeatMaps.of(bundle, scorer))

    def maps() -> HeatMaps:
        with lock:
            return load()

    return maps


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A served bundle.

    Attributes:
        name: Its name in addresses.
        bundle: The bundle.
        whole: Scorer on all cores.
        single: Scorer on one thread, which several workers may call at once.
        maps: Function that returns the heat maps.
        nearest: Normal images to find the nearest in; None if there are none.
    """

    name: str
    bundle: Bundle
    whole: Scorer
    single: Scorer
    maps: Callable[[], HeatMaps]
    nearest: SimilarImages | None

    @classmethod
    def load(
        cls,
        name: str,
        bundle: Bundle,
        *,
        normal: NormalImages | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> Self:
        """Load a bundle's graph, and the normal images to compare.

        Args:
            name: Its name in addresses.
            bundle: The bundle.
            normal: Normal images to find the nearest in. None finds none.
            threads: Threads of scoring on all cores. None takes one a core.
            providers: Execution providers, as `Backbone.load` takes them.

        Raises:
            BundleError: If the bundle's graph or detector is refused.
            ConfigError: If threads or a provider are invalid.
            DataError: If the bundle can prepare fewer than NEAREST normal images.
            MissingExtra: If no ONNX Runtime is installed.
        """
        whole = Scorer.of(bundle, threads=threads, providers=providers)
        single = whole
        if whole.backbone.provider == PROVIDERS["cpu"]:  # other devices run one batch after the other
            single = replace(whole, extractor=replace(whole.extractor, backbone=whole.backbone.single(), threads=1))
        nearest = None if normal is None else similar_images(normal, whole)
        return cls(name, bundle, whole, single, maps_of(bundle, single), nearest)

    @property
    def outputs(self) -> dict[str, tuple[str, list[int]]]:
        """List type and shape of every output; -1 is the number of images."""
        found = dict(zip(PLAIN, (("FP64", [-1]), ("FP64", [-1]), ("BOOL", [-1]), ("BYTES", [-1])), strict=True))
        found |= map_outputs(self.whole)
        if self.nearest is not None:
            found[NEAREST_ROW], found[NEAREST_DISTANCE] = ("INT64", [-1, NEAREST]), ("FP64", [-1, NEAREST])
        return found

    def metadata(self) -> dict[str, Any]:
        """Describe the model for the protocol."""
        inputs = (("images", "UINT8", [-1, -1, -1, -1]), ("encoded", "BYTES", [-1]))
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "lit_od",
            "inputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in inputs],
            "outputs": [
                {"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in self.outputs.items()
            ],
        }

    def card(self) -> dict[str, Any]:
        """Describe the model for the page."""
        manifest = self.bundle.manifest
        return {
            "name": self.name,
            "detector": manifest.detector.kind,
            "threshold": self.bundle.calibration.threshold,
            "rule": manifest.calibration.rule,
            "calibration_images": manifest.calibration.images,
            "size": list(manifest.preparation.size),
            "mode": manifest.preparation.mode,
            "tiles": manifest.preparation.has_tiles,
            "outputs": list(self.outputs),
            "least": float(self.bundle.calibration.scores[0]),
            "maps": map_card(self.maps()) if has_maps(self.whole) else None,
        }

    def answer(self, sources: Sequence[Source], wanted: frozenset[str], *, alone: bool) -> Answers:
        """Score at most GRAPH_BATCH images; unreadable ones become rows with an error.

        Args:
            sources: The images.
            wanted: Names of outputs; those of `PLAIN` are always computed.
            alone: True if all cores are free for it.
        """
        scorer = self.whole if alone else self.single
        if len(sources) > 1 and scorer.preparation.has_tiles:
            return joined([self.answer([source], wanted, alone=alone) for source in sources])
        ((result, found),) = scorer.stream_outputs(sources, batch_size=GRAPH_BATCH, maps=bool(MAPPED & wanted))
        batch, outputs, sound = found.batch, found.outputs, np.flatnonzero(found.finite)
        answers: Answers = {
            "score": result.score,
            "p_value": result.p_value,
            "is_outlier": result.is_outlier,
            "error": [error or "" for error in result.error],
        }
        if (MAPPED | LARGE) & wanted:
            answers |= map_answers(self.maps(), wanted, result, found)
        if {NEAREST_ROW, NEAREST_DISTANCE} & wanted:
            answers[NEAREST_ROW], answers[NEAREST_DISTANCE] = self._nearest(batch, outputs, sound)
        return answers

    def _nearest(
        self, batch: Batch, outputs: Features, sound: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rows = np.full((len(batch.sources), NEAREST), -1, dtype=np.int64)
        distances = np.full((len(batch.sources), NEAREST), np.nan)
        if self.nearest is not None and len(sound):
            places = batch.rows[sound]
            rows[places], distances[places] = self.nearest.nearest(
                batch.images[sound], outputs[sound] if len(outputs) else outputs, NEAREST
            )
        return rows, distances
