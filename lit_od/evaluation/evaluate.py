"""Evaluate scores of inliers and of sets of outliers: figures, a table, JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lit_od.checks import proportion
from lit_od.errors import DataError
from lit_od.evaluation.counts import FIGURES, Tally, check_scores, figures_of
from lit_od.evaluation.intervals import Draws, Interval, bootstrap_draws, exact_binomial, percentile_interval
from lit_od.evaluation.rates import Rates, best_balanced_accuracy, best_f1, rates
from lit_od.formats.text import FOREIGN_BYTES, printable, unicode_text
from lit_od.types import Scores

WIDTH = 100
"""Largest number of columns of a table."""

TITLES = {"auroc": "AUROC", "aupr_outliers": "AUPR out", "aupr_inliers": "AUPR in", "fpr95": "FPR95"}
"""Names of the figures in tables."""


@dataclass(frozen=True, slots=True)
class SetSummary:
    """Summary of one set's scores.

    Attributes:
        n: Number of images.
        mean: Mean score.
        sd: Standard deviation of the scores, divided by n.
        flagged: Share above the threshold, with its exact binomial interval. Of inliers it is the
            false-positive rate.
    """

    n: int
    mean: float
    sd: float
    flagged: Interval


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Figures of one set of outliers against the inliers.

    Attributes:
        scores: Summary of its scores.
        figures: AUROC, AUPR with outliers and with inliers as positives, and FPR at 95 % TPR (outliers
            as positives) by name, with bootstrap intervals.
        at_threshold: Rates at the given threshold.
        best_f1: Rates at the threshold with the best F1 on these very scores: a bound, not a choice.
        best_balanced_accuracy: The same for balanced accuracy.
    """

    scores: SetSummary
    figures: dict[str, Interval]
    at_threshold: Rates
    best_f1: Rates
    best_balanced_accuracy: Rates


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of sets of outliers against the inliers.

    Attributes:
        threshold: An image is flagged if `score > threshold`.
        level: Confidence level of all intervals.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
        inliers: Summary of the inliers' scores.
        outliers: Figures by set of outliers, in the order given.
        macro: Means of the figures over the sets. Its intervals resample the inliers, which the sets
            share, once for all sets.
    """

    threshold: float
    level: float
    resamples: int
    seed: int
    inliers: SetSummary
    outliers: dict[str, SetFigures]
    macro: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain dictionaries and numbers, as shares of 1.

        The ends of an interval are None where the images are too few for one.
        """
        tree: dict[str, Any] = known_numbers(asdict(self))
        return tree

    def figure_rows(self) -> list[list[str]]:
        """Return rows of name and percentages: one a set of outliers, and their mean."""
        sets = [*((name, each.figures) for name, each in self.outliers.items()), ("mean", self.macro)]
        return [[name, *(percent(figures[key]) for key in FIGURES)] for name, figures in sets]

    def score_rows(self, inliers: str = "inliers") -> list[list[str]]:
        """Return a row a set, the inliers first.

        It holds name, number, mean, standard deviation and percent flagged.

        Args:
            inliers: Name of the inliers.
        """
        sets = [(inliers, self.inliers), *((name, each.scores) for name, each in self.outliers.items())]
        return [
            [name, f"{each.n:,}", f"{each.mean:#.4g}", f"{each.sd:#.4g}", percent(each.flagged)] for name, each in sets
        ]

    def table(self) -> str:
        """Format a plain-text table of at most `WIDTH` columns.

        Shares are in percent, intervals in brackets.
        """
        decisions = [
            [
                name,
                *(_digits(rate) for rate in _shares(each.at_threshold)),
                f"{_digits(each.best_f1.f1)} above {each.best_f1.threshold:#.4g}",
                f"{_digits(each.best_balanced_accuracy.balanced_accuracy)}"
                f" above {each.best_balanced_accuracy.threshold:#.4g}",
            ]
            for name, each in self.outliers.items()
        ]
        parts = [
            f"In percent, with {100 * self.level:g} % intervals "
            f"({self.resamples:,} bootstrap resamples, seed {self.seed})",
            *columns(["outliers", *(TITLES[name] for name in FIGURES)], self.figure_rows(), rule_before_last=True),
            "",
            f"Scores, and what is flagged above the threshold {self.threshold:.6g} (exact binomial intervals)",
            *columns(["set", "n", "mean", "sd", "flagged %"], self.score_rows()),
            "",
            "At that threshold, in percent, and at the thresholds that would have been best here",
            *columns(["outliers", "TPR", "FPR", "prec.", "F1", "bal.acc", "best F1", "best bal.acc"], decisions),
        ]
        return "\n".join(parts)


def evaluate(
    inliers: Scores,
    outliers: Mapping[str, Scores],
    *,
    threshold: float,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Evaluation:
    """Compute the figures of each set of outliers, and their means over the sets.

    Args:
        inliers: Scores of shape (n,), used for neither fitting nor calibration.
        outliers: Scores of shape (m,) by name of their set.
        threshold: The calibrated threshold.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
        level: Confidence level of all intervals.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If there is no set of outliers, a set is empty or holds NaN or infinity, the threshold
            is not finite, or `resamples` is less than 1.
    """
    proportion("level", level)
    if not outliers:
        raise DataError("an evaluation needs at least one set of outliers, got none")
    if not np.isfinite(threshold):
        raise DataError(f"threshold must be finite, got {threshold}")
    results, all_draws = {}, []
    for number, (name, scores) in enumerate(outliers.items(), start=1):
        draws, result = _one_set(inliers, scores, threshold, (seed, number), resamples, level)
        results[name] = result
        all_draws.append(draws)
    macro = {
        name: percentile_interval(
            float(np.mean([each.figures[name].value for each in results.values()])),
            np.mean([draws[name] for draws in all_draws], axis=0),
            level,
        )
        for name in FIGURES
    }
    return Evaluation(
        threshold=float(threshold),
        level=level,
        resamples=resamples,
        seed=seed,
        inliers=summarise(inliers, threshold, name="inlier", level=level),
        outliers=results,
        macro=macro,
    )


def summarise(scores: Scores, threshold: float, *, name: str = "the", level: float = 0.95) -> SetSummary:
    """Summarise scores: number, mean, standard deviation and share flagged.

    Args:
        scores: Shape (n,).
        threshold: An image is flagged if `score > threshold`.
        name: Name of the set, for messages.
        level: Confidence level of the share's interval.

    Raises:
        ConfigError: If `level` is not between 0 and 1.
        DataError: If there are no scores, or one is NaN or infinite.
    """
    scores = check_scores(scores, name)
    flagged = exact_binomial(int(np.count_nonzero(scores > threshold)), scores.size, level=level)
    return SetSummary(n=scores.size, mean=float(scores.mean()), sd=float(scores.std()), flagged=flagged)


def _one_set(
    inliers: Scores, outliers: Scores, threshold: float, seed: tuple[int, int], resamples: int, level: float
) -> tuple[Draws, SetFigures]:
    tally = Tally.of(inliers, outliers)
    draws = bootstrap_draws(
        tally,
        inlier_rng=np.random.default_rng([seed[0], 0]),  # the same inliers for every set
        outlier_rng=np.random.default_rng(seed),
        resamples=resamples,
    )
    values = figures_of(tally.inliers, tally.outliers)
    return draws, SetFigures(
        scores=summarise(outliers, threshold, name="outlier", level=level),
        figures={name: percentile_interval(float(values[name]), draws[name], level) for name in FIGURES},
        at_threshold=rates(inliers, outliers, threshold),
        best_f1=best_f1(inliers, outliers),
        best_balanced_accuracy=best_balanced_accuracy(inliers, outliers),
    )


def percent(interval: Interval) -> str:
    """Format a share in percent with its interval, if any: 99.12 [98.70 99.41]."""
    if math.isnan(interval.low):
        return _digits(interval.value)
    return f"{_digits(interval.value)} [{_digits(interval.low)} {_digits(interval.high)}]"


def _digits(share: float) -> str:
    """Format a share in percent in at most five characters."""
    return f"{100 * share:.2f}" if share < 0.99995 else "100.0"


def known_numbers(tree: Any) -> Any:
    """Replace NaN by None, and bytes of names by escapes, which JSON can hold."""
    if isinstance(tree, dict):
        return {unicode_text(key): known_numbers(value) for key, value in tree.items()}
    return None if isinstance(tree, float) and math.isnan(tree) else tree


def _shares(at: Rates) -> tuple[float, ...]:
    return (at.tpr, at.fpr, at.precision, at.f1, at.balanced_accuracy)


def columns(titles: Sequence[str], rows: Sequence[Sequence[str]], *, rule_before_last: bool = False) -> list[str]:
    """Align the first column on the left, the others on the right.

    Long names are cut to fit.

    Args:
        titles: Titles of the columns.
        rows: Cells of each row.
        rule_before_last: Draw a line above the last row.
    """
    cells = [titles, *([printable(row[0], keep=FOREIGN_BYTES), *row[1:]] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    widths[0] = max(8, min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:])))
    lines = []
    for row in cells:
        name = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
        rest = "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append(f"{name:<{widths[0]}}{rest}")
    rule = "-" * len(lines[0])
    lines.insert(1, rule)
    if rule_before_last:
        lines.insert(-1, rule)
    return lines
