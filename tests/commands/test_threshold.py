"""`lit-od threshold`: what a threshold costs, and another one in place of the old."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od import Scorer
from lit_od.bundle import BACKBONE, CARD, DETECTOR, GOLDEN, Bundle
from lit_od.calibration import Calibration
from lit_od.commands.threshold import PERCENTILES, rates
from tests.conftest import ASSETS

Command = Callable[..., Any]


def test_alone_it_shows_rates(made_bundle: Bundle, command: Command) -> None:
    status, out, err = command("threshold", made_bundle.path)
    assert (status, err) == (0, "")
    assert out == rates(made_bundle.calibration) + "\n"
    lines = out.splitlines()
    assert len(lines) == 1 + len(PERCENTILES) + 1 + 1
    scores = made_bundle.calibration.scores
    shares = {line[:24].strip(): float(line.split()[-1].rstrip("%")) / 100 for line in lines[1:-1]}
    for q in PERCENTILES:
        assert shares[f"percentile {q:g}"] == pytest.approx(np.mean(scores > np.percentile(scores, q)), abs=1e-4)
    assert shares["in force (percentile)"] == shares["percentile 99"] == 0.01
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert lines[-1] == "flagged: share of the 400 calibration inliers above the threshold"


def test_rates_by_hand() -> None:
    table = rates(Calibration.from_inliers(np.arange(1.0, 101.0), {"rule": "value", "value": 90.0}))
    assert "in force (value)                    90    10.00%" in table
    assert "percentile 50                     50.5    50.00%" in table
    assert "percentile 100                     100     0.00%" in table


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
    ],
)
def test_a_threshold_is_set(own_bundle: Path, command: Command, words: list[str], rule: dict[str, Any]) -> None:
    before = Bundle.read(own_bundle)
    status, out, err = command("threshold", own_bundle, *words)
    assert (status, err) == (0, "")
    after = Bundle.read(own_bundle)
    want = Calibration.from_inliers(before.calibration.scores, rule)
    assert after.calibration.rule == after.manifest.calibration.rule == rule
    assert after.calibration.threshold == after.manifest.calibration.threshold == want.threshold
    assert out.startswith(f"{own_bundle}: threshold {before.calibration.threshold:.6g} -> {want.threshold:.6g}, ")
    assert f"{want.flagged_share():.2%} of 400 calibration inliers above" in out
    for name in (BACKBONE, DETECTOR, GOLDEN):
        assert after.files[name] == before.files[name]
    assert f"above {want.threshold:.6g}" in after.files[CARD].decode()
    same = {"calibration": before.manifest.calibration, "files": {}, "sha256": ""}
    assert msgspec.structs.replace(after.manifest, **same) == msgspec.structs.replace(before.manifest, **same)
    assert [entry.name for entry in own_bundle.parent.iterdir()] == ["own"]
    assert command("verify", own_bundle).status == 0


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
        (["--q", "90"], "--q needs --rule"),
        (["--n", "1"], "--n needs --rule"),
        (["--value", "nan"], "value must be a number"),
        (["--value", "inf"], "value must be a number"),
        (["--value", "x"], "argument --value: invalid float value: 'x'"),
        (["--value", "1", "--q", "3"], "rule value has no option 'q'"),
        (["--rule", "percentile", "--q", "101"], "q must be a number in [0, 100], got 101.0"),
        (["--rule", "percentile", "--n", "1"], "rule percentile has no option 'n'"),
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
