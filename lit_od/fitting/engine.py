"""One pass of images through the exported graph: into a detector, or into scores, by one process or by several.

Each process of a group takes its share of the images; what they find is merged in the order of the images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lit_od.backbone.extractor import extract, extract_and_score
from lit_od.backbone.model import Backbone
from lit_od.detectors import KNN, Detector
from lit_od.detectors.base import searches
from lit_od.detectors.knn import KNNAccumulator
from lit_od.detectors.registry import accumulator, detector_from_state
from lit_od.errors import DataError
from lit_od.fitting.partial_state import PartialState, merged
from lit_od.fitting.shards import all_gather, own_shard
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.batching import Batch
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source, class_numbers
from lit_od.runtime.processes import ALONE, Group
from lit_od.runtime.threads import limited, thread_count
from lit_od.types import Features, Labels, Scores


def fit_detector(
    backbone: Backbone,
    preparation: Preparation,
    sources: Sequence[Source],
    detector: Mapping[str, Any],
    *,
    threads: int | None = None,
    group: Group = ALONE,
) -> Detector:
    """A detector from what the backbone computes of inliers, one batch in memory at a time; all processes have it."""
    gathered = gather(backbone, preparation, sources, detector, threads=threads, group=group)
    return finish(gathered, detector, threads=threads, group=group)


def partial_fit(
    backbone: Backbone,
    preparation: Preparation,
    sources: Sequence[Source],
    detector: Mapping[str, Any],
    *,
    first_row: int = 0,
    labels: Labels | None = None,
    threads: int | None = None,
    bar: bool = True,
) -> PartialState:
    """What the backbone computes of one share of the inliers, gathered for a detector; shares `merged` are the fit.

    Args:
        backbone: The graph.
        preparation: How every image is prepared.
        sources: The share's images, consecutive ones.
        detector: `kind` and options.
        first_row: Number of the first one among all images.
        labels: Their class numbers, shape (n,), for class-conditional detectors.
        threads: Threads of decoding and of numpy's products.
        bar: Whether to show progress where standard error is a terminal.

    Raises:
        ConfigError: If an option is wrong.
        DataError: If an image cannot be read, or the graph makes no number of it.
    """
    options = dict(detector)
    kind = str(options.pop("kind", None))
    gathered = accumulator(kind, options, first_row=first_row)
    done = 0
    # threads of numpy's products, beside those that decode and run the next images
    beside = max(1, thread_count(threads) // 4)
    with limited(beside), _progress(len(sources), "fitting", bar) as progress:
        for batch, outputs in extract(backbone, sources, preparation, threads=threads):
            _require_sound(batch, outputs)
            gathered.update(outputs, None if labels is None else labels[done : done + len(outputs)])
            done += len(outputs)
            progress.update(len(outputs))
    return PartialState(kind, gathered, first_row, done)


def gather(
    backbone: Backbone,
    preparation: Preparation,
    sources: Sequence[Source],
    detector: Mapping[str, Any],
    *,
    threads: int | None,
    group: Group,
) -> PartialState | None:
    """What the backbone computes of all inliers, gathered for a detector; None in all processes but the first."""
    labels = class_numbers(sources) if detector.get("class_conditional") else None
    own = own_shard(len(sources), group)
    part = partial_fit(
        backbone,
        preparation,
        sources[own.start : own.stop],
        detector,
        first_row=own.start,
        labels=None if labels is None else labels[own.start : own.stop],
        threads=threads,
        bar=group.rank == 0,
    )
    if group.size == 1:
        return part
    with limited(threads):
        parts = list(group.gather(part.to_bytes())) if group.rank else merged(group.gather(part.to_bytes()))
    return parts if isinstance(parts, PartialState) else None


def finish(
    gathered: PartialState | None, detector: Mapping[str, Any], *, threads: int | None, group: Group
) -> Detector:
    """The fitted detector, in all processes."""
    if gathered is not None:
        with limited(threads):
            fitted = gathered.finish()
        if group.size > 1:
            group.broadcast(safetensors.save(fitted.state()))
        return fitted
    options = dict(detector)
    kind = str(options.pop("kind", None))
    return detector_from_state(kind, options, safetensors.load(group.broadcast(b"")))


def bank_cost(
    gathered: PartialState | None,
    fitted: Detector,
    backbone: Backbone,
    preparation: Preparation,
    fit: Sequence[Source],
    validation: Sequence[Source],
    *,
    threads: int | None,
    group: Group,
) -> dict[str, Any]:
    """Rows, bytes and rank agreement of a bank that is smaller than the rows it was chosen from, as `bank`."""
    if not isinstance(fitted, KNN) or not validation:
        return {}
    if fitted.settings.method_of() == "sample" or len(fitted.bank.rows) == len(fit):
        return {}
    own, rows = own_shard(len(validation), group), [np.empty((0, fitted.width), np.float32)]
    for batch, outputs in extract(backbone, validation[own.start : own.stop], preparation, threads=threads):
        _require_sound(batch, outputs)
        rows.append(outputs)
    everything = all_gather(np.concatenate(rows), group)
    if gathered is None or not isinstance(gathered.gathered, KNNAccumulator):
        return {}
    with limited(threads):
        cost = gathered.gathered.cost(fitted, everything)
    return {"bank": {"rows": cost.rows, "of_rows": cost.of_rows, "bytes": cost.size, "rank_agreement": cost.agreement}}


def score_all(
    backbone: Backbone,
    preparation: Preparation,
    detector: Detector,
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    what: str = "scoring",
    group: Group = ALONE,
) -> Scores:
    """Scores of images that must all be readable, shape (n,); the same in all processes, which share the work."""
    scores = [np.empty(0)]
    own = own_shard(len(sources), group)

    def score(outputs: Features) -> Scores:
        return detector.score(outputs) if _sound(outputs).all() else np.full(len(outputs), np.nan)

    with _progress(len(own), what, group.rank == 0) as bar:
        found = extract_and_score(
            backbone,
            sources[own.start : own.stop],
            preparation,
            score,
            beside=not searches(detector),
            threads=threads,
        )
        for batch, outputs, scored in found:
            _require_sound(batch, outputs)
            scores.append(scored)
            bar.update(len(outputs))
    return all_gather(np.concatenate(scores), group)


def _require_sound(batch: Batch, outputs: Features) -> None:
    """Raise DataError if an image could not be read or the graph made no number of it, naming the first."""
    batch.require_readable()
    sound = _sound(outputs)
    if not sound.all():
        raise DataError(
            f"{batch.sources[int(np.argmin(sound))].name}: the backbone gives NaN or infinity for this image. "
            "Take it out, or use another backbone"
        )


def _sound(outputs: Features) -> NDArray[np.bool_]:
    """Of which images the backbone makes numbers, (n,)."""
    return np.asarray(np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))


def _progress(total: int, what: str, shown: bool) -> "tqdm[Any]":
    return tqdm(total=total, desc=what, unit="img", disable=None if shown else True, leave=False)
