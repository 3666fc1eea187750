"""From a backbone and normal images to a bundle: the parts, and what a bundle says of where it comes from."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from lit_od import Scorer
from lit_od.backbone.model import Backbone
from lit_od.bundle.folder import Bundle
from lit_od.calibration.p_values import Calibration
from lit_od.commands._status import written
from lit_od.detectors import Mahalanobis
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import BackboneError, ConfigError, DataError
from lit_od.fitting.engine import fit_detector
from lit_od.fitting.fit import Origin
from lit_od.images.batching import load
from lit_od.images.identity import fingerprint
from lit_od.images.preparation import Preparation
from lit_od.images.sources import ImageArray, ImageFile, OpenImage, Source, Unreadable, class_numbers
from lit_od.versions import versions
from tests.support.bundles import local_engine, make_bundle
from tests.support.images import GREY


def make(out: Path, graph: bytes, sources: list[Source], **changes: Any) -> Bundle:
    arguments: dict[str, Any] = {
        "model": graph,
        "preparation": GREY,
        "fit": sources[:60],
        "calibration": sources[60:90],
        "detector": {"kind": "mahalanobis"},
        "rule": {"rule": "mean_std", "n": 3},
        "origin": Origin(name="test"),
        "threads": 1,
        **changes,
    }
    return make_bundle(out, **arguments)


def test_it_is_the_detector_on_the_backbones_features(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    """The flow again, literally: all features at once, the detector's own fit, numpy's threshold."""
    bundle = make(tmp_path / "out", small_graph, digits)
    backbone = Backbone.load(small_graph, threads=1)
    features = backbone(load(digits[:90], GREY))
    detector = Mahalanobis.fit(features[:60])
    want = detector.score(features[60:])
    np.testing.assert_allclose(bundle.calibration.scores, np.sort(want), rtol=1e-6)
    assert bundle.calibration.threshold == pytest.approx(want.mean() + 3 * want.std(), rel=1e-6)
    np.testing.assert_allclose(bundle.detector.score(features), detector.score(features), rtol=1e-6)


def test_the_scorer_gives_the_calibration_scores(made_bundle: Bundle, digits: list[Source]) -> None:
    came = np.concatenate([each.score for each in Scorer.load(made_bundle.path).stream(digits[800:1200])])
    want = Calibration.from_inliers(came, {"rule": "percentile"}).scores
    np.testing.assert_allclose(want, made_bundle.calibration.scores, rtol=1e-9)


def test_what_a_smaller_bank_costs(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    """The ranks of validation images under half of the rows, against those under all of them."""
    smaller = {"kind": "knn", "k": 3, "coreset": 30}
    bundle = make(tmp_path / "out", small_graph, digits, detector=smaller, validation=digits[90:130])
    whole = make(tmp_path / "whole", small_graph, digits, detector={"kind": "knn", "k": 3}, validation=digits[90:130])
    features = Backbone.load(small_graph, threads=1)(load(digits[90:130], GREY))
    want = spearmanr(bundle.detector.score(features), whole.detector.score(features)).statistic
    bank = bundle.manifest.provenance.metrics["bank"]
    assert (bank["rows"], bank["of_rows"], bank["bytes"]) == (30, 60, 30 * 16 * 4)
    assert bank["rank_agreement"] == pytest.approx(want, abs=1e-6)
    assert "bank: 30 of 60 rows, 0.0 MiB; its scores of validation images rank" in written(bundle, 1.0)
    assert "bank" not in whole.manifest.provenance.metrics
    assert "bank:" not in written(whole, 1.0)


def test_what_the_manifest_says(small_graph: bytes, digits: list[Source], tmp_path: Path) -> None:
    origin = Origin(name="n", recipe={"a": 1}, seed=3, metrics={"auroc": 0.5}, data={"root": "r"})
    manifest = make(tmp_path / "out", small_graph, digits, origin=origin, opset=20).manifest
    assert manifest.name == "n"
    assert manifest.preparation == GREY
    assert (manifest.model.input, manifest.model.input_shape) == ("images", [None, 28, 28, 1])
    assert (manifest.model.output, manifest.model.output_shape) == ("features", [None, 16])
    assert manifest.model.opset == 20
    assert manifest.detector.kind == "mahalanobis"
    assert manifest.detector.options == {"class_conditional": False, "shrinkage": "ledoit-wolf", "relative": False}
    assert (manifest.detector.images, manifest.calibration.images) == (60, 30)
    assert manifest.calibration.rule == {"rule": "mean_std", "n": 3}
    provenance = manifest.provenance
    assert (provenance.recipe, provenance.seed, provenance.metrics) == ({"a": 1}, 3, {"auroc": 0.5})
    assert provenance.data == {"root": "r", "fit": fingerprint(digits[:60]), "calibration": fingerprint(digits[60:90])}
    age = datetime.now(UTC) - datetime.fromisoformat(provenance.created)
    assert -5 < age.total_seconds() < 60
    assert provenance.versions == versions()
    assert provenance.versions["numpy"] == np.__version__


@pytest.mark.parametrize("validation", [1, 3])
def test_a_smaller_bank_of_few_images_is_fitted_unmeasured(
    small_graph: bytes, digits: list[Source], tmp_path: Path, validation: int
) -> None:
    """One validation image, or several that are the same, have no ranks."""
    bundle = make(
        tmp_path / "out",
        small_graph,
        digits,
        detector={"kind": "knn", "k": 1, "coreset": 0.5},
        validation=digits[90:91] * validation,
    )
    assert bundle.manifest.provenance.metrics.get("bank") is None
    assert len(bundle.detector.state()["bank"]) == 30


def test_a_class_conditional_detector_gets_the_labels(small_graph: bytes, digits: list[Source]) -> None:
    engine, spec = local_engine(small_graph), DetectorSpec("mahalanobis", {"class_conditional": True})
    fitted, _ = fit_detector(engine, spec, digits[:200])
    features = engine.extractor.backbone(load(digits[:200], GREY))
    labels = np.array([int(str(source.label)) for source in digits[:200]])
    want = Mahalanobis.fit(features, labels=labels)
    np.testing.assert_allclose(fitted.score(features), want.score(features), rtol=1e-6)
    no_label: list[Source] = [ImageArray(np.zeros((28, 28), np.uint8), "plain.png")]
    with pytest.raises(DataError, match=r"needs a class for every image; plain\.png has none\. Give class folders"):
        fit_detector(engine, spec, no_label)


def test_class_numbers_follow_the_order_of_names() -> None:
    sources = [ImageArray(np.zeros((1, 1), np.uint8), "x", label) for label in ("dog", "cat", "10", "dog", "9")]
    assert class_numbers(sources).tolist() == [3, 2, 0, 3, 1]


def test_scores_of_no_image(small_graph: bytes, made_bundle: Bundle) -> None:
    assert local_engine(small_graph).score(made_bundle.detector, [], task="scoring").shape == (0,)


# Refusals


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"calibration": []}, DataError, r"no calibration images: give split\.calibration a larger share"),
        ({"fit": []}, DataError, "Mahalanobis needs at least 2 rows of features, got 0"),
        ({"detector": {"kind": "magic"}}, ConfigError, "unknown detector 'magic'"),
        ({"detector": {}}, ConfigError, "a detector needs a kind, one of mahalanobis, "),
        ({"detector": {"kind": "mahalanobis", "k": 5}}, ConfigError, "detector mahalanobis has no option 'k'"),
        ({"rule": {"rule": "magic"}}, ConfigError, "unknown threshold rule 'magic'"),
        ({"preparation": Preparation(size=(28, 28))}, BackboneError, "the graph takes"),
        ({"model": b"no graph"}, BackboneError, "the graph cannot be loaded"),
        ({"providers": ["magic"]}, ConfigError, "provider magic is not in this ONNX Runtime"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_nothing_is_left(
    small_graph: bytes,
    digits: list[Source],
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path / "out", small_graph, digits, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["fit", "calibration"])
def test_an_image_that_cannot_be_read_is_named(
    small_graph: bytes, digits: list[Source], tmp_path: Path, part: str
) -> None:
    sources: list[Source] = [*digits[:20], Unreadable("bad.png", "empty file"), *digits[20:40]]
    with pytest.raises(DataError, match=r"^bad\.png: empty file\. Take it out"):
        make(tmp_path / "out", small_graph, digits, **{part: sources})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def idle_graph(small_graph: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A graph that must not run."""
    monkeypatch.setattr("lit_od.backbone.model.run_session", lambda *given: pytest.fail("it ran"))
    return small_graph


