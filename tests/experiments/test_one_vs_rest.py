"""The protocol against a literal form of the notebook's, on features made up for it."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from lit_od.detectors.registry import DETECTORS
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.experiments.one_vs_rest import ClassResult, Contamination, Labelled, one_class

CLASSES = ["0", "1", "2"]
GMM = {"kind": "gmm"}
SPEC = DetectorSpec.parse(GMM)


def blobs(seed: int, each: int) -> Labelled:
    """Three classes whose Gaussians overlap."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), each)
    order = rng.permutation(len(labels))
    features = rng.normal(size=(len(labels), 4)) * (1, 2, 0.5, 1) + labels[:, None] * (1, 0, 0.5, 1)
    return Labelled(features[order].astype(np.float32), labels[order].astype(str))


TRAIN, TEST = blobs(0, 60), blobs(1, 37)


def run(detector: dict[str, object], seeds: tuple[int, ...] = (0,), **options: object) -> list[ClassResult]:
    return one_class(TRAIN, TEST, DetectorSpec.parse(detector), classes=CLASSES, seeds=seeds, **options)


def test_each_class_is_told_from_all_others_as_in_the_notebook():
    for result in run(GMM, (0, 5)):
        gmm = GaussianMixture(n_components=1)
        gmm.fit(TRAIN.features[TRAIN.labels == result.normal].astype(np.float64))
        score = -gmm.score_samples(TEST.features.astype(np.float64))
        wanted = roc_auc_score(TEST.labels != result.normal, score)
        assert result.aurocs == pytest.approx((wanted, wanted), abs=1e-9)
        assert (result.images, result.contaminated) == (60, ())
        assert result.fit_seconds > 0
        assert result.score_seconds > 0
    assert [result.normal for result in run(GMM)] == CLASSES


def test_contaminated_sets_are_the_notebooks():
    for result in run(GMM, contamination=Contamination(rate=0.1, draws=4)):
        normal = TEST.labels == result.normal
        gmm = GaussianMixture(n_components=1)
        gmm.fit(TRAIN.features[TRAIN.labels == result.normal].astype(np.float64))
        others = TRAIN.features[TRAIN.labels != result.normal]
        num_outliers = int(np.ceil(np.sum(normal) * 0.1))
        assert num_outliers == 4  # of 37: rounded up
        wanted = []
        for draw in range(4):
            rows = np.random.default_rng([draw, 37, 120]).choice(len(others), num_outliers)
            x_contam = np.concatenate([TEST.features[normal], others[rows]]).astype(np.float64)
            labels = np.repeat([0, 1], [37, num_outliers])
            wanted.append(roc_auc_score(labels, -gmm.score_samples(x_contam)))
        assert result.contaminated == pytest.approx(wanted, abs=1e-9)
        assert len(set(wanted)) > 1


def test_outliers_come_from_the_training_part_with_replacement(monkeypatch: pytest.MonkeyPatch):
    train = Labelled(np.array([[0.0], [1.0], [2.0], [1.0]], np.float32), np.array(["a", "a", "a", "b"]))
    test = Labelled(np.array([[0.0], [0.5], [3.0], [90.0]], np.float32), np.array(["a", "a", "a", "b"]))
    (result,) = one_class(train, test, SPEC, classes=["a"], seeds=[0], contamination=Contamination(rate=1.0, draws=2))
    assert result.aurocs == (1.0,)
    assert result.contaminated == (0.0, 0.0)  # three times the one outlier, which lies in the inliers' middle


def test_repetitions_draw_images_and_detectors_anew():
    limited = run(GMM, (0, 1, 0), limit=20)
    for result in limited:
        assert result.images == 20
        assert result.aurocs[0] == result.aurocs[2] != result.aurocs[1]
    assert [each.aurocs for each in run(GMM, (0,), limit=999)] == [each.aurocs for each in run(GMM)]
    for result in run({"kind": "knn", "k": 1, "coreset": 5}, (0, 1)):
        assert result.aurocs[0] != result.aurocs[1]


def test_draws_take_the_repetitions_in_turn():
    both = run(GMM, (0, 1), limit=20, contamination=Contamination(draws=4))
    alone = [run(GMM, (seed,), limit=20, contamination=Contamination(draws=4)) for seed in (0, 1)]
    for result, zero, one in zip(both, *alone, strict=True):
        assert result.contaminated == (
            zero.contaminated[0], one.contaminated[1], zero.contaminated[2], one.contaminated[3]
        )  # fmt: skip


def test_equal_detectors_score_once(monkeypatch: pytest.MonkeyPatch):
    scored = []
    score = DETECTORS["gmm"].score
    monkeypatch.setattr(DETECTORS["gmm"], "score", lambda self, rows: scored.append(1) or score(self, rows))
    run(GMM, (0, 1, 2))
    assert len(scored) == 3  # once a class
    run(GMM, (0, 1, 2), limit=20)
    assert len(scored) == 12


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": (-1,)}, ConfigError, "seed must be an integer of at least 0, got -1"),
        ({"limit": 0}, ConfigError, "limit must be an integer of at least 1, got 0"),
        ({"seeds": ()}, DataError, "at least one seed"),
        ({"detector": {"kind": "magic"}}, ConfigError, "unknown detector 'magic'"),
        ({"detector": {"kind": "gmm", "size": 3}}, ConfigError, "detector gmm has no option 'size'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        run(**({"detector": GMM} | options))


def test_classes_without_images_are_refused():
    with pytest.raises(DataError, match="class '7' has no training images"):
        one_class(TRAIN, TEST, SPEC, classes=["7"], seeds=[0])
    only = Labelled(TRAIN.features, np.full(len(TRAIN.labels), "3"))
    with pytest.raises(DataError, match="class '3' has no test images"):
        one_class(only, TEST, SPEC, classes=["3"], seeds=[0])
    alike = Labelled(TRAIN.features, np.full(len(TRAIN.labels), "1"))
    with pytest.raises(DataError, match="leaves none to contaminate with"):
        one_class(alike, TEST, SPEC, classes=["1"], seeds=[0], contamination=Contamination())
    with pytest.raises(DataError, match=r"labels must have shape \(180,\), got \(3,\)"):
        Labelled(TRAIN.features, np.array(CLASSES))


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": 1.5}, {"draws": 0}])
def test_impossible_contamination_is_refused(options: dict[str, float]):
    with pytest.raises(ConfigError, match="contamination"):
        Contamination(**options)
