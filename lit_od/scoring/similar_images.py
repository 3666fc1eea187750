"""By what the normal images that an image resembles most are looked for, wherever they are shown."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lit_od.images.batching import Batch, batches
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Scorer
from lit_od.types import Features, Images, Output

SIDE = 32
"""Longest side of the copies whose pixels are compared."""

BATCH_SIZE = 64
"""Images that are prepared at a time."""


def similarity_rows(output: Output, images: Images, outputs: Features) -> Features:
    """Rows (n, d) that lie near each other where images are alike: features, else the pixels of small copies.

    Args:
        output: What the graph computes. Errors say where an image is hard to redraw, and nothing of what is on it.
        images: What it was given, (n, h, w, c) uint8.
        outputs: What it made of them, (n, ...).
    """
    return outputs if output == "features" else tiny(images)


def likenesses(scorer: Scorer, sources: Sequence[Source], preparation: Preparation) -> Iterator[tuple[Batch, Features]]:
    """The rows of images, batch by batch: of a batch's m readable images (m, d), where there are any."""
    if scorer.backbone.output == "features":
        extractor = replace(scorer.extractor, preparation=preparation)
        yield from ((found.batch, found.outputs) for found in extractor.outputs(sources))
    else:  # the graph need not run
        for batch in batches(sources, preparation, batch_size=BATCH_SIZE, threads=scorer.threads):
            yield batch, tiny(batch.images) if len(batch.images) else np.empty((0, 0), dtype=np.float32)


def tiny(images: Images) -> Features:
    """Pixels in [0, 1] of copies of at most `SIDE` a side, (n, d).

    So few suffice to find like images (Torralba, Fergus and Freeman, 80 Million Tiny Images, 2008).

    Args:
        images: At least one, (n, h, w, c) uint8.
    """
    height, width, channels = images.shape[1:]
    small = Preparation(size=(min(height, SIDE), min(width, SIDE)), mode="grey" if channels == 1 else "rgb")
    pixels = np.stack([prepare(image, small) for image in images])
    return pixels.reshape(len(images), -1).astype(np.float32) / 255
