"""Evaluate a bundle on defects: images by kind, and pixels if it has maps."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lit_od.detectors.base import PixelDetector
from lit_od.errors import DataError
from lit_od.evaluation.counts import Tally, defect_figures_of
from lit_od.evaluation.evaluate import Evaluation, SetSummary, columns, evaluate, known_numbers, percent, summarise
from lit_od.evaluation.image_sets import ImageSet, ImageSets, score_set
from lit_od.evaluation.intervals import Interval, bootstrap_draws, percentile_interval
from lit_od.evaluation.pixel_counts import PixelCounts, Regions
from lit_od.evaluation.pixel_metrics import EXACT_PIXELS, PixelFigures, pixel_figures
from lit_od.formats.text import one_line
from lit_od.images.ground_truth import GroundTruth
from lit_od.images.preparation import Preparation, counted_pixels
from lit_od.images.sources import Source
from lit_od.scoring.scorer import Scorer
from lit_od.types import Scores

TITLES = {"auroc": "AUROC", "aupr": "AUPR", "f1_max": "F1-max", "pixel_auroc": "pixel AUROC"}
"""Names of figures in tables; AUPRO and sPRO come with their limit."""

TOGETHER = "together"
"""Name of all kinds of defect as one set."""

_LOG = logging.getLogger(__name__)
"""Logger that Python prints to standard error where nothing else is set up."""


class _Bootstrap(TypedDict):
    """Options of the bootstrap."""

    resamples: int
    level: float


@dataclass(frozen=True, slots=True)
class DefectFigures:
    """Figures of one kind of defect, or of all, against the normal test images.

    Attributes:
        images: Number of defective images.
        image: AUROC, AUPR and F1-max of their scores, with bootstrap intervals. F1-max is that of the best threshold on
            these very images: a bound, not a choice.
        pixels: Figures of their maps; None without maps or masks, or where no region is left.
    """

    images: int
    image: dict[str, Interval]
    pixels: PixelFigures | None


@dataclass(frozen=True, slots=True)
class DefectEvaluation:
    """Figures of a bundle on defects.

    Attributes:
        name: Layout and name of the category.
        size: Height and width at which maps and masks are compared; None with tiles, at those of the images.
        scores: Scores by image, of normal images first, then by kind.
        images: The usual figures of their sets of scores.
        kinds: Figures by kind of defect.
        together: Figures of all kinds as one set.
        unlabelled: Summaries of images without truth, by name of their set.
        notes: Sentences on what is left out.
    """

    name: str
    size: tuple[int, int] | None
    scores: dict[str, Scores]
    images: Evaluation
    kinds: dict[str, DefectFigures]
    together: DefectFigures
    unlabelled: dict[str, SetSummary]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain dictionaries and numbers, as shares of 1."""
        own = {name: asdict(each) for name, each in [*self.kinds.items(), (TOGETHER, self.together)]}
        tree = {"category": self.name, "defects": own, "notes": list(self.notes)}
        unlabelled = {name: asdict(each) for name, each in self.unlabelled.items()}
        known: dict[str, Any] = known_numbers({**tree, "unlabelled": unlabelled})
        return {**self.images.to_json(), **known}

    def figure_tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Return caption, titles and rows of the tables of images and of pixels, if any."""
        rows = [*self.kinds.items(), (TOGETHER, self.together)]
        tables = [
            (
                f"{self.name}: image figures in percent, with {100 * self.images.level:g} % intervals "
                f"({self.images.resamples:,} bootstrap resamples, seed {self.images.seed})",
                ["defects", "n", *map(title, self.together.image)],
                [[name, f"{each.images:,}", *map(percent, each.image.values())] for name, each in rows],
            )
        ]
        if self.together.pixels is not None:
            shown = "images' own size"
            if self.size is not None:
                shown = f"prepared size, {self.size[0]}x{self.size[1]}, masks resized to nearest pixels"
            tables.append(
                (
                    f"Pixel figures at the {shown}",
                    ["defects", "regions", *map(title, self.together.pixels.figures)],
                    [
                        [name, f"{each.pixels.regions:,}", *map(percent, each.pixels.figures.values())]
                        for name, each in rows
                        if each.pixels is not None
                    ],
                )
            )
        return tables

    def table(self) -> str:
        """Format a plain-text table: images, pixels, and the scores of each set."""
        parts: list[str] = []
        for caption, titles, rows in self.figure_tables():
            parts += [caption, *columns(titles, rows, rule_before_last=True), ""]
        flagged = self.images.score_rows("normal")
        flagged += [
            [name, f"{each.n:,}", f"{each.mean:#.4g}", f"{each.sd:#.4g}", percent(each.flagged)]
            for name, each in self.unlabelled.items()
        ]
        parts += [
            f"Scores, and what is flagged above the threshold {self.images.threshold:.6g} (exact binomial intervals)",
            *columns(["set", "n", "mean", "sd", "flagged %"], flagged),
            *self.notes,
        ]
        return "\n".join(parts)


def title(name: str) -> str:
    """Return a figure's name in tables, such as "AUPRO 0.3"."""
    kind, _, limit = name.partition("_")
    return TITLES.get(name) or f"{ {'aupro': 'AUPRO', 'spro': 'sPRO'}[kind] } {limit}"


