"""The gate of int8: AUROC in float and in int8 on the same images.

Validation images stand against outliers made of them, and against real ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lit_od.detectors import Detector
from lit_od.evaluation.intervals import Interval, paired_bootstrap
from lit_od.evaluation.metrics import auroc
from lit_od.evaluation.synthetic_outliers import synthetic_outliers
from lit_od.fitting.engine import Engine
from lit_od.images.batching import GRAPH_BATCH, load
from lit_od.images.sources import Source
from lit_od.images.split import evenly
from lit_od.runtime.threads import limited
from lit_od.types import Images, Scores

MOST_LOST = 0.003
"""Largest AUROC that the lower end of an interval may lose."""

GATE_IMAGES = 1000
"""Most validation images that are scored, and of which synthetic outliers are made."""

DRAWS = 3
"""Synthetic outliers of each kind that are made of an image."""

SYNTHETIC = "synthetic"
"""Name of the outliers made of validation images."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A detector with the engine on whose outputs it was fitted.

    Attributes:
        engine: Runs the graph, in this process.
        detector: The fitted detector.
    """

    engine: Engine
    detector: Detector

    def score_prepared(self, images: Images) -> Scores:
        """Score prepared images, (n, h, w, c) uint8."""
        extractor = self.engine.extractor
        with limited(extractor.threads):
            return self.detector.score(extractor.backbone(images))

    def score(self, images: Sequence[Source], task: str) -> Scores:
        """Score images; the task is the title of the progress bar."""
        return self.engine.score(self.detector, images, task=task)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Comparison of two detectors on the same images.

    Attributes:
        areas: AUROC in float and in int8, by the name of the outliers.
        change: AUROC in int8 less that in float, with its 95 % interval, by the same names.
        normal: Scores of validation images in float and in int8, (n,) each.
    """

    areas: dict[str, tuple[float, float]]
    change: dict[str, Interval]
    normal: tuple[Scores, Scores]

    @property
    def most_lost(self) -> float:
        """Largest loss that an interval reaches."""
        return max(-each.low for each in self.change.values())

    @property
    def refused(self) -> bool:
        """True if int8 may lose more than `MOST_LOST`."""
        return self.most_lost > MOST_LOST


def compare(
    in_float: Fitted,
    in_int8: Fitted,
    validation: Sequence[Source],
    against: Mapping[str, Sequence[Source]],
    *,
    seed: int,
) -> Gate:
    """Score the same images by both detectors.

    Args:
        in_float: The detector on the float graph.
        in_int8: The detector on the int8 graph.
        validation: Normal images, which neither detector was fitted on, at least two.
        against: Real outliers by name, at least two of each.
        seed: Seed of synthetic outliers and resamples.

    Raises:
        DataError: If images do not suffice, one cannot be read, or has outputs that are not finite.
    """
    rng = np.random.default_rng(seed)
    shown = evenly(validation, GATE_IMAGES)
    extractor = in_float.engine.extractor
    found: dict[str, list[Scores]] = {"float": [], "int8": []}
    made: dict[str, list[Scores]] = {"float": [], "int8": []}
    for start in range(0, len(shown), GRAPH_BATCH):
        images = load(shown[start : start + GRAPH_BATCH], extractor.preparation, threads=extractor.threads)
        outliers = [each for _ in range(DRAWS) for each in synthetic_outliers(images, rng).values()]
        for name, fitted in (("float", in_float), ("int8", in_int8)):
            found[name].append(fitted.score_prepared(images))
            made[name] += [fitted.score_prepared(each) for each in outliers]
    normal = (np.concatenate(found["float"]), np.concatenate(found["int8"]))
    sets = {SYNTHETIC: (np.concatenate(made["float"]), np.concatenate(made["int8"]))}
    for name, sources in against.items():
        sets[name] = (in_float.score(sources, f"{name} in float"), in_int8.score(sources, f"{name} in int8"))
    areas, change = {}, {}
    for name, (of_float, of_int8) in sets.items():
        areas[name] = (auroc(normal[0], of_float), auroc(normal[1], of_int8))
        change[name] = paired_bootstrap((normal[1], of_int8), (normal[0], of_float), rng=rng)
    return Gate(areas, change, normal)
