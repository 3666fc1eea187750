"""Views of images fit a detector; images that calibrate are never changed."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_card import model_card
from lit_od.calibration.method import Folds
from lit_od.calibration.p_values import Calibration
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError
from lit_od.fitting.cross import Scoring, cross_fit, folds_of
from lit_od.fitting.engine import fit_detector
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.images.augment import Augment
from lit_od.images.batching import load
from lit_od.images.sources import Source
from lit_od.images.views import Views
from lit_od.operations.feedback import FeedbackImages, accept
from lit_od.types import Outputs
from tests.support.bundles import local_engine
from tests.support.engines import on_every_engine
from tests.support.graphs import patches_graph
from tests.support.images import GREY

RULE = {"rule": "percentile", "q": 90}
VIEWS = Augment(turns=True, shift=0.1, views=3)


def made(out: Path, graph: bytes, images: FitImages, detector: dict[str, Any]) -> Bundle:
    spec, origin = DetectorSpec.parse(detector), Origin(name="x", seed=5)
    return fit_bundle(out, local_engine(graph), GraphFile(graph), images, spec, RULE, origin)


def outputs_of(graph: bytes, images: Any) -> Outputs:
    return Backbone.load(graph, threads=1)(load(images, GREY))


def test_views_fit_and_plain_images_calibrate(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    fit, calibration = digits[:20], digits[20:60]
    images = FitImages(fit, calibration, augment=VIEWS)
    bundle = made(tmp_path / "out", small_graph, images, {"kind": "knn", "k": 1})
    rows = outputs_of(small_graph, Views.of(fit, VIEWS, seed=5))
    spec = DetectorSpec.parse({"kind": "knn", "k": 1})
    plain = outputs_of(small_graph, calibration)
    wanted = Calibration.from_inliers(spec.fit(rows).score(plain), RULE).scores
    np.testing.assert_allclose(bundle.calibration.scores, wanted, rtol=1e-5)
    alone = Calibration.from_inliers(spec.fit(rows[::3]).score(plain), RULE).scores
    assert bundle.calibration.scores.mean() < alone.mean()
    entry = Bundle.read(tmp_path / "out").manifest.detector
    assert (entry.images, entry.augment) == (20, VIEWS)
    assert "fitted on 20 images in 3 views each (shift 0.1, turns True)" in model_card(
        bundle.manifest, bundle.calibration
    )


def test_all_views_of_an_image_are_in_one_fold(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    """The plain loop: fit on the views of the others, score the image itself."""
    for detector in ({"kind": "knn", "k": 2}, {"kind": "mahalanobis", "shrinkage": 0.5}):
        images = digits[:12]
        bundle = made(tmp_path / "out", small_graph, FitImages(images, images, method="cross", augment=VIEWS), detector)
        rows, spec = outputs_of(small_graph, Views.of(images, VIEWS, seed=5)), DetectorSpec.parse(detector)
        numbers = np.arange(len(rows)) // 3
        scores = [spec.fit(rows[numbers != image]).score(rows[3 * image][None])[0] for image in range(12)]
        wanted = Calibration.from_inliers(np.array(scores), RULE).scores
        np.testing.assert_allclose(bundle.calibration.scores, wanted, rtol=1e-4, atol=1e-5)
        assert bundle.manifest.calibration.folds == 12
        assert bundle.manifest.detector.images == bundle.manifest.calibration.images == 12
        np.testing.assert_allclose(bundle.detector.score(rows), spec.fit(rows).score(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detector", [{"kind": "patchcore", "coreset": None}, {"kind": "padim", "components": 2}])
def test_one_image_is_scored_by_its_other_views(
    digits: list[Source], tmp_path: Path, detector: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    graph, images = patches_graph(), digits[:1]
    bundle = made(tmp_path / "out", graph, FitImages(images, images, method="cross", augment=VIEWS), detector)
    outputs = outputs_of(graph, Views.of(images, VIEWS, seed=5))
    spec = DetectorSpec.parse(detector).with_map_size(28, 28)
    np.testing.assert_allclose(bundle.calibration.as_scored(), spec.fit(outputs[1:]).score(outputs[:1]), rtol=1e-4)
    np.testing.assert_allclose(bundle.detector.score(outputs), spec.fit(outputs).score(outputs), rtol=1e-4, atol=1e-4)
    assert "1 normal image supports no rate of false positives" in caplog.text
    read = Bundle.read(tmp_path / "out")
    card = model_card(read.manifest, read.calibration)
    assert (read.manifest.calibration.folds, read.calibration.folds) == (1, Folds(1, read.detector.falls_with_rows))
    assert "1 image, scored by its own other views" in card
    assert "false-positive rate unknown" in card
    assert "| rate | 1 image supports no rate of false positives |" in card


def test_two_images_are_left_out_in_turn(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    images = digits[:2]
    bundle = made(tmp_path / "out", small_graph, FitImages(images, images, method="cross"), {"kind": "knn", "k": 1})
    one, other = outputs_of(small_graph, images)
    distance = float(np.linalg.norm(one - other))
    np.testing.assert_allclose(bundle.calibration.as_scored(), [distance, distance], rtol=1e-4)
    assert bundle.manifest.calibration.folds == 2


def test_an_ensembles_scales_come_from_images_none_of_whose_views_fit() -> None:
    outputs = np.random.default_rng(0).normal(2, 1, (60, 4, 4, 5)).astype(np.float32)
    members = [{"kind": "padim", "components": 2}, {"kind": "patchcore", "coreset": None}]
    spec = DetectorSpec.parse({"kind": "ensemble", "members": members}).with_views(3)
    fitted: Any = spec.fit(outputs)
    in_bank = fitted.members[1].cells(outputs).max(axis=(1, 2)) < 1e-3
    of_images = in_bank.reshape(20, 3)
    assert (of_images.all(axis=1) | ~of_images.any(axis=1)).all()
    assert of_images.all(axis=1).sum() == 16  # four of five
    held = outputs.reshape(20, 3, 4, 4, 5)[~of_images.any(axis=1)][:, 0]
    for member, scale in zip(fitted.members, fitted.scales, strict=True):
        assert np.median(member.cells(held)) == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("cut", [1, 7, 31, 45])
def test_an_ensemble_of_views_merges_wherever_it_is_cut(cut: int) -> None:
    outputs = np.random.default_rng(1).normal(2, 1, (60, 6)).astype(np.float32)
    members = [{"kind": "mahalanobis", "shrinkage": 0.5}, {"kind": "knn", "k": 1, "coreset": 20}]
    spec = DetectorSpec.parse({"kind": "ensemble", "members": members}).with_views(4)
    first: Any = None
    for _ in range(2):
        parts: list[Any] = [spec.accumulator(first_row=row, after=first) for row in (0, cut)]
        for part, rows in zip(parts, (outputs[:cut], outputs[cut:]), strict=True):
            part.update(rows)
        parts[0].merge(parts[1])
        first = parts[0]
    np.testing.assert_allclose(first.finish().score(outputs), spec.fit(outputs).score(outputs), rtol=1e-9)


@pytest.mark.parametrize(
    ("detector", "patches"),
    [
        ({"kind": "knn", "k": 2}, False),
        ({"kind": "ensemble", "members": [{"kind": "mahalanobis"}, {"kind": "knn", "coreset": 60}]}, False),
        ({"kind": "patchcore", "coreset": 0.5}, True),
    ],
)
def test_all_engines_fit_the_same_views(
    small_graph: bytes, digits: list[Source], detector: dict[str, Any], patches: bool
) -> None:
    """Ninety images in three views, cut where batches end, which is within the views of an image."""
    graph = patches_graph() if patches else small_graph
    spec, views = DetectorSpec.parse(detector).with_views(3), Views.of(digits[:90], VIEWS, seed=0)
    shown = outputs_of(graph, digits[200:220])
    found = on_every_engine(graph, lambda engine: fit_detector(engine, spec, views)[0].score(shown))
    for scores in found.values():
        for each in scores:
            np.testing.assert_allclose(each, found["local"][0], rtol=1e-4, atol=1e-5)
    crossed = on_every_engine(graph, lambda engine: cross_fit(engine, spec, views[:60], seed=0, views=3).scores)
    for scores in crossed.values():
        for each in scores:
            assert each.shape == (20,)
            np.testing.assert_allclose(each, crossed["local"][0], rtol=1e-4, atol=1e-5)


def test_folds_score_the_first_view_alone() -> None:
    outputs = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    scoring = Scoring(DetectorSpec.parse({"kind": "knn", "k": 1}), outputs, None, 1, views=3)
    (fold, *_) = folds_of(10, 5, seed=0)
    scores, _ = scoring.score(fold)
    others = np.isin(np.arange(30) // 3, fold, invert=True)
    np.testing.assert_allclose(scores, scoring.spec.fit(outputs[others]).score(outputs[3 * fold]), rtol=1e-9)


def test_accepted_images_come_in_the_same_views(
    small_graph: bytes, digits: list[Source], garments: list[Source], tmp_path: Path
) -> None:
    images = FitImages(digits[:20], digits[20:60], augment=VIEWS)
    bundle = made(tmp_path / "out", small_graph, images, {"kind": "knn", "k": 1})
    accept(bundle, local_engine(small_graph), FeedbackImages(accepted=garments[:4]))
    new = Bundle.read(tmp_path / "out")
    views = Views.of([*digits[:20], *garments[:4]], VIEWS, seed=5)
    assert len(new.detector.state()["bank"]) == len(views) == 72
    np.testing.assert_allclose(new.detector.score(outputs_of(small_graph, views)), 0, atol=1e-3)
    assert (new.manifest.detector.images, new.manifest.detector.augment) == (24, VIEWS)


def test_manifests_without_views_do_not_speak_of_them(made_bundle: Bundle) -> None:
    assert made_bundle.manifest.detector.augment is msgspec.UNSET
    assert b"augment" not in msgspec.json.encode(made_bundle.manifest.detector)


def test_what_has_no_effect_is_refused(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    images = FitImages(digits[:9], digits[9:12], augment=Augment())
    with pytest.raises(ConfigError, match=r"data\.augment changes nothing"):
        made(tmp_path / "out", small_graph, images, {"kind": "knn", "k": 1})
    with pytest.raises(ConfigError, match=r"detector\.views is taken from data\.augment: leave it out"):
        DetectorSpec.parse({"kind": "ensemble", "members": [], "views": 3}).with_views(1)
    assert not (tmp_path / "out").exists()
