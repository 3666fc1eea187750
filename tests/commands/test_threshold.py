"""`lit-od threshold`: what a threshold costs, and another one in place of the old."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od import Scorer
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import BACKBONE, CARD, DETECTOR, GOLDEN, Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.commands.threshold import PERCENTILES, rates
from lit_od.detectors import PixelDetector
from lit_od.images.batching import load
from lit_od.images.sources import Source
from tests.support.graphs import patch_bundle, patches_graph
from tests.support.images import ASSETS, GREY

Command = Callable[..., Any]


def table(out: str) -> dict[str, list[str]]:
    """The table's rows by name: threshold, flagged, low, "to", high and perhaps found."""
    lines = [line for line in out.splitlines()[1:] if line.startswith(("percentile", "fpr ", "max_f1 ", "in force"))]
    return {line[:24].strip(): line[24:].split() for line in lines if "%" in line}


def share(text: str) -> float:
    return float(text.rstrip("%")) / 100


def test_alone_it_shows_rates(made_bundle: Bundle, command: Command) -> None:
    status, out, err = command("threshold", made_bundle.path)
    assert (status, err) == (0, "")
    calibration = made_bundle.calibration
    assert out == rates(calibration) + "\n"
    rows = table(out)
    assert set(rows) == {
        *(f"percentile {q:g}" for q in PERCENTILES),
        *(f"fpr {rate:g}" for rate in (0.1, 0.05, 0.02, 0.01, 0.005)),
        "in force (percentile)",
    }
    for q in PERCENTILES:
        threshold = np.percentile(calibration.scores, q)
        _, flagged, low, _, high = rows[f"percentile {q:g}"]
        assert share(flagged) == pytest.approx(np.mean(calibration.scores > threshold), abs=1e-4)
        assert (share(low), share(high)) == pytest.approx(calibration.fpr_interval(float(threshold)), abs=1e-4)
    assert rows["in force (percentile)"] == rows["percentile 99"]
    shares = [share(flagged) for _, flagged, *_ in rows.values()]
    assert shares == sorted(shares, reverse=True)
    assert out.splitlines()[-4:] == [
        "flagged: share of the 400 calibration inliers above the threshold",
        "95 % interval: of the false-positive rate on new inliers (Clopper-Pearson)",
        "supported: 400 calibration inliers support 0.25% at the least; promised and proven at most 1.25%",
        "fpr 0.001 needs 999 calibration inliers",
    ]


def test_rates_by_hand() -> None:
    text = rates(Calibration.from_inliers(np.arange(1.0, 101.0), {"rule": "value", "value": 90.5}))
    assert "in force (value)                  90.5    10.00%     4.90% to 17.62%" in text
    assert "percentile 50                     50.5    50.00%    39.83% to 60.17%" in text
    assert "percentile 100                     100     0.00%      0.00% to 3.62%" in text
    assert "fpr 0.1                             91     9.00%     4.20% to 16.40%" in text
    assert text.endswith("fpr 0.005 needs 199, 0.001 needs 999 calibration inliers")
    assert "found" not in text


def test_outliers_get_a_column(made_bundle: Bundle, command: Command) -> None:
    archive = f"{ASSETS}/garments.npz"
    status, out, err = command("threshold", made_bundle.path, "--outliers", archive)
    assert (status, err) == (0, "")
    scores = Scorer.of(made_bundle, threads=1).score(list(np.load(archive)["images"])).score
    assert out == rates(made_bundle.calibration, scores) + "\n"
    assert out.splitlines()[0].split()[-1] == "found"
    rows = table(out)
    assert "max_f1" in rows
    assert share(rows["percentile 99"][-1]) == pytest.approx(
        np.mean(scores > made_bundle.calibration.threshold), abs=1e-4
    )
    assert "found: share of the 1,000 outliers above the threshold" in out


