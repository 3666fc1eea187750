"""Scored rows under watch: bags by detector, rows left out, what a bundle's calibration scores may begin."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lit_od.bundle.folder import Bundle
from lit_od.errors import DataError
from lit_od.operations.drift import DriftOptions
from lit_od.operations.drift_watch import Bag, DriftWatch, calibration_start, require_tested
from lit_od.operations.scored_rows import ScoredRow
from lit_od.types import Scores

OPTIONS = DriftOptions(burn_in=20)


def normal(count: int, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).normal(30, 5, count)


def watched(watch: DriftWatch, scores: Scores, detector: str | None = None) -> None:
    for score in scores.tolist():
        watch.take(ScoredRow("", score, detector=detector))


def test_rows_are_numbered_with_those_left_out() -> None:
    watch = DriftWatch(OPTIONS, start=normal(300))
    rows = [ScoredRow("bad", None, "with an error"), *(ScoredRow("", score) for score in normal(50, 1))]
    rows += [ScoredRow("nan", None, "not finite"), ScoredRow("bad", None, "with an error")]
    rows += [ScoredRow(f"far {number}", 90.0 + number) for number in range(20)]
    drifts = [drift for row in rows if (drift := watch.take(row))]
    assert [len(drifts), watch.alarms] == [1, 1]
    assert drifts[0].alarm.start == 54
    assert drifts[0].path == f"far {drifts[0].alarm.row - 54}"
    assert watch.left_out == {"with an error": 2, "not finite": 1}
    assert watch.rows == 73
    assert [bag.reason for bag in watch.latest_bags] == ["first row", "alarm"]
    assert watch.latest_bags[1] == Bag(drifts[0].alarm.row + 1, 20, "alarm")


def test_another_detector_begins_a_new_bag() -> None:
    """Scores that would be a drift under one detector are none between two."""
    watch = DriftWatch(OPTIONS, detector="own", start=normal(300))
    watched(watch, normal(40, 1))
    watched(watch, normal(10, 2), "own")
    watched(watch, 100 + normal(60, 3), "other")
    watched(watch, normal(40, 4), "own")
    assert watch.alarms == 0
    want = [Bag(1, 300, "first row"), Bag(51, 20, "another detector"), Bag(111, 300, "another detector")]
    assert watch.latest_bags == want
    assert watch.tested == 50 + 40 + 40
    same = DriftWatch(OPTIONS, detector="own", start=normal(300))
    watched(same, normal(50, 1))
    watched(same, 100 + normal(60, 3))
    assert same.alarms == 1


def test_a_file_begun_anew_begins_a_new_bag_even_if_its_first_row_is_left_out() -> None:
    watch = DriftWatch(OPTIONS, start=normal(300))
    watched(watch, normal(40, 1))
    watch.take(ScoredRow("", None, "with an error", restarted=True))
    watched(watch, normal(40, 2))
    assert watch.latest_bags == [Bag(1, 300, "first row"), Bag(42, 300, "file begun anew")]


def test_one_row_of_many_is_taken() -> None:
    watch = DriftWatch(DriftOptions(burn_in=0), every=10)
    watched(watch, normal(95))
    assert (watch.rows, watch.tested, watch.skipped) == (95, 10, 85)
    with pytest.raises(DataError, match="no row has a score"):
        require_tested(DriftWatch(OPTIONS), OPTIONS)


def test_what_moved_is_told() -> None:
    rng = np.random.default_rng(5)
    watch = DriftWatch(DriftOptions(), start=normal(300))
    found = None
    for number in range(300):
        dark = number >= 200
        look = (0.3 * (not dark) + 0.2 + 0.02 * rng.normal(), 0.05 + 0.01 * rng.normal(), 0.2)
        found = found or watch.take(ScoredRow("", float(rng.normal(30 + 10 * dark, 5)), statistics=look))
    assert found is not None
    bright, sharp, saturated = found.moved
    assert bright.deviations < -10
    assert abs(sharp.deviations) < 1
    assert saturated.before == pytest.approx(saturated.after)


def test_rows_that_cannot_be_tested_are_refused() -> None:
    watch = DriftWatch(OPTIONS)
    watched(watch, normal(15))
    with pytest.raises(DataError, match=r"15 rows with a score are all burn-in \(20\): give more rows"):
        require_tested(watch, OPTIONS)
    bad = DriftWatch(OPTIONS)
    bad.take(ScoredRow("", None, "with an error"))
    with pytest.raises(DataError, match=r"no row has a score \(1 with an error\)"):
        require_tested(bad, OPTIONS)


def test_scores_held_out_begin_the_bag_as_they_were(made_bundle: Bundle) -> None:
    scores, words = calibration_start(made_bundle)
    assert words == "400 calibration scores of the bundle"
    assert scores is not None
    raised = made_bundle.calibration.scores
    assert (scores < raised).all()
    low, high = np.percentile(raised, (25, 75))
    np.testing.assert_allclose(raised - scores, 1e-6 * (high - low), rtol=1e-6)


@pytest.mark.parametrize("place", ["recipe", "rule"])
def test_scores_of_cross_calibration_do_not(place: str, made_bundle: Bundle) -> None:
    manifest = made_bundle.manifest
    if place == "recipe":
        origin = msgspec.structs.replace(manifest.provenance, recipe={"calibration": {"method": "cross"}})
        manifest = msgspec.structs.replace(manifest, provenance=origin)
    else:
        rule = msgspec.structs.replace(manifest.calibration, rule={"rule": "fpr", "method": "cross"})
        manifest = msgspec.structs.replace(manifest, calibration=rule)
    crossed = Bundle(made_bundle.path, manifest, made_bundle.detector, made_bundle.calibration, made_bundle.files)
    scores, words = calibration_start(crossed)
    assert scores is None
    assert "calibration.method is cross" in words


@pytest.mark.parametrize("told", ["provenance", "history"])
def test_scores_after_accepted_images_do_not(told: str, made_bundle: Bundle, tmp_path: Path) -> None:
    manifest, path = made_bundle.manifest, made_bundle.path
    if told == "history":
        path = tmp_path
        (tmp_path / "history").mkdir()
    else:
        origin = msgspec.structs.replace(manifest.provenance, data={"accepted": "3 images"})
        manifest = msgspec.structs.replace(manifest, provenance=origin)
    changed = Bundle(path, manifest, made_bundle.detector, made_bundle.calibration, made_bundle.files)
    scores, words = calibration_start(changed)
    assert scores is None
    assert "images were accepted" in words
