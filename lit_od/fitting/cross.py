"""Cross calibration: each image is scored by a detector that was fitted without it.

The backbone runs once over all images. Its outputs, in memory or in a temporary file, fit the detector of each fold and
the one of all images; everything that is learnt is learnt anew in each fold. Of several processes the leading one does
this, and hands the results to the others.
"""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lit_od.calibration.method import Folds
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.spec import DetectorSpec, Rows
from lit_od.errors import DataError
from lit_od.fitting.engine import Engine
from lit_od.fitting.partial_state import PartialState
from lit_od.fitting.pixels import keep_of_maps, pixel_rows
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.sources import Source, class_numbers
from lit_od.runtime.threads import limited, thread_count
from lit_od.types import Arrays, Labels, Maps, Outputs, Scores

MOST_BYTES = 2**30
"""Bytes of outputs that are held in memory; more lie in a temporary file."""

AT_ONCE = 1024
"""Images whose outputs are asked of the engine at once."""

LEFT_OUT = 100
"""Most images that are left out one by one; of more there are `FOLDS` folds."""

FOLDS = 10
"""Folds of features and of errors."""

PATCHES_LEFT_OUT, PATCH_FOLDS = 20, 5
"""The same of patches, whose detectors take seconds to fit; five folds fit on as much as a split does."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted detector, and the scores of its calibration inliers by detectors that were fitted without them.

    Attributes:
        detector: The detector.
        gathered: The state of its last pass; None except in the process that leads.
        scores: Scores of the calibration inliers in their order, shape (n,).
        pixels: What `keep_of_maps` gives for those of `pixel_rows`; None where there are none.
        folds: Folds of a cross calibration; None where the inliers were held out.
    """

    detector: Detector
    gathered: PartialState | None
    scores: Scores
    pixels: Maps | None = None
    folds: Folds | None = None


