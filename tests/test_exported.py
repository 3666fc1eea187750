"""The bundle that is kept in the repository: whole, and as good as its card says."""

from pathlib import Path

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.cli import main
from lit_od.evaluation.metrics import auroc
from lit_od.sources import Source, find
from tests.conftest import ASSETS

BUNDLE = Path(__file__).parents[1] / "exported" / "mnist-digits"


def test_it_verifies(capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(BUNDLE)]) == 0, capsys.readouterr().out


def test_it_is_small():
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 2 * 2**20


def test_it_tells_test_digits_from_garments_and_from_eights_and_nines(garments: list[Source]):
    scorer = Scorer.load(BUNDLE, threads=2)

    def scores(sources: list[Source]) -> np.ndarray:
        return np.concatenate([result.score for result in scorer.stream(sources)])

    inliers = scores(find([f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7"]))
    others = scores(find([f"{ASSETS}/digits.npz:test_images:8,9"]))
    assert auroc(inliers, scores(garments)) > 0.97
    assert auroc(inliers, others) > 0.92
    assert 0 <= scorer.calibration.is_outlier(inliers).mean() < 0.03