def test_outliers_that_are_none_get_a_column_and_no_threshold() -> None:
    text = rates(Calibration.from_inliers(np.array([1.0, 2.0]), {"rule": "percentile"}), np.array([0.5]))
    assert "max_f1: the best F1 over 2 inliers and 1 outliers is that of calling every image an outlier." in text
    assert "max_f1" not in table(text)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--value", "2.5"], {"rule": "value", "value": 2.5}),
        (["--value", "-3"], {"rule": "value", "value": -3.0}),
        (["--value=-1e-3"], {"rule": "value", "value": -0.001}),
        (["--rule", "percentile"], {"rule": "percentile", "q": 99}),
        (["--rule", "percentile", "--q", "90"], {"rule": "percentile", "q": 90.0}),
        (["--rule", "mean_std"], {"rule": "mean_std", "n": 2}),
        (["--rule", "mean_std", "--n", "0.5"], {"rule": "mean_std", "n": 0.5}),
        (["--rule", "fpr"], {"rule": "fpr", "rate": 0.01}),
        (["--rule", "fpr", "--rate", "0.05"], {"rule": "fpr", "rate": 0.05}),
    ],
)
def test_a_threshold_is_set(own_bundle: Path, command: Command, words: list[str], rule: dict[str, Any]) -> None:
    before = Bundle.read(own_bundle)
    status, out, err = command("threshold", own_bundle, *words)
    assert (status, err) == (0, "")
    after = Bundle.read(own_bundle)
    want = before.calibration.with_rule(rule)
    assert after.calibration.scores.tolist() == before.calibration.scores.tolist()  # not raised once more
    assert after.calibration.rule == after.manifest.calibration.rule == rule
    assert after.calibration.threshold == after.manifest.calibration.threshold == want.threshold
    assert out.startswith(f"{own_bundle}: threshold {before.calibration.threshold:.6g} -> {want.threshold:.6g}, ")
    low, high = want.fpr_interval()
    assert f"{want.flagged_share():.2%} of 400 calibration inliers above, false-positive rate " in out
    assert f" {low:.2%} to {high:.2%} (95 % interval)\nheld out; 400 calibration inliers support 0.25% at the " in out
    for name in (BACKBONE, DETECTOR, GOLDEN):
        assert after.files[name] == before.files[name]
    assert f"above {want.threshold:.6g}" in after.files[CARD].decode()
    same = {"calibration": before.manifest.calibration, "files": {}, "sha256": ""}
    assert msgspec.structs.replace(after.manifest, **same) == msgspec.structs.replace(before.manifest, **same)
    assert [entry.name for entry in own_bundle.parent.iterdir()] == ["own"]
    assert command("verify", own_bundle).status == 0


def test_outliers_set_the_threshold_with_the_best_f1(own_bundle: Path, command: Command) -> None:
    before = Bundle.read(own_bundle)
    halves = [f"{ASSETS}/garments.npz:images:{classes}" for classes in ("0,1,2,3,4", "5,6,7,8,9")]
    status, out, err = command(
        "threshold", own_bundle, "--rule", "max_f1", "--outliers", *halves, "--threads", 1, "--provider", "cpu"
    )
    assert (status, err) == (0, "")
    after = Bundle.read(own_bundle)
    outliers = Scorer.of(before, threads=1).score(list(np.load(ASSETS / "garments.npz")["images"])).score
    want = before.calibration.with_rule({"rule": "max_f1"}, outliers=outliers)
    assert after.calibration.rule == after.manifest.calibration.rule == {"rule": "max_f1", "outliers": 1000}
    assert after.calibration.threshold == pytest.approx(want.threshold, rel=1e-6)
    np.testing.assert_array_equal(after.calibration.scores, before.calibration.scores)
    assert "max_f1 chose it by these inliers too, so expect more" in out
    assert " by max_f1 (outliers 1000), false-positive rate " in after.files[CARD].decode()
    assert command("verify", own_bundle).status == 0
    again = ["threshold", own_bundle, "--rule", "max_f1", "--outliers", halves[0], "--outliers", halves[1]]
    assert command(*again).status == 0
    assert Bundle.read(own_bundle).calibration.rule == {"rule": "max_f1", "outliers": 1000}


