"""Score images on a cluster: each worker loads the bundle once."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import Bundle
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.work_items import decode, items
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Result, Scorer


class _Verdicts(msgspec.Struct, frozen=True):
    """A `Result` on its way; names and errors as the bytes of the file system, arrays as little-endian bytes."""

    name: list[bytes]
    score: bytes
    p_value: bytes
    is_outlier: bytes
    error: dict[int, bytes]


class VerdictWorker:
    """The work of one worker: from an item to the verdicts on its images."""

    def __init__(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        threads: int,
        providers: Sequence[str] | None,
        batch_size: int,
    ) -> None:
        read = manifests.decode(manifest)
        # The driver has read it, and trusts its detector.
        bundle = Bundle.of_files(Path(os.devnull), read, files, trust=(read.detector.kind,))
        self._scorer = Scorer.of(bundle, threads=threads, providers=providers)
        self._batch_size = batch_size

    def __call__(self, item: bytes) -> bytes:
        """Verdicts on the images of an item, encoded."""
        return encoded(list(self._scorer.stream(decode(item).sources(), batch_size=self._batch_size)))


def score_images(
    pool: Pool,
    bundle: Bundle,
    sources: Sequence[Source],
    *,
    batch_size: int = BATCH_SIZE,
    ordered: bool = True,
) -> Iterator[Result]:
    """Verdicts on all images, once each, as `Scorer.stream` gives them.

    Args:
        pool: Workers.
        bundle: What scores; its files are sent to the workers.
        sources: Images that the workers can reach.
        batch_size: Images a run.
        ordered: Whether verdicts come in the order of the images, or as items are done.

    Yields:
        Verdicts on the next images.
    """
    given = (manifests.encode(bundle.manifest), dict(bundle.files), pool.threads, pool.providers, batch_size)
    for answer in pool.map(VerdictWorker, given, items(sources, workers=pool.workers), ordered=ordered):
        yield decoded(answer)


def encoded(results: Sequence[Result]) -> bytes:
    """Verdicts laid end to end, as a worker sends them."""
    errors = [error for result in results for error in result.error]
    verdicts = _Verdicts(
        [os.fsencode(name) for result in results for name in result.name],
        b"".join(result.score.astype("<f8").tobytes() for result in results),
        b"".join(result.p_value.astype("<f8").tobytes() for result in results),
        b"".join(result.is_outlier.tobytes() for result in results),
        {row: os.fsencode(error) for row, error in enumerate(errors) if error is not None},
    )
    return msgspec.msgpack.encode(verdicts)


def decoded(data: bytes) -> Result:
    """What `encoded` has laid end to end."""
    verdicts = msgspec.msgpack.decode(data, type=_Verdicts)
    names = [os.fsdecode(name) for name in verdicts.name]
    errors: list[str | None] = [None] * len(names)
    for row, error in verdicts.error.items():
        errors[row] = os.fsdecode(error)
    return Result(
        names,
        np.frombuffer(verdicts.score, "<f8"),
        np.frombuffer(verdicts.p_value, "<f8"),
        np.frombuffer(verdicts.is_outlier, np.bool_),
        errors,
    )
