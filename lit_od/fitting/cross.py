"""Cross calibration: each image is scored by a detector fitted without it.

The backbone runs once over all images. Its outputs, in memory or in a temporary file, fit the detector of each fold and
the one of all images; everything that is learnt is learnt anew in each fold. Where images fit in several views, all
views of an image are in one fold, and its score is that of the image itself. A single image is scored by a detector
fitted on its other views, which says nothing of other images. Of several processes the leading one does
this, and hands the results to the others.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from tqdm import tqdm

from lit_od.calibration.method import Folds
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.spec import DetectorSpec, Rows
from lit_od.errors import DataError
from lit_od.fitting.engine import Engine, fit_detector, keep_of_maps
from lit_od.fitting.partial_state import PartialState
from lit_od.fitting.pixels import maps_for_pixels, pixel_rows
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.sources import Source, class_numbers
from lit_od.runtime.threads import limited, thread_count, threads_of_a_generator
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
    """A fitted detector, and scores of inliers that were not fitted on.

    Attributes:
        detector: The detector.
        gathered: The state of its last pass; None except in the process that leads.
        scores: Scores of the calibration inliers in their order, shape (n,).
        pixels: Results of `keep_of_maps` for those of `pixel_rows`; None where there are none.
        folds: Folds of a cross calibration; None where the inliers were held out.
    """

    detector: Detector
    gathered: PartialState | None
    scores: Scores
    pixels: Maps | None = None
    folds: Folds | None = None


def cross_fit(engine: Engine, spec: DetectorSpec, images: Sequence[Source], *, seed: int, views: int = 1) -> Fit:
    """Fit a detector on all images, and score each by one fitted without it.

    Args:
        engine: The processes that do the work.
        spec: The detector.
        images: Inliers, or their views image by image, itself first; labelled where the detector needs classes.
        seed: Seed of the folds.
        views: Views of each image.

    Raises:
        ConfigError: If an option is invalid.
        DataError: If the images do not suffice, one of them is unfit, or a class has one image.
    """
    if engine.extractor.preparation.has_tiles:
        return _of_tiles(engine, spec, images, seed=seed)
    labels = class_numbers(images) if spec.needs_labels else None
    threads = thread_count(engine.extractor.threads)
    count, leaves_out = len(images) // views, spec.leaves_out and views == 1
    of_images = None if labels is None else labels[::views]
    alone = count == 1 and views > 1
    rows = [np.array([0])] if alone else folds_of(count, fold_count(spec, count), seed=seed, labels=of_images)
    with (
        all_outputs(engine, images) as outputs,
        threads_of_a_generator(_at_once(threads, outputs), "fold") as pool,
    ):
        gathered = None
        folds = Scoring(spec, outputs, labels, math.prod(engine.extractor.preparation.shape[:2]), views)
        parts: Iterator[_Part] = iter(())
        if engine.leads:
            if not leaves_out:
                parts = pool.map(folds.score, rows)
            with limited(max(1, threads // 4)):  # as an engine gathers
                gathered = PartialState(spec.kind, spec.gathered(outputs, labels), 0, len(images))
        detector = engine.finish(spec, gathered)
        left_out: Arrays = {}
        if engine.leads:
            left_out = _left_out(detector, outputs, threads) if leaves_out else _joined(parts, rows)
        left_out = safetensors.load(engine.share(safetensors.save(left_out)))
    bound = Folds(count if leaves_out else len(rows), bounded=detector.falls_with_rows)
    return Fit(detector, gathered, left_out["scores"], left_out.get("pixels"), bound)


def _of_tiles(engine: Engine, spec: DetectorSpec, images: Sequence[Source], *, seed: int) -> Fit:
    """Fit on the tiles of all images, and score each by a detector fitted without it.

    The backbone runs anew for every fold: its outputs for tiles are too large to be kept.

    Raises:
        DataError: If there are fewer than 2 images.
    """
    if len(images) < 2:
        raise DataError("1 normal image leaves none to calibrate, and tiles fit in no views: pass more images")
    rows, scores, kept = folds_of(len(images), min(PATCH_FOLDS, len(images)), seed=seed), np.empty(len(images)), []
    for fold in rows:
        without = sorted(set(range(len(images))) - set(fold.tolist()))
        detector, _ = fit_detector(engine, spec, [images[row] for row in without])
        held = [images[row] for row in fold]
        scores[fold] = engine.score(detector, held, task="calibrating")
        pixels = maps_for_pixels(engine, detector, held)
        kept += [] if pixels is None else [pixels]
    detector, gathered = fit_detector(engine, spec, images)
    bound = Folds(len(rows), bounded=detector.falls_with_rows)
    return Fit(detector, gathered, scores, np.concatenate(kept) if kept else None, bound)


def fold_count(spec: DetectorSpec, images: int) -> int:
    """Return the number of folds; as many as images leaves each out by itself."""
    one_by_one, folds = (PATCHES_LEFT_OUT, PATCH_FOLDS) if spec.reads() == "patches" else (LEFT_OUT, FOLDS)
    return images if images <= one_by_one else folds


def folds_of(images: int, count: int, *, seed: int, labels: Labels | None = None) -> list[Rows]:
    """Divide images into folds at random.

    The sizes of two folds differ by at most one, and so do their numbers of a class.

    Args:
        images: Number of images, n.
        count: Number of folds, from 2 to n.
        seed: Seed of the division.
        labels: Class numbers, shape (n,); None knows no classes.

    Returns:
        Row numbers of each fold, ascending.

    Raises:
        DataError: If there are fewer than 2 images, or a class has one.
    """
    if images < 2:
        raise DataError(
            "1 normal image leaves none to calibrate: pass more images, or let it fit in several views, as recipe "
            "defects-few does"
        )
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


def _at_once(threads: int, outputs: Outputs) -> int:
    """Return the number of folds that are fitted at once.

    Each may take as much memory as all outputs twice.
    """
    return min(threads, max(1, MOST_BYTES // (2 * max(1, outputs.nbytes))))


_Part: TypeAlias = tuple[Scores, Maps | None]
"""Scores of a fold's images, and what is kept of their maps."""


