"""Cross calibration: every image scored by a detector fitted without it, and the bundle that says so."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od import Scorer
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.detectors.base import Detector, PixelDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import DataError
from lit_od.fitting import cross
from lit_od.fitting.cross import Scoring, cross_fit, fold_count, folds_of
from lit_od.fitting.engine import fit_detector
from lit_od.fitting.fit import FitImages, GraphFile, Origin, fit_bundle
from lit_od.images.batching import load
from lit_od.images.identity import fingerprint
from lit_od.images.sources import Source, Unreadable, class_numbers
from tests.support.bundles import local_engine
from tests.support.engines import on_every_engine
from tests.support.graphs import patches_graph
from tests.support.images import GREY

RULE = {"rule": "percentile", "q": 90}


def made(out: Path, graph: bytes, images: Sequence[Source], detector: dict[str, Any], **changes: Any) -> Bundle:
    parts = FitImages(images, images, outliers=changes.pop("outliers", ()), method="cross")
    spec, rule = DetectorSpec.parse(detector), changes.pop("rule", RULE)
    return fit_bundle(out, local_engine(graph), GraphFile(graph), parts, spec, rule, Origin(name="x", seed=5))


def by_hand(
    spec: DetectorSpec, outputs: np.ndarray, folds: Sequence[np.ndarray], labels: np.ndarray | None = None
) -> tuple[np.ndarray, list[Detector]]:
    """The plain loop: fit on the others, score the fold."""
    scores, fitted = np.empty(len(outputs)), []
    for fold in folds:
        others = [row for row in range(len(outputs)) if row not in set(fold.tolist())]
        fitted.append(spec.fit(outputs[others], None if labels is None else labels[others]))
        scores[fold] = fitted[-1].score(outputs[fold])
    return scores, fitted


def features(graph: bytes, images: Sequence[Source]) -> np.ndarray:
    return Backbone.load(graph, threads=1)(load(images, GREY))


@pytest.mark.parametrize(
    ("detector", "images", "count"),
    [
        ({"kind": "mahalanobis"}, 110, 10),
        ({"kind": "mahalanobis", "shrinkage": 0.5}, 25, 25),
        ({"kind": "lof", "k": 3}, 20, 20),
        ({"kind": "knn", "k": 2, "standardise": True}, 30, 30),
        ({"kind": "knn", "k": 2, "coreset": 40}, 105, 10),
        ({"kind": "knn", "k": 2}, 105, 105),  # own rows are skipped, whatever the number
        ({"kind": "local_residual", "k": 4}, 30, 30),
        ({"kind": "pca_residual", "components": 3}, 30, 30),
    ],
)
def test_it_is_a_plain_loop(
    small_graph: bytes, digits: list[Source], tmp_path: Path, detector: dict[str, Any], images: int, count: int
) -> None:
    sources = digits[:images]
    bundle = made(tmp_path / "out", small_graph, sources, detector)
    outputs, spec = features(small_graph, sources), DetectorSpec.parse(detector)
    wanted, _ = by_hand(spec, outputs, folds_of(images, count, seed=5))
    np.testing.assert_allclose(
        bundle.calibration.scores, Calibration.from_inliers(wanted, RULE).scores, rtol=1e-4, atol=1e-5
    )
    whole, _ = fit_detector(local_engine(small_graph), spec, sources)
    np.testing.assert_allclose(bundle.detector.score(outputs), whole.score(outputs), rtol=1e-6, atol=1e-6)
    assert bundle.calibration.folds is not None
    assert (bundle.calibration.folds.count, bundle.manifest.calibration.folds) == (count, count)
    assert bundle.calibration.folds.bounded == (detector == {"kind": "knn", "k": 2})
    assert bundle.manifest.detector.images == bundle.manifest.calibration.images == images


def test_classes_are_spread_over_the_folds(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    sources, detector = digits[:120], {"kind": "mahalanobis", "class_conditional": True}
    bundle, labels = made(tmp_path / "out", small_graph, sources, detector), class_numbers(sources)
    folds = folds_of(120, 10, seed=5, labels=labels)
    wanted, _ = by_hand(DetectorSpec.parse(detector), features(small_graph, sources), folds, labels)
    np.testing.assert_allclose(bundle.calibration.scores, Calibration.from_inliers(wanted, RULE).scores, rtol=1e-5)


def test_rule_max_f1_takes_outliers_scored_by_the_final_detector(
    small_graph: bytes, digits: list[Source], garments: list[Source], tmp_path: Path
) -> None:
    bundle = made(
        tmp_path / "out",
        small_graph,
        digits[:30],
        {"kind": "knn", "k": 2},
        rule={"rule": "max_f1"},
        outliers=garments[:20],
    )
    outliers = bundle.detector.score(features(small_graph, garments[:20]))
    wanted = bundle.calibration.with_rule({"rule": "max_f1"}, outliers=outliers).threshold
    assert bundle.calibration.threshold == pytest.approx(wanted, rel=1e-6)
    assert bundle.calibration.promised() is None


@pytest.mark.parametrize("kind", [{"kind": "knn", "k": 2}, {"kind": "lof", "k": 3}])
def test_all_engines_give_the_same(small_graph: bytes, digits: list[Source], kind: dict[str, Any]) -> None:
    sources, spec = digits[:90], DetectorSpec.parse(kind)
    found = on_every_engine(small_graph, lambda engine: cross_fit(engine, spec, sources, seed=0))
    first = found["local"][0]
    for fits in found.values():
        for fit in fits:
            np.testing.assert_allclose(fit.scores, first.scores, rtol=1e-5)
            np.testing.assert_allclose(
                fit.detector.state()["bank"], first.detector.state()["bank"], rtol=1e-4, atol=1e-5
            )
            assert fit.folds == first.folds
        assert [fit.gathered is not None for fit in fits] == [True, *[False] * (len(fits) - 1)]


def test_outputs_beyond_the_memory_lie_in_a_file(
    small_graph: bytes, digits: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, seen = DetectorSpec.parse({"kind": "lof", "k": 3}), []
    in_memory = cross_fit(local_engine(small_graph), spec, digits[:40], seed=0)
    monkeypatch.setattr(cross, "MOST_BYTES", 100)
    monkeypatch.setattr(cross, "AT_ONCE", 15)
    monkeypatch.setattr(
        np, "memmap", lambda *args, memmap=np.memmap, **named: seen.append(args) or memmap(*args, **named)
    )
    in_file = cross_fit(local_engine(small_graph), spec, digits[:40], seed=0)
    assert len(seen) == 1
    assert not Path(seen[0][0]).exists()
    np.testing.assert_allclose(in_file.scores, in_memory.scores, rtol=1e-6)


@pytest.mark.parametrize("aggregate", ["max", "top_share"])
def test_the_threshold_for_pixels_is_of_maps_of_the_same_folds(
    digits: list[Source], tmp_path: Path, aggregate: str
) -> None:
    """Twenty-five images: five folds of patches."""
    graph, sources = patches_graph(), digits[:25]
    detector = {"kind": "patchcore", "coreset": 0.5, "aggregate": aggregate, "share": 0.2}
    bundle = made(tmp_path / "out", graph, sources, detector)
    assert bundle.manifest.calibration.folds == 5
    outputs = Backbone.load(graph, threads=1)(load(sources, GREY))
    spec, folds = DetectorSpec.parse(detector).with_map_size(28, 28), folds_of(25, 5, seed=5)
    scores, fitted = by_hand(spec, outputs, folds)
    np.testing.assert_allclose(bundle.calibration.scores, Calibration.from_inliers(scores, RULE).scores, rtol=1e-4)
    threshold = bundle.manifest.calibration.pixel_threshold
    if aggregate == "max":
        assert threshold == bundle.calibration.threshold
        return
    peaks = []
    for fold, each in zip(folds, fitted, strict=True):
        assert isinstance(each, PixelDetector)
        peaks.append(each.score_map(outputs[fold])[1].max(axis=(1, 2)))
    wanted = Calibration.from_inliers(np.concatenate(peaks).astype(np.float64), RULE).threshold
    assert threshold == pytest.approx(wanted, rel=1e-4)


def test_an_ensembles_scales_are_those_of_the_folds_own_images() -> None:
    """The images that set a member's scale come from those that fit the fold."""
    outputs = np.random.default_rng(0).normal(2, 1, (25, 4, 4, 5)).astype(np.float32)
    members = [{"kind": "padim", "components": 2}, {"kind": "patchcore", "coreset": 40}]
    spec, folds = DetectorSpec.parse({"kind": "ensemble", "members": members}), folds_of(25, 5, seed=1)
    scoring = Scoring(spec, outputs, None, 28 * 28)
    wanted, _ = by_hand(spec, outputs, folds)
    for fold in folds:
        scores, maps = scoring.score(fold)
        np.testing.assert_allclose(scores, wanted[fold], rtol=1e-6)
        assert maps is None


