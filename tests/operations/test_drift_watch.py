"""Scored rows under watch: bags by detector, rows left out, what a bundle's calibration scores may begin."""

import json
from dataclasses import replace
from types import SimpleNamespace

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
    assert bright.deviations is not None
    assert sharp.deviations is not None
    assert bright.deviations < -10 < -1 < sharp.deviations < 1
    assert saturated.before == pytest.approx(saturated.after)
    assert saturated.deviations is None
    tree = json.loads(json.dumps(watch.to_json(), allow_nan=False))
    assert [each["deviations"] for each in tree["latest_alarms"][0]["moved"]][2] is None


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


def changed(bundle: Bundle, *, method: str | None = None, **origin: object) -> Bundle:
    """The bundle, as if its manifest said something else."""
    manifest = bundle.manifest
    told = SimpleNamespace(
        calibration=SimpleNamespace(method=method),
        provenance=msgspec.structs.replace(manifest.provenance, **origin),
    )
    return replace(bundle, manifest=told)  # type: ignore[arg-type]  # has what is asked for


def test_scores_of_cross_calibration_do_not(made_bundle: Bundle) -> None:
    for crossed in (
        changed(made_bundle, method="cross"),
        changed(made_bundle, recipe={"calibration": {"method": "cross"}}),
    ):
        scores, words = calibration_start(crossed)
        assert scores is None
        assert words == "burn-in: calibration.method is cross, whose scores are not exchangeable with new ones"
    for split in (changed(made_bundle), changed(made_bundle, method="split", recipe={"calibration": {"rule": "fpr"}})):
        assert calibration_start(split)[0] is not None


def test_scores_after_accepted_images_do_not(made_bundle: Bundle) -> None:
    scores, words = calibration_start(changed(made_bundle, data={"accepted": {"images": 3}}))
    assert scores is None
    assert words == "burn-in: images were accepted into the bundle since it was calibrated"