def evaluate_defects(
    scorer: Scorer, images: ImageSets, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> DefectEvaluation:
    """Score the sets of a category, with their maps in one pass, and measure both.

    Args:
        scorer: A bundle's scorer.
        images: Normal images, defective ones by kind, and their masks.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
        level: Confidence level of all intervals.

    Raises:
        DataError: If an image or a mask cannot be read, or there is no normal or no defective image.
    """
    sets = [images.inliers, *images.outliers]
    mapped, notes = _mapped(scorer, images)
    height, width = images.inliers.preparation.size
    tiles = images.inliers.preparation.has_tiles  # of large images, whose sizes are not known before
    binned = tiles or sum(len(each.sources) for each in sets) * height * width > EXACT_PIXELS
    scores: dict[str, Scores] = {}
    counts: dict[str, list[PixelCounts]] = {}
    for each in sets:
        if mapped is None:
            scores[each.name] = score_set(scorer, each)
        else:
            truth = None if each is images.inliers else images.truth
            scores[each.name], counts[each.name] = _counted(mapped, scorer, each, truth, binned)
    outliers = {each.name: scores[each.name] for each in images.outliers}
    measure = _Measure(
        scores[images.inliers.name],
        counts.get(images.inliers.name, []),
        saturated=images.truth is not None and images.truth.saturations is not None,
        binned=binned,
        bootstrap={"resamples": resamples, "level": level},
    )
    kinds = {
        name: measure.figures(of_kind, counts.get(name, []), (seed, at))
        for at, (name, of_kind) in enumerate(outliers.items(), start=1)
    }
    every = [each for name in outliers for each in counts.get(name, [])]
    together = measure.figures(np.concatenate(list(outliers.values())), every, (seed, len(outliers) + 1))
    threshold = scorer.calibration.threshold
    return DefectEvaluation(
        name=images.layout or "defects",
        size=None if tiles else (height, width),
        scores=scores,
        images=evaluate(measure.inliers, outliers, threshold=threshold, seed=seed, resamples=resamples, level=level),
        kinds=kinds,
        together=together,
        unlabelled={
            each.name: summarise(score_set(scorer, each), threshold, name=each.name, level=level)
            for each in images.unlabelled
        },
        notes=[*notes, *_vanished(every), *_bounds(together.pixels, binned=binned)],
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Measure:
    """Measures of defective images against the same normal ones."""

    inliers: Scores
    good: Sequence[PixelCounts]
    saturated: bool
    binned: bool
    bootstrap: _Bootstrap

    def figures(self, outliers: Scores, counts: Sequence[PixelCounts], seed: tuple[int, int]) -> DefectFigures:
        """Compute the figures of some defective images from their scores and counts."""
        tally = Tally.of(self.inliers, outliers)
        draws = bootstrap_draws(
            tally,
            inlier_rng=np.random.default_rng([seed[0], 0]),  # the same normal images for every kind
            outlier_rng=np.random.default_rng(seed),
            resamples=self.bootstrap["resamples"],
            measure=defect_figures_of,
        )
        values = defect_figures_of(tally.inliers, tally.outliers)
        pixels = None
        if any(each.regions for each in counts):
            rng = np.random.default_rng([*seed, 1])
            pixels = pixel_figures(
                self.good, counts, rng=rng, saturated=self.saturated, binned=self.binned, **self.bootstrap
            )
        level = self.bootstrap["level"]
        image = {name: percentile_interval(float(value), draws[name], level) for name, value in values.items()}
        return DefectFigures(len(outliers), image, pixels)


def _mapped(scorer: Scorer, images: ImageSets) -> tuple[PixelDetector | None, list[str]]:
    """Return the detector if its maps can be compared with masks; else None, and why."""
    if images.truth is None:
        return None, ["There are no masks, so pixels are not evaluated."]
    if not isinstance(scorer.detector, PixelDetector):
        return None, ["The bundle's detector has no maps in one pass, so pixels are not evaluated."]
    return scorer.detector, []


def _vanished(defective: Sequence[PixelCounts]) -> list[str]:
    """Return a sentence on masks that are too small for the prepared size."""
    count = sum(not each.regions for each in defective)
    shown = (
        f"The masks of {count:,} defective images vanish at the prepared size, or outside the region of interest: "
        "their pixels count as free of defects."
    )
    return [shown] if count else []


def _bounds(found: PixelFigures | None, *, binned: bool) -> list[str]:
    """Return a sentence on the error of counts in bins."""
    if found is None or not binned:
        return []
    bounds = ", ".join(f"{title(name)} by at most {100 * bound:.2g}" for name, bound in found.bounds.items())
    return [f"Pixels are counted in 2^20 bins of scores, which moves, in percent, {bounds}."]


def _counted(
    detector: PixelDetector, scorer: Scorer, images: ImageSet, truth: GroundTruth | None, binned: bool
) -> tuple[Scores, list[PixelCounts]]:
    """Score a set with its maps, and count the pixels of each image.

    Pixels outside the region of interest are left out, and those of a defective image whose masks are empty, since
    their truth is unknown.
    """
    scores, counts, empty = [np.empty(0)], [], []
    extractor = replace(scorer.extractor, preparation=images.preparation)
    task = one_line(images.name, most=40)
    with tqdm(total=len(images.sources), desc=task, unit="img", disable=None, leave=False) as bar:
        for found in extractor.scores(images.sources, detector, maps=True):
            found.require_sound()
            maps = np.empty((0, 0, 0), np.float32) if found.maps is None else found.maps
            preparation = images.preparation.for_image(found.batch.geometry[0].upright)
            counted = counted_pixels(preparation)
            if maps.shape[1:] != preparation.size:
                raise DataError(
                    f"the detector's maps are {maps.shape[1]}x{maps.shape[2]}, wanted the prepared size "
                    f"{preparation.size[0]}x{preparation.size[1]}"
                )
            scores.append(found.scores)
            for source, scored in zip(found.batch.sources, maps.astype(np.float32, copy=False), strict=True):
                regions = None if truth is None else _regions(source, preparation, truth, counted)
                if truth is not None and regions is None:
                    empty.append(source)
                else:
                    scored = scored if counted is None else scored[counted]
                    counts.append(PixelCounts.of(scored, regions, binned=binned))
            bar.update(len(found.scores))
    if empty:
        _LOG.warning(
            "lit-od: %s masks of defective images are empty, the first is that of %s: their pixels are left out",
            f"{len(empty):,}",
            one_line(empty[0].name),
        )
    return np.concatenate(scores), counts


def _regions(
    image: Source, preparation: Preparation, truth: GroundTruth, counted: NDArray[np.bool_] | None
) -> Regions | None:
    """Return the regions of a defective image among the pixels that count.

    None if its masks are empty.
    """
    masks = truth.masks(image, preparation)
    if not masks:
        return None
    inside = np.ones(preparation.size, bool) if counted is None else counted
    pixels = [each.pixels & inside for each in masks]
    if truth.saturations is not None:
        regions = Regions.of_channels(pixels, [each.saturation for each in masks])
    else:
        regions = Regions.of_mask(np.any(pixels, axis=0))
    return regions if counted is None else regions.within(counted)
