"""Two bundles on the same images: ranks, verdicts and AUROC against plain arithmetic."""

import json
import math

import numpy as np
import pytest
from scipy.stats import norm, rankdata, spearmanr

from lit_od import Result
from lit_od.errors import DataError
from lit_od.evaluation.paired import PairedScores, compare
from lit_od.types import Scores

NAMES = ("old", "new")


def result(scores: Scores, threshold: float = 1.0) -> Result:
    p_values = np.clip(1 - rankdata(scores) / (scores.size + 1), 0, 1)
    return Result(
        [f"{row}.png" for row in range(scores.size)], scores, p_values, scores > threshold, [None] * scores.size
    )


@pytest.fixture(scope="module")
def pair() -> tuple[Scores, Scores, list[str]]:
    """Scores with ties, of 60 inliers, 40 scratches, 30 dents and 10 unknown images."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.normal(0, 1, 60), rng.normal(1, 1, 40), rng.normal(2, 1, 30), rng.normal(0, 1, 10)])
    first, second = (np.round(truth + rng.normal(0, sd, 140), 1) for sd in (0.3, 1.0))
    return first, 10 * second + 5, ["good"] * 60 + ["scratch"] * 40 + ["dent"] * 30 + [""] * 10


def textbook(inliers: tuple[Scores, Scores], outliers: tuple[Scores, Scores]) -> tuple[list[float], float]:
    """DeLong's areas, and the standard error of their difference, by comparing every pair (1988, equations 4 to 9)."""
    areas, of_outliers, of_inliers = [], [], []
    for normal, odd in zip(inliers, outliers, strict=True):
        kernel = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in normal] for x in odd]
        m, n = len(odd), len(normal)
        areas.append(sum(map(sum, kernel)) / (m * n))
        of_outliers.append([sum(row) / n for row in kernel])
        of_inliers.append([sum(kernel[i][j] for i in range(m)) / m for j in range(n)])

    def covariance(parts: list[list[float]], a: int, b: int) -> float:
        products = [(x - areas[a]) * (y - areas[b]) for x, y in zip(parts[a], parts[b], strict=True)]
        return sum(products) / (len(products) - 1) / len(products)

    s = [[covariance(of_outliers, a, b) + covariance(of_inliers, a, b) for b in (0, 1)] for a in (0, 1)]
    return areas, math.sqrt(s[0][0] + s[1][1] - 2 * s[0][1])


def test_areas_and_their_difference_are_delongs(pair: tuple[Scores, Scores, list[str]]) -> None:
    first, second, sets = pair
    found = compare(NAMES, PairedScores.of(result(first), result(second, 15), sets), inliers="good")
    assert list(found.areas) == ["scratch", "dent"]
    for name, area in found.areas.items():
        own, normal = np.array(sets) == name, np.array(sets) == "good"
        areas, error = textbook((first[normal], second[normal]), (first[own], second[own]))
        assert (area.first, area.second) == pytest.approx(areas, abs=1e-12)
        gap, reach = areas[0] - areas[1], norm.ppf(0.975) * error
        assert (area.difference.value, area.difference.low, area.difference.high) == pytest.approx(
            (gap, gap - reach, gap + reach), abs=1e-12
        )
        assert area.p_value == pytest.approx(2 * norm.sf(abs(gap) / error), rel=1e-9)


def test_ranks_verdicts_and_changes(pair: tuple[Scores, Scores, list[str]]) -> None:
    first, second, sets = pair
    found = compare(NAMES, PairedScores.of(result(first), result(second, 15), sets))
    assert found.areas == {}
    assert found.agreement == pytest.approx(spearmanr(first, second).statistic)
    by_first, by_second = first > 1, second > 15
    assert found.verdicts == {
        "neither": (~by_first & ~by_second).sum(),
        "first": (by_first & ~by_second).sum(),
        "second": (~by_first & by_second).sum(),
        "both": (by_first & by_second).sum(),
    }
    below = [(rankdata(each) - 1) / 139 for each in (first, second)]
    change = np.abs(below[0] - below[1])
    assert [abs(each.below[0] - each.below[1]) for each in found.moved] == pytest.approx(
        np.sort(change[change > 0])[::-1]
    )
    largest = found.moved[0]
    assert largest.row == change.argmax()
    assert largest.below == pytest.approx((below[0][largest.row], below[1][largest.row]))
    assert largest.score == (first[largest.row], second[largest.row])
    assert {each.row for each in found.turned} == set(np.flatnonzero(by_first != by_second).tolist())
    ratios = [abs(math.log(each.p_value[0] / each.p_value[1])) for each in found.turned]
    assert ratios == sorted(ratios, reverse=True)


def test_images_that_one_cannot_score_are_left_out() -> None:
    first, second = result(np.array([1.0, np.nan, 3, 4])), result(np.array([1.0, 2, np.nan, 0]))
    scores = PairedScores.of(first, second, ["a", "b", "c", "d"])
    assert (list(scores.first.name), scores.sets, scores.left_out) == (["0.png", "3.png"], ["a", "d"], 2)
    assert compare(NAMES, scores).images == 2


def test_table_and_json_hold_the_figures(pair: tuple[Scores, Scores, list[str]]) -> None:
    first, second, sets = pair
    found = compare(NAMES, PairedScores.of(result(first), result(second, 15), sets), inliers="good")
    table = found.table()
    assert "A old, B new" in table
    assert f"rank correlation (Spearman): {found.agreement:.4f}" in table
    assert all(len(line) <= 100 for line in table.splitlines())
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tree["areas"]["dent"]["difference"]["value"] == found.areas["dent"].difference.value
    assert len(tree["moved"]) == len(found.moved)


def test_equal_bundles_differ_in_nothing(pair: tuple[Scores, Scores, list[str]]) -> None:
    first, _, sets = pair
    found = compare(NAMES, PairedScores.of(result(first), result(first), sets), inliers="good")
    assert (found.agreement, found.moved, found.turned) == (1.0, (), ())
    assert found.areas["dent"].p_value == 1
    flat = compare(NAMES, PairedScores.of(result(first), result(np.ones(140)), sets))
    assert flat.agreement is None
    assert "none: a bundle gives all images one score" in flat.table()


def test_perfect_areas_go_into_json() -> None:
    low, high = np.arange(4.0), np.arange(10.0, 14.0)
    scores = PairedScores.of(
        result(np.concatenate([low, high])), result(np.concatenate([high, low])), ["in"] * 4 + ["out"] * 4
    )
    tree = json.loads(json.dumps(compare(NAMES, scores, inliers="in").to_json(), allow_nan=False))
    assert tree["areas"]["out"]["difference"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert tree["areas"]["out"]["z"] is None


def test_odd_pairs_are_refused() -> None:
    one, other = result(np.arange(3.0)), result(np.arange(4.0))
    with pytest.raises(DataError, match="must score the same images in the same order"):
        PairedScores.of(one, other, ["", "", ""])
    with pytest.raises(DataError, match="must score the same images in the same order"):
        PairedScores.of(one, one, [""])
    with pytest.raises(DataError, match="needs two images that both bundles can score, got 1"):
        PairedScores.of(result(np.array([1.0, np.nan])), result(np.array([1.0, 2])), ["", ""])
    with pytest.raises(DataError, match="DeLong's variance needs two inliers and two outliers, got 2 and 1"):
        compare(NAMES, PairedScores.of(one, one, ["in", "in", "out"]), inliers="in")
