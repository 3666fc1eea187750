"""The bundles that are kept in the repository: whole, small, and as good as their cards say."""

from pathlib import Path

import numpy as np
import pytest

from lit_od import Scorer
from lit_od.backbone.map_graph import MapGraph
from lit_od.bundle.folder import MAPS, Bundle
from lit_od.cli import main
from lit_od.evaluation.metrics import auroc
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from tests.support.images import ASSETS

EXPORTED = Path(__file__).parents[2] / "exported"
BUNDLE = EXPORTED / "mnist-digits"
MEBIBYTES = {"mnist-digits": 3, "cats-autoencoder": 5}


@pytest.mark.parametrize("bundle", sorted(EXPORTED.iterdir()), ids=lambda each: each.name)
def test_it_verifies_and_is_small(bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(bundle)]) == 0, capsys.readouterr().out
    assert sum(file.stat().st_size for file in bundle.iterdir()) <= MEBIBYTES[bundle.name] * 2**20


def test_the_autoencoder_maps_its_errors(digits: list[Source]):
    bundle = Bundle.read(EXPORTED / "cats-autoencoder")
    scorer = Scorer.of(bundle, threads=2)
    pixels = np.stack([source.prepare(scorer.preparation) for source in digits[:2]])
    errors, reconstructed = MapGraph.load(bundle.files[MAPS], threads=2)(pixels)
    np.testing.assert_allclose(errors, (reconstructed - pixels / 255) ** 2, atol=1e-5)
    np.testing.assert_allclose(scorer.score(pixels).score, np.sqrt(errors.mean(axis=(1, 2, 3))), rtol=1e-4)


def test_it_tells_test_digits_from_garments_and_from_eights_and_nines(garments: list[Source]):
    scorer = Scorer.load(BUNDLE, threads=2)

    def scores(sources: list[Source]) -> np.ndarray:
        return np.concatenate([result.score for result in scorer.stream(sources)])

    inliers = scores(find([f"{ASSETS}/digits.npz:test_images:0,1,2,3,4,5,6,7"]))
    others = scores(find([f"{ASSETS}/digits.npz:test_images:8,9"]))
    assert auroc(inliers, scores(garments)) > 0.999
    assert auroc(inliers, others) > 0.97
    assert 0 <= scorer.calibration.is_outlier(inliers).mean() < 0.03
