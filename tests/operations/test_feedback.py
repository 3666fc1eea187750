"""Images that a bundle accepts: what changes, what stays, what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_od.bundle.folder import ACCUMULATOR, DETECTOR, MANIFEST, Bundle, golden_arrays
from lit_od.errors import ConfigError, DataError
from lit_od.fitting.engine import LocalEngine
from lit_od.fitting.fit import Origin
from lit_od.formats import safetensors_file as safetensors
from lit_od.images.sources import ImageArray, Source
from lit_od.operations.feedback import Feedback, FeedbackImages, accept
from lit_od.operations.history import rollback
from lit_od.scoring.scorer import Scorer
from tests.support.bundles import make_bundle
from tests.support.images import GREY

Made = Any
KNN = {"kind": "knn", "k": 1}


@pytest.fixture
def make(small_graph: bytes, digits: list[Source], tmp_path: Path) -> Made:
    """Makes a bundle on digits."""

    def made(detector: dict[str, Any], *, keep_sums: bool = False, name: str = "own", **options: Any) -> Path:
        facts: dict[str, Any] = {"fit": digits[:120], "calibration": digits[120:170], **options}
        rule = facts.pop("rule", {"rule": "percentile", "q": 90})
        origin = Origin(name=name, seed=0, keep_sums=keep_sums)
        make_bundle(
            tmp_path / name, model=small_graph, preparation=GREY, detector=detector, rule=rule, origin=origin,
            opset=20, threads=1, **facts,
        )  # fmt: skip
        return tmp_path / name

    return made


def engine_of(bundle: Bundle) -> LocalEngine:
    return LocalEngine(Scorer.of(bundle, threads=1).extractor, quiet=True)


def feed(
    path: Path, images: Sequence[Source], *, dry_run: bool = False, note: str | None = None, **more: Any
) -> Feedback:
    bundle = Bundle.read(path)
    return accept(bundle, engine_of(bundle), FeedbackImages(accepted=images, **more), dry_run=dry_run, note=note)


def bytes_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_an_exact_bank_keeps_threshold_and_calibration(
    make: Made, garments: list[Source], digits: list[Source]
) -> None:
    path = make(KNN)
    old = Bundle.read(path)
    odd = garments[:5]
    found = feed(path, odd, on=digits[200:230], note="shirts are fine")
    new = Bundle.read(path, whole=True)
    np.testing.assert_array_equal(new.calibration.scores, old.calibration.scores)
    assert new.calibration.threshold == old.calibration.threshold
    assert new.manifest.calibration == old.manifest.calibration
    assert found.before.max() > old.calibration.threshold
    np.testing.assert_allclose(found.after, 0.0, atol=1e-6)
    assert (found.on[1] <= found.on[0]).all()
    assert found.holds
    assert found.falls
    assert new.manifest.detector.images == 125
    (line,) = new.changes()
    assert (line.command, line.note, line.images["accepted"]["images"]) == ("accept", "shirts are fine", 5)
    golden, was = golden_arrays(new), golden_arrays(old)
    np.testing.assert_array_equal(golden["scores"], new.detector.score(golden["outputs"]))
    np.testing.assert_array_equal(golden["pixels"], was["pixels"])
    state = path / "history" / f"{line.state}.state"
    assert state.stat().st_size < 12_000  # manifest and card; no row


def test_the_same_image_changes_nothing_again(make: Made, garments: list[Source]) -> None:
    """By its content, whatever it is called; and of two copies one is taken."""
    path = make(KNN)
    first = garments[0]
    assert isinstance(first, ImageArray)
    copy = ImageArray(first.pixels, "another name")
    assert len(feed(path, [first, copy, garments[1]]).images) == 2
    before = bytes_of(path)
    found = feed(path, [copy, garments[1]])
    assert (len(found.images), found.holds) == (0, True)
    assert bytes_of(path) == before
    assert len(feed(path, [copy, garments[2]]).images) == 1
    assert Bundle.read(path).manifest.detector.images == 123


def test_a_rollback_forgets_the_images(make: Made, garments: list[Source]) -> None:
    path = make(KNN)
    before = bytes_of(path)
    feed(path, garments[:3])
    rollback(Bundle.read(path))
    after = bytes_of(path)
    assert all(after[name] == data for name, data in before.items() if name != MANIFEST)
    assert len(feed(path, garments[:3]).images) == 3


def test_a_dry_run_writes_nothing(make: Made, garments: list[Source], digits: list[Source]) -> None:
    path = make(KNN)
    before = bytes_of(path)
    found = feed(path, garments[:3], dry_run=True, on=digits[200:210])
    assert bytes_of(path) == before
    assert found.after.max() < found.before.min()
    assert found.on.shape == (2, 10)


@pytest.mark.parametrize("kind", ["lof", "local_residual"])
def test_other_banks_promise_no_rate(make: Made, garments: list[Source], digits: list[Source], kind: str) -> None:
    path = make({"kind": kind, "k": 5})
    threshold = Bundle.read(path).calibration.threshold
    found = feed(path, garments[:3])
    assert not found.holds
    assert Bundle.read(path).calibration.threshold == threshold
    card = (path / "README.md").read_text()
    assert "before images were accepted, and not guaranteed since (lit-od refit)" in card
    assert not feed(path, garments[:3]).holds
    # newer images calibrate it again
    again = feed(path, garments[:3], calibration=digits[300:360])
    new = Bundle.read(path, whole=True)
    assert again.holds
    assert new.calibration.scores.size == new.manifest.calibration.images == 60
    scores = engine_of(new).score(new.detector, digits[300:360], task="")
    assert np.abs(new.calibration.scores - np.sort(scores)).max() < 1e-5
    assert new.calibration.threshold == pytest.approx(np.percentile(scores, 90), rel=1e-4)
    assert new.manifest.provenance.data["calibration"]["images"] == 60
    assert "not guaranteed" not in (path / "README.md").read_text()
    assert [entry.command for entry in new.changes()] == ["accept", "accept"]


def test_newer_images_calibrate_after_a_cross_calibration(
    make: Made, garments: list[Source], digits: list[Source]
) -> None:
    """They were held out; without them the folds stay."""
    path = make(KNN, calibration=digits[:120], method="cross")
    assert Bundle.read(path).calibration.folds is not None
    feed(path, garments[:2])
    kept = Bundle.read(path, whole=True)
    assert kept.calibration.folds is not None
    feed(path, garments[2:4], calibration=digits[300:330])
    new = Bundle.read(path, whole=True)
    assert new.calibration.folds is None
    assert new.manifest.calibration.images == 30
    rollback(Bundle.read(path))
    assert Bundle.read(path, whole=True).calibration.folds == kept.calibration.folds


def test_what_was_accepted_calibrates_nothing(make: Made, garments: list[Source], digits: list[Source]) -> None:
    """Also not by a later command, and under another name."""
    path = make(KNN)
    feed(path, garments[:3])
    first = garments[1]
    assert isinstance(first, ImageArray)
    copy = ImageArray(first.pixels, "another name")
    before = bytes_of(path)
    with pytest.raises(DataError, match=r"^1 images of --calibration were accepted before, such as another name: "):
        feed(path, garments[5:6], calibration=[*digits[300:320], copy])
    assert bytes_of(path) == before


@pytest.mark.parametrize("kind", ["mahalanobis", "gmm", "pca_residual"])
def test_gaussians_take_images_by_their_sums(
    make: Made, garments: list[Source], digits: list[Source], kind: str
) -> None:
    """Kept sums, and the normal images again, give what a fit on all of them gives."""
    options = {"kind": kind} | ({"shrinkage": 0.3} if kind == "mahalanobis" else {})
    kept, bare = make(options, keep_sums=True, name="kept"), make(options, name="bare")
    assert (kept / ACCUMULATOR).exists()
    assert not (bare / ACCUMULATOR).exists()
    assert (kept / DETECTOR).read_bytes() == (bare / DETECTOR).read_bytes()
    odd = garments[:4]
    with pytest.raises(
        ConfigError, match=r"holds no accumulator\.safetensors, without which .* give --normal PATH, or fit"
    ):
        feed(bare, odd)
    assert not feed(kept, odd).other_normal
    found = feed(bare, odd, normal=digits[:120])
    assert not found.other_normal
    assert not found.holds
    whole = Bundle.read(make(options, fit=[*digits[:120], *odd], name="whole")).detector
    outputs = engine_of(Bundle.read(bare)).outputs(digits[200:240])
    for path in (kept, bare):
        score = Bundle.read(path, whole=True).detector.score(outputs)
        np.testing.assert_allclose(score, whole.score(outputs), rtol=1e-6)
    # the sums go on
    feed(kept, garments[4:6])
    again = Bundle.read(make(options, fit=[*digits[:120], *odd, *garments[4:6]], name="again")).detector
    np.testing.assert_allclose(Bundle.read(kept).detector.score(outputs), again.score(outputs), rtol=1e-6)


def test_sums_are_stored_as_triangles(make: Made) -> None:
    path = make({"kind": "mahalanobis"}, keep_sums=True)
    arrays = safetensors.load((path / ACCUMULATOR).read_bytes())
    width = arrays["mean"].shape[1]
    assert arrays["scatter"].shape == (1, width * (width + 1) // 2)
    assert arrays["scatter"].dtype == np.float64


def test_normal_images_are_those_of_the_fit(make: Made, garments: list[Source], digits: list[Source]) -> None:
    path = make({"kind": "mahalanobis", "shrinkage": 0.3})
    assert feed(path, garments[:2], normal=digits[:50], dry_run=True).other_normal
    feed(path, garments[:2], normal=digits[:120])
    with pytest.raises(DataError, match=r"^2 images that were accepted before are not among --normal: add them$"):
        feed(path, garments[2:3], normal=digits[:120])
    assert not feed(path, garments[2:3], normal=[*digits[:120], *garments[:2]]).other_normal


def test_other_normal_images_are_those_of_the_fit_from_then_on(
    make: Made, garments: list[Source], digits: list[Source]
) -> None:
    path = make({"kind": "mahalanobis", "shrinkage": 0.3})
    assert feed(path, garments[:2], normal=digits[200:250]).other_normal
    new = Bundle.read(path)
    assert new.manifest.detector.images == 52
    assert new.manifest.provenance.data["fit"]["images"] == 50
    again = [*digits[200:250], *garments[:2]]
    assert not feed(path, garments[2:3], normal=again).other_normal
    assert Bundle.read(path).manifest.detector.images == 53
    assert feed(path, garments[3:4], normal=[*digits[300:330], *garments[:3]]).other_normal
    assert Bundle.read(path).manifest.detector.images == 34


def test_a_bank_keeps_no_sums(make: Made, digits: list[Source], garments: list[Source]) -> None:
    path = make(KNN, keep_sums=True)
    assert not (path / ACCUMULATOR).exists()
    with pytest.raises(ConfigError, match=r"^detector knn needs no normal images again: leave --normal out$"):
        feed(path, garments[:1], normal=digits[:5])


def test_what_cannot_be_accepted_is_refused(make: Made, garments: list[Source], digits: list[Source]) -> None:
    of_classes = make({"kind": "mahalanobis", "class_conditional": True, "shrinkage": 0.5}, name="classes")
    with pytest.raises(ConfigError, match=r"detector mahalanobis takes no further images as it is: .* lit-od refit$"):
        feed(of_classes, garments[:1])
    path = make(KNN, rule={"rule": "max_f1"}, outliers=garments[50:60], name="max_f1")
    with pytest.raises(ConfigError, match="rule max_f1 needs labelled outliers: leave --calibration out"):
        feed(path, garments[:1], calibration=digits[300:310])
    archived = [ImageArray(np.full((28, 28), row, np.uint8), f"a.npz#{row}") for row in range(2)]
    path = make(KNN, name="other")
    before = bytes_of(path)
    with pytest.raises(DataError, match=r"a\.npz#1 serves as both image to accept and other normal image"):
        feed(path, archived, calibration=archived[1:])
    assert bytes_of(path) == before


def test_what_was_changed_meanwhile_is_not_lost(make: Made, garments: list[Source]) -> None:
    path = make(KNN)
    old = Bundle.read(path)
    feed(path, garments[:1])
    with pytest.raises(ConfigError, match="was changed by another command meanwhile"):
        accept(old, engine_of(old), FeedbackImages(accepted=garments[1:2]))
    assert Bundle.read(path).manifest.detector.images == 121