def test_max_f1_needs_no_torch(own_bundle: Path) -> None:
    code = (
        "import sys; from lit_od.cli import main; status = main(sys.argv[1:]);"
        "assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules); sys.exit(status)"
    )
    words = ["threshold", str(own_bundle), "--rule", "max_f1", "--outliers", f"{ASSETS}/garments.npz"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    assert Bundle.read(own_bundle).calibration.rule["rule"] == "max_f1"


def test_scores_stay_and_verdicts_change(own_bundle: Path, command: Command) -> None:
    images = np.load(ASSETS / "garments.npz")["images"][:50]
    before = Scorer.load(own_bundle).score(list(images))
    limit = float(np.median(before.score))
    assert command("threshold", own_bundle, "--value", repr(limit)).status == 0
    after = Scorer.load(own_bundle).score(list(images))
    np.testing.assert_array_equal(after.score, before.score)
    np.testing.assert_array_equal(after.p_value, before.p_value)
    assert after.is_outlier.sum() == 25


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--q", "90"], "--q needs --rule percentile"),
        (["--n", "1"], "--n needs --rule mean_std"),
        (["--value", "nan"], "value must be a number"),
        (["--value", "inf"], "value must be a number"),
        (["--value", "x"], "argument --value: invalid float value: 'x'"),
        (["--value", "1", "--q", "3"], "rule value has no option 'q'"),
        (["--rule", "percentile", "--q", "101"], "q must be a number in [0, 100], got 101.0"),
        (["--rule", "percentile", "--n", "1"], "rule percentile has no option 'n'"),
        (["--rate", "0.1"], "--rate needs --rule fpr"),
        (["--rule", "fpr", "--rate", "0"], "rate must be a number in (0, 1), got 0.0"),
        (["--rule", "fpr", "--rate", "0.001"], "rate=0.001 needs at least 999 calibration inliers, got 400. Pass more"),
        (["--rule", "fpr", "--q", "99"], "rule fpr has no option 'q'"),
        (["--rule", "max_f1"], "rule max_f1 needs labelled outliers: give --outliers PATH"),
        (["--rule", "max_f1", "--outliers", "absent"], "absent"),
        (["--rule", "percentile", "--outliers", f"{ASSETS}/garments.npz"], "rule percentile takes no outliers"),
        (["--value", "1", "--outliers", f"{ASSETS}/garments.npz"], "rule value takes no outliers"),
        (["--rule", "magic"], "argument --rule: invalid choice: 'magic'"),
        (["--rule", "percentile", "--value", "1"], "not allowed with argument"),
    ],
)
def test_refusals_change_nothing(own_bundle: Path, command: Command, words: list[str], message: str) -> None:
    before = {file.name: file.read_bytes() for file in own_bundle.iterdir()}
    status, out, err = command("threshold", own_bundle, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {file.name: file.read_bytes() for file in own_bundle.iterdir()} == before


def test_an_outlier_that_cannot_be_read_is_named(own_bundle: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    before = {file.name: file.read_bytes() for file in own_bundle.iterdir()}
    status, out, err = command("threshold", own_bundle, "--rule", "max_f1", "--outliers", tmp_path / "broken.png")
    assert (status, out) == (2, "")
    assert "broken.png: " in err
    assert "Take it out (lit-od check lists such files)" in err
    assert err.count("\n") == 1
    _, _, err = command("threshold", own_bundle, "--rule", "percentile", "--outliers", tmp_path / "broken.png")
    assert "takes no outliers" in err  # which is known before any is read
    assert {file.name: file.read_bytes() for file in own_bundle.iterdir()} == before


def test_the_threshold_for_pixels_follows_the_rule_where_the_score_is_no_peak(
    digits: list[Source], tmp_path: Path, command: Command
) -> None:
    detector = {"kind": "patchcore", "coreset": 60, "aggregate": "top_share", "share": 0.05}
    made = patch_bundle(tmp_path / "patches", digits, detector=detector)
    assert isinstance(made.detector, PixelDetector)
    outputs = Backbone.load(patches_graph(), threads=1)(load(digits[100:200], GREY))
    peaks = made.detector.score_map(outputs)[1].max(axis=(1, 2)).astype(np.float64)
    assert made.calibration.peaks is not None
    np.testing.assert_allclose(made.calibration.peaks, np.sort(peaks), rtol=1e-5)
    for q in (90, 50):
        if q != 90:
            assert command("threshold", made.path, "--rule", "percentile", "--q", q).status == 0
        found = Bundle.read(made.path).manifest.calibration.pixel_threshold
        wanted = Calibration.from_inliers(peaks, {"rule": "percentile", "q": q}).threshold
        assert found == pytest.approx(wanted, rel=1e-5)
    assert command("threshold", made.path, "--value", 3).status == 0
    assert Bundle.read(made.path).manifest.calibration.pixel_threshold == found  # a value says nothing of peaks
