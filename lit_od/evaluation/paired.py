"""Compare two bundles on the same images: ranks, verdicts and AUROC.

Ranks are compared, not scores: those of two detectors are on different scales. AUROC differences have DeLong's paired
interval, which counts that both detectors scored the same images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_od.detectors.bank.coreset import average_ranks, rank_agreement
from lit_od.errors import DataError
from lit_od.evaluation.evaluate import columns
from lit_od.evaluation.intervals import Comparison, delong_test
from lit_od.formats.text import unicode_text
from lit_od.scoring.result import Result
from lit_od.types import Scores, Stats

SHOWN = 20
"""Images of a table."""

VERDICTS = ("neither", "first", "second", "both")
"""The bundles that call an image an outlier."""


@dataclass(frozen=True, slots=True, eq=False)
class PairedScores:
    """Verdicts of two bundles on the same n images, each of which both could score.

    Attributes:
        first: The first bundle's.
        second: The second bundle's, in the same order.
        sets: Name of each image's set, length n; empty for images of which nothing is known.
        left_out: Number of images that one of the bundles could not score.
    """

    first: Result
    second: Result
    sets: Sequence[str]
    left_out: int

    @classmethod
    def of(cls, first: Result, second: Result, sets: Sequence[str]) -> "PairedScores":
        """Keep the images that both bundles could score.

        Args:
            first: The first bundle's results.
            second: The second bundle's, of the same images in the same order.
            sets: Name of each image's set.

        Raises:
            DataError: If the images are not the same, or fewer than two are left.
        """
        if list(first.name) != list(second.name) or len(first) != len(sets):
            raise DataError("both bundles must score the same images in the same order")
        sound = np.isfinite(first.score) & np.isfinite(second.score)
        if sound.sum() < 2:
            raise DataError(f"a comparison needs two images that both bundles can score, got {int(sound.sum())}")
        rows = np.flatnonzero(sound)
        kept = [sets[row] for row in rows.tolist()]
        return cls(_rows_of(first, rows), _rows_of(second, rows), kept, int((~sound).sum()))

    @property
    def verdicts(self) -> list[str]:
        """The bundles that call each image an outlier, of `VERDICTS`, length n."""
        codes = self.first.is_outlier + 2 * self.second.is_outlier.astype(int)
        return [VERDICTS[code] for code in codes.tolist()]

    @property
    def shares_below(self) -> tuple[Stats, Stats]:
        """Shares of the other images that score lower, (n,) a bundle; ties count half."""
        first, second = (average_ranks(each.score) / (len(self.sets) - 1) for each in (self.first, self.second))
        return first, second


@dataclass(frozen=True, slots=True)
class Change:
    """One image under two bundles; of each pair the first bundle's value comes first.

    Attributes:
        row: Its position among the compared images.
        name: Its name.
        set: Name of its set; empty where nothing is known of it.
        below: Share of the other images that score lower.
        p_value: Its p-values.
        score: Its scores.
        verdict: The bundles that call it an outlier, of `VERDICTS`.
    """

    row: int
    name: str
    set: str
    below: tuple[float, float]
    p_value: tuple[float, float]
    score: tuple[float, float]
    verdict: str


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Agreement and differences of two bundles.

    Attributes:
        bundles: Names of the bundles.
        images: Number of images that both scored.
        left_out: Number of images that one of them could not score.
        agreement: Spearman's rank correlation of their scores; None where a bundle gives all images one score.
        verdicts: Number of images by the bundles that call them outliers.
        areas: AUROC of both, and its difference, first less second, by set of outliers.
        moved: Images by the change of their rank, the largest first.
        turned: Images whose verdict differs, by the ratio of their p-values, the largest first.
    """

    bundles: tuple[str, str]
    images: int
    left_out: int
    agreement: float | None
    verdicts: dict[str, int]
    areas: dict[str, Comparison]
    moved: tuple[Change, ...]
    turned: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain dictionaries, lists and numbers."""
        tree = asdict(self)
        tree["areas"] = {unicode_text(name): _finite(asdict(each)) for name, each in self.areas.items()}
        for key in ("moved", "turned"):
            for change in tree[key]:
                change["name"], change["set"] = unicode_text(change["name"]), unicode_text(change["set"])
        return tree

    def area_rows(self) -> list[list[str]]:
        """Return rows of set, both AUROC, difference with interval, and p-value."""
        return [
            [
                name,
                f"{100 * each.first:.2f}",
                f"{100 * each.second:.2f}",
                f"{100 * each.difference.value:+.2f} "
                f"[{100 * each.difference.low:+.2f} {100 * each.difference.high:+.2f}]",
                f"{each.p_value:.3g}",
            ]
            for name, each in self.areas.items()
        ]

    def table(self) -> str:
        """Format a plain-text table of the figures and of the images that changed most."""
        first, second = self.bundles
        counts = self.verdicts
        agreement = "none: a bundle gives all images one score" if self.agreement is None else f"{self.agreement:.4f}"
        lines = [
            f"A {first}, B {second}",
            f"{self.images:,} images, {self.left_out:,} left out that one could not score",
            f"rank correlation (Spearman): {agreement}",
            f"outliers by both {counts['both']:,}, by A alone {counts['first']:,}, by B alone {counts['second']:,}, "
            f"by neither {counts['neither']:,}",
        ]
        if self.areas:
            lines += ["", "AUROC in percent, with DeLong's 95 % interval of the difference"]
            lines += columns(["outliers", "A", "B", "A - B", "p"], self.area_rows())
        for title, changes in (("Largest changes of rank", self.moved), ("Verdicts that differ", self.turned)):
            if changes:
                more = f", {SHOWN} of {len(changes):,}" if len(changes) > SHOWN else ""
                lines += ["", f"{title}{more} (share of images that score lower, in percent)"]
                lines += columns(["image", "set", "A", "B", "p of A", "p of B", "outlier by"], _cells(changes[:SHOWN]))
        return "\n".join(lines)


def compare(bundles: tuple[str, str], scores: PairedScores, *, inliers: str | None = None) -> PairedComparison:
    """Compare two bundles on the same images.

    Args:
        bundles: Their names.
        scores: Their verdicts.
        inliers: Name of the set of inliers, against which AUROC of all other named sets is compared; None compares
            none.

    Raises:
        DataError: If a set has fewer than two images that both could score.
    """
    below = scores.shares_below
    verdicts = scores.verdicts
    results = scores.first, scores.second
    rank_change = np.abs(below[1] - below[0])
    ratio = np.abs(np.log(results[1].p_value / results[0].p_value))
    differs = np.flatnonzero(results[0].is_outlier != results[1].is_outlier)

    def change(row: int) -> Change:
        first, second = results
        return Change(
            row,
            first.name[row],
            scores.sets[row],
            (float(below[0][row]), float(below[1][row])),
            (float(first.p_value[row]), float(second.p_value[row])),
            (float(first.score[row]), float(second.score[row])),
            verdicts[row],
        )

    by_rank = np.argsort(-rank_change, kind="stable")
    by_ratio = differs[np.argsort(-ratio[differs], kind="stable")]
    counts = Counter(verdicts)
    try:
        agreement = rank_agreement(results[0].score, results[1].score)
    except DataError:  # a bundle that gives all images one score ranks none
        agreement = None
    return PairedComparison(
        bundles,
        len(verdicts),
        scores.left_out,
        agreement,
        {name: counts[name] for name in VERDICTS},
        {} if inliers is None else _areas(scores, inliers),
        tuple(change(row) for row in by_rank.tolist() if rank_change[row] > 0),
        tuple(change(row) for row in by_ratio.tolist()),
    )


def _areas(scores: PairedScores, inliers: str) -> dict[str, Comparison]:
    """Compare AUROC for each set of outliers."""
    names = np.array(scores.sets, dtype=object)
    results = scores.first.score, scores.second.score

    def of(name: str) -> tuple[Scores, Scores]:
        return results[0][names == name], results[1][names == name]

    outliers = [name for name in dict.fromkeys(scores.sets) if name not in ("", inliers)]
    normal = of(inliers)
    return {name: delong_test(normal[0], of(name)[0], normal[1], of(name)[1]) for name in outliers}


def _rows_of(result: Result, rows: NDArray[np.intp]) -> Result:
    names = [result.name[row] for row in rows.tolist()]
    return Result(names, result.score[rows], result.p_value[rows], result.is_outlier[rows], [None] * len(names))


def _cells(changes: Sequence[Change]) -> list[list[str]]:
    by = {"first": "A", "second": "B"}
    return [
        [
            each.name,
            each.set,
            *(f"{100 * share:.1f}" for share in each.below),
            *(f"{p_value:.3g}" for p_value in each.p_value),
            by.get(each.verdict, each.verdict),
        ]
        for each in changes
    ]


def _finite(tree: Any) -> Any:
    """Replace infinite numbers, which JSON does not hold, by None."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree
