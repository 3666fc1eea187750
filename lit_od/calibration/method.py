"""Methods of calibration: by inliers that are held out, or by cross-fitting.

With `split` a share of the images calibrates and fits nothing: p-values are exact. With `cross` every image calibrates
and fits: its score comes from a detector that was fitted without it, and new images are scored by one fitted on all.

Reference:
    Barber, Candes, Ramdas and Tibshirani 2021, Predictive inference with the jackknife+; for outliers Hennhoefer and
    Preisach 2024, Leave-one-out-, bootstrap- and cross-conformal anomaly detectors (arXiv 2402.16388).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Self, TypeAlias

from lit_od.calibration.rules import check_rule, inliers_needed, require_outliers_where_used
from lit_od.checks import one_of
from lit_od.errors import ConfigError

Method: TypeAlias = Literal["split", "cross"]

TYPICAL = (0.4, 1.2)
"""Share of the promised rate that cross calibration was seen to flag, from and to (scripts/bench/coverage.py)."""


@dataclass(frozen=True, slots=True)
class Folds:
    """Folds of a cross calibration.

    Attributes:
        count: Number of folds; as many as images leaves each one out by itself. One fold is that of a single image,
            which was scored by a detector fitted on its other views.
        bounded: True where further images lower every score, so that what is proven of the folds' detectors holds for
            the one that is fitted on all images too.
    """

    count: int
    bounded: bool = False

    def proven(self, rate: float, images: int) -> float | None:
        """Return the proven bound on the share of p-values of at most `rate`.

        It is 2 a + min{2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)}, which is 2 a where each image is left out by
        itself; n/K is that of the smallest fold.

        Args:
            rate: Level of the p-values, a.
            images: Number of images, n.

        Returns:
            None where nothing is proven.
        """
        if not self.bounded or self.count < 2:
            return None
        k, smallest = self.count, images // self.count
        return min(1.0, 2 * rate + min(2 * (1 - 1 / k) / (smallest + 1), (1 - k / images) / (k + 1)))


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """A recipe's `calibration`.

    Attributes:
        rule: `rule` and its options.
        outliers: PATHs of labelled outliers, for rule max_f1 alone.
        method: The method that is asked for; None leaves it to the number of images.
    """

    rule: dict[str, Any]
    outliers: list[str]
    method: Method | None = None

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Self:
        """Parse a recipe's `calibration`.

        Args:
            tree: `{"rule": RULE, option: value, "method": METHOD, "outliers": PATHs}`.

        Raises:
            ConfigError: If the rule, an option or the method is invalid, or the outliers are missing, no PATHs, or not
                used by the rule.
        """
        rule = dict(tree)
        method, named = rule.pop("method", None), rule.pop("outliers", None)
        if method is not None:
            one_of("calibration.method", method, ("split", "cross"))
        paths = [named] if isinstance(named, str) else [] if named is None else named
        if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
            raise ConfigError(f"calibration.outliers must be a PATH or a list of PATHs, got {named!r}")
        require_outliers_where_used(check_rule(rule)["rule"], len(paths))
        return cls(rule, paths, method)

    def method_for(self, held_out: int) -> Method:
        """Return the method that is asked for, or the one by default.

        By default it is cross where a share would hold fewer images than the rule's rate takes.

        Args:
            held_out: Images that the calibration share would hold.
        """
        if self.method is not None:
            return self.method
        rate = asked_rate(self.rule)
        return "cross" if rate is not None and held_out < inliers_needed(rate) else "split"

    def only_split(self, why: str) -> Self:
        """Return these options with method split.

        Args:
            why: Reason of the message.

        Raises:
            ConfigError: If cross is asked for.
        """
        if self.method == "cross":
            raise ConfigError(f"calibration.method cross: {why}. Leave calibration.method out, or give split")
        return replace(self, method="split")


def asked_rate(rule: Mapping[str, Any]) -> float | None:
    """Return the rate of false positives that a rule asks for.

    None for a rule that asks for none: mean_std, max_f1, value, and percentile 100.
    """
    complete = check_rule(rule)
    if complete["rule"] == "fpr":
        return float(complete["rate"])
    if complete["rule"] == "percentile" and complete["q"] < 100:
        return float((100 - Fraction(str(complete["q"]))) / 100)  # 100 - 99.9 in floating point is below a tenth
    return None


def shortfall(rule: Mapping[str, Any], inliers: int, folds: Folds | None = None) -> str | None:
    """Describe a rule that asks for a lower rate than its inliers support.

    Args:
        rule: `rule` and its options.
        inliers: Number of calibration inliers, n; the least rate is 1 / (n + 1).
        folds: Folds of a cross calibration; None where the inliers were held out.

    Returns:
        None where they support it.
    """
    if folds is not None and folds.count == 1:
        return (
            "1 normal image supports no rate of false positives: the threshold is near its own score by its other "
            "views, which other normal images may exceed. Refit with more, or set it by hand (lit-od threshold)"
        )
    rate = asked_rate(rule)
    if rate is None or inliers >= (needed := inliers_needed(rate)):
        return None
    name = " ".join(f"{value:g}" if isinstance(value, float | int) else value for value in check_rule(rule).values())
    return (
        f"{name} asks for a false-positive rate of {100 * rate:.3g} %, which takes {needed:,} calibration inliers: "
        f"{inliers:,} support {100 / (inliers + 1):.3g} % at the least"
    )
