"""The images of a set that say most about a detector, each with what explains its score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_od.backbone.extractor import extract
from lit_od.detectors import KNN, PixelDetector
from lit_od.detectors.bank.options import Metric
from lit_od.errors import DataError
from lit_od.evaluation.image_sets import ImageSet
from lit_od.images.batching import load
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from lit_od.scoring.drawing import overlay
from lit_od.scoring.maps import HeatMaps
from lit_od.scoring.scorer import Scorer
from lit_od.scoring.similar_images import likenesses, similarity_rows
from lit_od.types import Features, Images, Scores

SHOWN = 12
"""Images of a gallery."""

NEIGHBOURS = 3
"""Normal images beside each image."""

SEARCHED = 2000
"""Normal images among which the nearest are looked for, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """One image of a gallery.

    Attributes:
        name: As its row of scores has it.
        score: Its outlier score.
        p_value: Its p-value.
        image: As the model sees it, (h, w, c) uint8.
        neighbours: The nearest normal images, nearest first, with their names.
        explained: Reconstruction and heat beside the image, where the detector reads errors.
        heat: The image under its heat, (h, w, 3) uint8, of the most outlying where the detector reads features.
    """

    name: str
    score: float
    p_value: float
    image: Images
    neighbours: Sequence[tuple[str, Images]] = ()
    explained: Image.Image | None = None
    heat: Images | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """The most and the least outlying images of a set, each from the extreme inwards."""

    name: str
    most: Sequence[Card]
    least: Sequence[Card]


class Normals:
    """Normal images that the nearest are looked for among."""

    def __init__(self, scorer: Scorer, images: ImageSet) -> None:
        """Run the backbone over at most `SEARCHED` of the images, evenly spread.

        Raises:
            DataError: If one cannot be read, or there is none.
        """
        if not images.sources:
            raise DataError("nearest normal images need normal images, got none")
        rows = np.unique(np.linspace(0, len(images.sources) - 1, SEARCHED).astype(int))
        self.sources = [images.sources[row] for row in rows]
        self.preparation = images.preparation
        self._output = scorer.backbone.output
        found = []
        for batch, rows_of_batch in likenesses(scorer, self.sources, images.preparation):
            batch.require_readable()
            found.append(rows_of_batch)
        metric: Metric = "cosine" if self._output == "features" else "l2"
        self._detector = KNN.fit(np.concatenate(found), k=1, metric=metric)

    def nearest(self, images: Images, outputs: Features, names: Sequence[str]) -> list[list[tuple[str, Images]]]:
        """The nearest normal images of each of n images, by the cosine of features, else by their pixels.

        An image is not its own neighbour: one of the same name is passed over.

        Args:
            images: Prepared, (n, h, w, c) uint8.
            outputs: What the graph makes of them, (n, ...).
            names: Theirs.
        """
        bank = self._detector.bank
        wanted = min(NEIGHBOURS + 1, len(self.sources))
        _, ids = bank.nearest(bank.prepare(similarity_rows(self._output, images, outputs)), wanted)
        kept = [
            [row for row in near if self.sources[row].name != name][:NEIGHBOURS]
            for near, name in zip(ids, names, strict=True)
        ]
        rows = sorted({row for each in kept for row in each})
        pixels = dict(zip(rows, load([self.sources[row] for row in rows], self.preparation), strict=True))
        return [[(self.sources[row].name, pixels[row]) for row in each] for each in kept]


def gallery(
    scorer: Scorer, images: ImageSet, scores: Scores, *, maps: HeatMaps, normals: Normals | None = None
) -> Gallery:
    """The `SHOWN` most and least outlying images of a set; each image once.

    Args:
        scorer: A bundle, ready.
        images: The set.
        scores: Shape (n,), of its images.
        maps: Of the same bundle.
        normals: Where neighbours are looked for; None shows none.

    Raises:
        DataError: If an image cannot be read any more.
    """
    order = np.argsort(-scores, kind="stable")
    most = order[: min(SHOWN, -(-len(order) // 2))]
    least = order[len(most) :][::-1][:SHOWN]
    return Gallery(
        images.name,
        _cards(scorer, images, scores, most, maps, normals, heated=True),
        _cards(scorer, images, scores, least, maps, normals, heated=False),
    )


def _cards(
    scorer: Scorer,
    images: ImageSet,
    scores: Scores,
    rows: NDArray[np.intp],
    maps: HeatMaps,
    normals: Normals | None,
    *,
    heated: bool,
) -> list[Card]:
    if not len(rows):
        return []
    sources = [images.sources[row] for row in rows]
    parts = _extracted(scorer, sources, images.preparation)
    pixels = np.concatenate([each for each, _ in parts])
    outputs = np.concatenate([each for _, each in parts])
    names = [source.name for source in sources]
    near = [[] for _ in names] if normals is None else normals.nearest(pixels, outputs, names)
    explained: list[Image.Image | None] = [None for _ in names]
    heats: list[Images | None] = [None for _ in names]
    if isinstance(scorer.detector, PixelDetector):
        explained = list(maps.pictures(pixels, outputs))
    else:
        heats = list(overlay(pixels, maps.heats(pixels))) if heated else heats
    p_values = scorer.calibration.p_values(scores[rows])
    return [
        Card(names[at], float(scores[row]), float(p_values[at]), pixels[at], near[at], explained[at], heats[at])
        for at, row in enumerate(rows)
    ]


def _extracted(scorer: Scorer, sources: Sequence[Source], preparation: Preparation) -> list[tuple[Images, Features]]:
    parts = []
    for batch, outputs in extract(scorer.backbone, sources, preparation, threads=scorer.threads):
        batch.require_readable()
        parts.append((batch.images, outputs))
    return parts