# The bundle


def test_a_bundle_says_how_it_was_calibrated(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    made(tmp_path / "out", small_graph, digits[:30], {"kind": "knn", "k": 2})
    bundle = Bundle.read(tmp_path / "out")
    entry = json.loads((tmp_path / "out" / "manifest.json").read_text())["calibration"]
    assert (entry["method"], entry["folds"]) == ("cross", 30)
    data = bundle.manifest.provenance.data
    assert data["fit"] == data["calibration"] == fingerprint(digits[:30])
    came = np.concatenate([each.p_value for each in Scorer.load(tmp_path / "out").stream(digits[500:540])])
    assert ((came > 0) & (came <= 1)).all()


def test_manifests_of_held_out_images_stay_as_they_are(made_bundle: Bundle) -> None:
    entry = json.loads((made_bundle.path / "manifest.json").read_text())["calibration"]
    assert set(entry) == {"threshold", "rule", "images", "pixel_threshold"}
    assert made_bundle.calibration.folds is None


# Folds


@given(images=st.integers(2, 80), count=st.integers(2, 80), seed=st.integers(0, 9), classes=st.integers(0, 4))
def test_folds_divide_images_and_classes_evenly(images: int, count: int, seed: int, classes: int) -> None:
    count = min(count, images)
    labels = np.arange(images) % classes if classes and images >= 2 * classes else None
    folds = folds_of(images, count, seed=seed, labels=labels)
    assert sorted(np.concatenate(folds).tolist()) == list(range(images))
    sizes = [len(fold) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for label in np.unique(labels) if labels is not None else ():
        held = [np.count_nonzero(labels[fold] == label) for fold in folds]
        assert max(held) - min(held) <= 1
    again = folds_of(images, count, seed=seed, labels=labels)
    assert all((one == other).all() for one, other in zip(folds, again, strict=True))


def test_the_number_of_folds() -> None:
    rows, patches = DetectorSpec.parse({"kind": "lof"}), DetectorSpec.parse({"kind": "padim"})
    assert [fold_count(rows, images) for images in (3, 100, 101, 5000)] == [3, 100, 10, 10]
    assert [fold_count(patches, images) for images in (3, 20, 21, 300)] == [3, 20, 5, 5]


def test_images_that_cannot_be_divided_are_refused(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 normal image leaves none to calibrate: pass more images, or .* defects-few"
    ):
        folds_of(1, 1, seed=0)
    with pytest.raises(DataError, match="1 of 2 classes have 1 image, and cross calibration fits without it"):
        folds_of(5, 5, seed=0, labels=np.array([0, 0, 0, 0, 1]))
    with pytest.raises(DataError, match=r"rate=0\.01 needs at least 99 calibration inliers, got 50"):
        made(tmp_path / "out", small_graph, digits[:50], {"kind": "knn"}, rule={"rule": "fpr", "rate": 0.01})
    with pytest.raises(DataError, match="knn with k=5 needs 6 images to leave one out, got 5"):
        made(tmp_path / "out", small_graph, digits[:5], {"kind": "knn", "k": 5})
    few = r"^cross calibration fits on 5 of 6 images: KNN needs at least 6 rows of features, got 5 of 5"
    with pytest.raises(DataError, match=few):
        made(tmp_path / "out", small_graph, digits[:6], {"kind": "knn", "k": 6, "coreset": 100})
    with pytest.raises(DataError, match=r"bad\.png: empty file\. Take it out"):
        made(tmp_path / "out", small_graph, [*digits[:9], Unreadable("bad.png", "empty file")], {"kind": "lof", "k": 2})
    assert not (tmp_path / "out").exists()
