"""Score images on a cluster: each worker loads the bundle once."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from lit_od.backbone.extractor import BATCH_SIZE
from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_file import MODEL, bundle_of
from lit_od.cluster.ray_pool import Pool
from lit_od.cluster.work_items import decode, items
from lit_od.formats.onnx_parts import take_apart
from lit_od.images.sources import Source
from lit_od.scoring.result import Result
from lit_od.scoring.scorer import Scorer


class _Verdicts(msgspec.Struct, frozen=True):
    """An encoded `Result`: names as the file system's bytes, arrays little-endian."""

    name: list[bytes]
    score: bytes
    p_value: bytes
    is_outlier: bytes
    error: dict[int, bytes]


class VerdictWorker:
    """A worker that turns an item into the verdicts on its images.

    Args:
        manifest: The encoded manifest of a bundle or a model file.
        files: Its other files.
        threads: Threads of the worker.
        providers: Execution providers, as `Backbone.load` takes them.
        batch_size: Images a run.
    """

    def __init__(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        threads: int,
        providers: Sequence[str] | None,
        batch_size: int,
    ) -> None:
        place = Path(os.devnull)
        if MODEL in files:
            bundle = bundle_of(place, files[MODEL], take_apart(files[MODEL]))
        else:
            read = manifests.decode(manifest)
            # the driver has read it, and trusts its detector
            bundle = Bundle.of_files(place, read, files, trust=(read.detector.kind,))
        self._scorer = Scorer.of(bundle, threads=threads, providers=providers)
        self._batch_size = batch_size

    def __call__(self, item: bytes) -> bytes:
        """Return the encoded verdicts on the images of an item."""
        results = self._scorer.stream(decode(item).sources(), batch_size=self._batch_size)
        return encoded(Result.joined(list(results)))


def score_images(
    pool: Pool,
    bundle: Bundle,
    sources: Sequence[Source],
    *,
    batch_size: int = BATCH_SIZE,
    ordered: bool = True,
) -> Iterator[Result]:
    """Score all images, once each, as `Scorer.stream` does.

    Args:
        pool: Workers.
        bundle: The bundle that scores; its files are sent to the workers.
        sources: Images that the workers can reach.
        batch_size: Images a run.
        ordered: Yield verdicts in the order of the images, not as items are done.

    Yields:
        Verdicts on the next images.
    """
    arguments = (manifests.encode(bundle.manifest), dict(bundle.files), pool.threads, pool.providers, batch_size)
    for answer in pool.map(VerdictWorker, arguments, items(sources, workers=pool.workers), ordered=ordered):
        yield decoded(answer)


def encoded(result: Result) -> bytes:
    """Return verdicts as a worker sends them."""
    verdicts = _Verdicts(
        [os.fsencode(name) for name in result.name],
        result.score.astype("<f8").tobytes(),
        result.p_value.astype("<f8").tobytes(),
        result.is_outlier.tobytes(),
        {row: os.fsencode(error) for row, error in enumerate(result.error) if error is not None},
    )
    return msgspec.msgpack.encode(verdicts)


def decoded(data: bytes) -> Result:
    """Return the verdicts that `encoded` has written."""
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