def test_a_folder_that_is_no_bundle_is_refused_before_any_work(
    idle_graph: bytes, digits: list[Source], tmp_path: Path
) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(ConfigError, match="is a folder but no bundle"):
        make(tmp_path, idle_graph, digits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photo.png"]


def test_a_rule_that_cannot_be_is_refused_before_any_work(
    idle_graph: bytes, digits: list[Source], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="q must be a number"):
        make(tmp_path / "out", idle_graph, digits, rule={"rule": "percentile", "q": 101})


def test_a_graph_that_answers_differently_each_time_is_refused(
    small_graph: bytes, digits: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, drift = Backbone.__call__, iter(np.linspace(1, 2, 1000))
    monkeypatch.setattr("lit_od.fitting.fit.require_independent", lambda *given: None)  # it would find this first
    monkeypatch.setattr(Backbone, "__call__", lambda self, images: call(self, images) * np.float32(next(drift)))
    with pytest.raises(DataError, match="does not score its own golden images as fitted: golden outputs differ"):
        make(tmp_path / "out", small_graph, digits)


# Provenance


def test_a_fingerprint_is_of_labels_and_pixels(digits: list[Source]) -> None:
    same = [ImageArray(np.asarray(each.decode()), "another name", each.label) for each in digits[:9]]
    assert fingerprint(digits[:9]) == fingerprint(same)
    assert fingerprint(digits[:9]) != fingerprint(digits[1:10])
    assert fingerprint(digits[:9]) != fingerprint(digits[8::-1])
    same[0] = ImageArray(np.asarray(digits[0].decode()), "name", "another label")
    assert fingerprint(digits[:9]) != fingerprint(same)
    assert fingerprint([]) == {"images": 0, "sha256": hashlib.sha256().hexdigest()}


def test_a_fingerprint_of_files_is_of_names_and_sizes(tmp_path: Path, digits: list[Source]) -> None:
    name = os.fsdecode(b"\xff.png")
    file = tmp_path / name
    digits[0].decode().save(file)
    before = fingerprint([ImageFile(file, str(file))])
    moved = tmp_path / "below" / name
    moved.parent.mkdir()
    file.rename(moved)
    assert fingerprint([ImageFile(moved, str(moved))]) == before
    moved.write_bytes(moved.read_bytes() + b"\0")
    assert fingerprint([ImageFile(moved, str(moved))]) != before
    opened: list[Source] = [OpenImage(Image.new("L", (1, 1)), name)]
    assert fingerprint(opened)["images"] == 1


def test_versions_name_only_what_is_installed() -> None:
    found = versions()
    assert set(found) >= {"python", "lit-od", "numpy", "pillow", "onnxruntime"}
    assert "onnxruntime-gpu" not in found
    assert found["python"].count(".") == 2


def test_a_threshold_is_the_rules(made_bundle: Bundle) -> None:
    again = made_bundle.calibration.with_rule({"rule": "percentile", "q": 99})
    assert again.threshold == made_bundle.calibration.threshold == made_bundle.manifest.calibration.threshold
