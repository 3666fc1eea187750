"""Find the nearest normal images, by features or by small pixel copies."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lit_od.images.batching import Batch, batches
from lit_od.images.preparation import Preparation, prepare
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Scorer
from lit_od.types import Features, Images, Output

SIDE = 32
"""Longest side of the small copies, in pixels."""

BATCH_SIZE = 64
"""Images that are prepared at a time."""


def similarity_rows(output: Output, images: Images, outputs: Features) -> Features:
    """Return rows (n, d) that are near for similar images.

    These are features, else the pixels of small copies: errors tell where an image is hard to reconstruct, not
    its content.

    Args:
        output: Kind of the graph's output.
        images: The graph's input, (n, h, w, c) uint8.
        outputs: The graph's output, (n, ...).
    """
    return outputs if output == "features" else tiny(images)


def likenesses(scorer: Scorer, sources: Sequence[Source], preparation: Preparation) -> Iterator[tuple[Batch, Features]]:
    """Compute similarity rows of images, batch by batch.

    Args:
        scorer: The loaded bundle.
        sources: The images.
        preparation: The preparation of the images.

    Yields:
        The batch, and the rows (m, d) of its m readable images; (0, 0) if there are none.
    """
    if scorer.backbone.output == "features":
        extractor = replace(scorer.extractor, preparation=preparation)
        yield from ((found.batch, found.outputs) for found in extractor.outputs(sources))
    else:  # pixels are compared, so the graph need not run
        for batch in batches(sources, preparation, batch_size=BATCH_SIZE, threads=scorer.threads):
            yield batch, tiny(batch.images) if len(batch.images) else np.empty((0, 0), dtype=np.float32)


def tiny(images: Images) -> Features:
    """Shrink images to at most `SIDE` a side; return their pixels in [0, 1], (n, d).

    So few pixels suffice to find similar images (Torralba, Fergus and Freeman, 80 Million Tiny Images, 2008).

    Args:
        images: At least one, (n, h, w, c) uint8.
    """
    height, width, channels = images.shape[1:]
    small = Preparation(size=(min(height, SIDE), min(width, SIDE)), mode="grey" if channels == 1 else "rgb")
    pixels = np.stack([prepare(image, small) for image in images])
    return pixels.reshape(len(images), -1).astype(np.float32) / 255