@dataclass(frozen=True, slots=True, eq=False)
class Scoring:
    """Fits a detector without a fold of images, and scores them.

    Attributes:
        spec: The detector.
        outputs: Outputs of all images, or of their views image by image, shape (n, ...).
        labels: Class numbers, shape (n,); None where the detector needs no classes.
        pixels: Number of pixels of a prepared image.
        views: Views of each image, itself first.
    """

    spec: DetectorSpec
    outputs: Outputs
    labels: Labels | None
    pixels: int
    views: int = 1

    def score(self, fold: Rows) -> _Part:
        """Score the images of a fold, on one thread.

        Raises:
            DataError: If the other images do not suffice.
        """
        count, of_fold = len(self.outputs) // self.views, self.outputs[fold * self.views]
        with limited(1):
            others = np.setdiff1d(np.arange(count), fold, assume_unique=True)
            rows = (others[:, None] * self.views + np.arange(self.views)).ravel()
            if count == 1:
                rows = np.arange(1, self.views)
            try:
                fitted = self.spec.fit(self.outputs, self.labels, rows=rows)
            except DataError as error:  # it counts the rows of the fold, which nobody gave
                fitting = f"{len(rows)} views of 1 image" if count == 1 else f"{len(others):,} of {count:,} images"
                raise DataError(f"cross calibration fits on {fitting}: {error}") from None
            wanted = pixel_rows(fitted, count, pixels=self.pixels)
            if wanted is None:
                return fitted.score(of_fold), None
            assert isinstance(fitted, PixelDetector)
            scores, maps = fitted.score_map(of_fold)
            return scores, keep_of_maps(fitted, maps[np.isin(fold, wanted)])


def _left_out(detector: Detector, outputs: Outputs, threads: int) -> Arrays:
    """Return scores by the detector itself, without each image's own rows."""
    with limited(threads):
        return {"scores": detector.score_left_out(outputs)}


def _joined(parts: Iterator[_Part], folds: Sequence[Rows]) -> Arrays:
    """Join the scores of all folds in the order of the images, and kept maps."""
    scores, kept = np.empty(sum(map(len, folds))), []
    with tqdm(total=len(folds), desc="calibrating", unit="fold", disable=None, leave=False) as bar:
        for fold, (part, maps) in zip(folds, parts, strict=True):
            scores[fold] = part
            kept += [] if maps is None else [maps]
            bar.update()
    return {"scores": scores} | ({"pixels": np.concatenate(kept)} if kept else {})