def cross_fit(engine: Engine, spec: DetectorSpec, images: Sequence[Source], *, seed: int) -> Fit:
    """Fit a detector on all images, and score each by a detector that was fitted without it.

    Args:
        engine: The processes that do the work.
        spec: The detector.
        images: Inliers; labelled where the detector needs classes.
        seed: Seed of the folds.

    Raises:
        ConfigError: If an option is invalid.
        DataError: If the images do not suffice, one of them is unfit, or a class has one image.
    """
    labels = class_numbers(images) if spec.needs_labels else None
    threads = thread_count(engine.extractor.threads)
    height, width, _ = engine.extractor.preparation.shape
    rows = folds_of(len(images), fold_count(spec, len(images)), seed=seed, labels=labels)
    with all_outputs(engine, images) as outputs:
        gathered = None
        if engine.leads:
            with limited(max(1, threads // 4)):  # as an engine gathers
                gathered = PartialState(spec.kind, spec.gathered(outputs, labels), 0, len(images))
        detector = engine.finish(spec, gathered)
        left_out: Arrays = {}
        if engine.leads:
            data = _Data(spec, outputs, labels, threads)
            wanted = pixel_rows(detector, len(images), pixels=height * width)
            left_out = _left_out(detector, data) or _by_fold(data, rows, wanted)
        left_out = safetensors.load(engine.share(safetensors.save(left_out)))
    folds = Folds(int(left_out["folds"][0]), bounded=detector.falls_with_rows)
    return Fit(detector, gathered, left_out["scores"], left_out.get("pixels"), folds)


def fold_count(spec: DetectorSpec, images: int) -> int:
    """Return the number of folds of so many images; as many as images leaves each out by itself."""
    one_by_one, folds = (PATCHES_LEFT_OUT, PATCH_FOLDS) if spec.reads() == "patches" else (LEFT_OUT, FOLDS)
    return images if images <= one_by_one else folds


def folds_of(images: int, count: int, *, seed: int, labels: Labels | None = None) -> list[Rows]:
    """Divide images into folds at random; their sizes, overall and of each class, differ by at most one.

    Args:
        images: Number of images, n.
        count: Number of folds, from 2 to n.
        seed: Seed of the division.
        labels: Class numbers, shape (n,); None knows no classes.

    Returns:
        Row numbers of each fold, ascending.

    Raises:
        DataError: If there are fewer than 3 images, or a class has one.
    """
    if images < 3:
        raise DataError(f"wanted at least 3 normal images, got {images}")
    order = np.random.default_rng([seed, images]).permutation(images)
    if labels is not None:
        names, sizes = np.unique(labels, return_counts=True)
        if sizes.min() < 2:
            raise DataError(
                f"{int((sizes < 2).sum())} of {len(names)} classes have 1 image, and cross calibration fits without "
                "it: add images, leave the class out, or give calibration.method split"
            )
        order = order[np.argsort(labels[order], kind="stable")]
    return [np.sort(order[fold::count]) for fold in range(count)]


@contextmanager
def all_outputs(engine: Engine, images: Sequence[Source]) -> Iterator[Outputs]:
    """Run the backbone over all images.

    Args:
        engine: The processes that do the work.
        images: The images, at least one.

    Yields:
        The outputs in order, shape (n, ...), float32; in a temporary file where they exceed `MOST_BYTES`. In processes
        that do not lead no more than the last of them.
    """
    with tempfile.TemporaryDirectory(prefix="lit_od-outputs-") as folder:
        whole: Outputs | None = None
        for start in range(0, len(images), AT_ONCE):
            part = engine.outputs(images[start : start + AT_ONCE])
            if not engine.leads:
                whole = part
                continue
            if whole is None:
                shape = (len(images), *part.shape[1:])
                in_memory = part[:1].nbytes * len(images) <= MOST_BYTES
                whole = (
                    np.empty(shape, part.dtype)
                    if in_memory
                    else np.memmap(Path(folder) / "outputs", part.dtype, "w+", shape=shape)
                )
            whole[start : start + len(part)] = part
        assert whole is not None
        yield whole


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """A detector to fit, and the outputs, classes and threads to do so."""

    spec: DetectorSpec
    outputs: Outputs
    labels: Labels | None
    threads: int


def _left_out(detector: Detector, data: _Data) -> Arrays | None:
    """Return scores by the detector itself without each image's own rows, where it can."""
    with limited(data.threads):
        scores = detector.score_left_out(data.outputs)
    return None if scores is None else {"scores": scores, "folds": np.array([len(scores)])}


def _by_fold(data: _Data, folds: Sequence[Rows], wanted: Rows | None) -> Arrays:
    """Return the scores, and what is kept of the maps of some images, by a detector a fold."""
    count = len(data.outputs)

    def measure(rows: Rows) -> tuple[Rows, Scores, Maps | None]:
        with limited(1):
            others = np.setdiff1d(np.arange(count), rows, assume_unique=True)
            fitted = data.spec.fit(data.outputs, data.labels, rows=others)
            if wanted is None:
                return rows, fitted.score(data.outputs[rows]), None
            assert isinstance(fitted, PixelDetector)
            scores, maps = fitted.score_map(data.outputs[rows])
            return rows, scores, keep_of_maps(fitted, maps[np.isin(rows, wanted)])

    scores, kept = np.empty(count), []
    at_once = min(data.threads, len(folds), max(1, MOST_BYTES // (2 * data.outputs.nbytes)))
    with (
        ThreadPoolExecutor(at_once, thread_name_prefix="fold") as pool,
        tqdm(total=len(folds), desc="calibrating", unit="fold", disable=None, leave=False) as bar,
    ):
        for rows, part, maps in pool.map(measure, folds):
            scores[rows] = part
            kept += [] if maps is None else [maps]
            bar.update()
    found = {"scores": scores, "folds": np.array([len(folds)])}
    return found | ({"pixels": np.concatenate(kept)} if kept else {})
