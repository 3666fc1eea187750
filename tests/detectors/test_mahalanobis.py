import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance, LedoitWolf, ShrunkCovariance

from lit_od.detectors import Mahalanobis
from lit_od.errors import ConfigError, DataError


@pytest.fixture
def inliers():
    rng = np.random.default_rng(3)
    return rng.standard_normal((150, 6)) @ rng.standard_normal((6, 6)) + 10.0


@pytest.fixture
def labels():
    return np.random.default_rng(4).integers(0, 3, 150) * 10 - 10


@pytest.fixture
def queries():
    return np.random.default_rng(5).standard_normal((40, 6)) * 8 + 10.0


def squared(queries, mean, covariance):
    inverse = np.linalg.inv(covariance)
    return np.array([mahalanobis(query, mean, inverse) ** 2 for query in queries])


@pytest.mark.parametrize(
    ("shrinkage", "reference"),
    [
        ("ledoit-wolf", LedoitWolf()),
        (0.0, EmpiricalCovariance()),
        (0, EmpiricalCovariance()),
        (0.3, ShrunkCovariance(shrinkage=0.3)),
        (1.0, ShrunkCovariance(shrinkage=1.0)),
    ],
)
def test_distance_to_the_mean_is_that_of_scipy(inliers, queries, shrinkage, reference):
    reference.fit(inliers)
    got = Mahalanobis.fit(inliers, shrinkage=shrinkage).score(queries)
    expected = squared(queries, reference.location_, reference.covariance_) ** 0.5
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("relative", [False, True])
def test_least_class_distance_under_one_covariance(inliers, labels, queries, relative):
    means = {label: inliers[labels == label].mean(axis=0) for label in np.unique(labels)}
    residuals = inliers - np.stack([means[label] for label in labels])
    within = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    expected = np.min([squared(queries, mean, within) for mean in means.values()], axis=0)
    if relative:
        total = LedoitWolf().fit(inliers)
        expected -= squared(queries, total.location_, total.covariance_)
    else:
        expected **= 0.5
    detector = Mahalanobis.fit(inliers, labels=labels, relative=relative)
    np.testing.assert_allclose(detector.score(queries), expected, rtol=1e-9)
    assert detector.classes.tolist() == [-10, 0, 10]
    assert detector.options() == {
        "class_conditional": True,
        "shrinkage": "ledoit-wolf",
        "relative": relative,
    }


def test_far_from_the_origin_no_digits_are_lost(inliers, queries):
    near, far = Mahalanobis.fit(inliers), Mahalanobis.fit(inliers + 1e4)
    np.testing.assert_allclose(far.score(queries + 1e4), near.score(queries), rtol=1e-8)


def test_classes_merge_by_label_whatever_their_order(inliers, labels, queries):
    whole = Mahalanobis.fit(inliers, labels=labels, relative=True)
    order = np.argsort(-labels)
    parts = []
    for rows in np.array_split(order, 4):
        part = Mahalanobis.accumulator(class_conditional=True, relative=True)
        part.update(inliers[rows], labels[rows])
        parts.append(part)
    first = parts.pop()
    for part in parts:
        first.merge(part)
    merged = first.finish()
    assert merged.classes.tolist() == whole.classes.tolist()
    np.testing.assert_allclose(merged.score(queries), whole.score(queries), rtol=1e-10)


def test_fewer_rows_than_features_is_fine_under_shrinkage():
    x = np.random.default_rng(0).standard_normal((10, 30))
    expected = LedoitWolf().fit(x).mahalanobis(x) ** 0.5
    np.testing.assert_allclose(Mahalanobis.fit(x).score(x), expected, rtol=1e-10)


def test_a_class_of_one_row_is_a_class(inliers):
    labels = np.zeros(150, dtype=int)
    labels[-1] = 7
    detector = Mahalanobis.fit(inliers, labels=labels)
    np.testing.assert_allclose(detector.score(inliers[-1:]), 0.0, atol=1e-12)


@pytest.mark.parametrize("columns", ["few rows", "repeated", "sum in float32", "constant"])
def test_a_singular_covariance_is_refused_without_shrinkage(inliers, columns):
    x = {
        "few rows": inliers[:6],
        "repeated": np.hstack([inliers, inliers[:, :1]]),
        "sum in float32": np.hstack([inliers, inliers[:, :2].sum(axis=1, keepdims=True)]).astype(np.float32),
        "constant": np.hstack([inliers, np.full((150, 1), 0.1)]),
    }[columns]
    with pytest.raises(DataError, match=r"covariance of \d features is singular\. Pass more images than"):
        Mahalanobis.fit(x, shrinkage=0.0)
    assert np.isfinite(Mahalanobis.fit(x, shrinkage=0.1).score(x)).all()


@pytest.mark.parametrize("shrinkage", ["ledoit-wolf", 0.0, 0.5])
def test_equal_rows_are_refused(shrinkage):
    with pytest.raises(DataError, match="features must vary, but all 9 rows are equal"):
        Mahalanobis.fit(np.full((9, 3), 0.1), shrinkage=shrinkage)


def test_one_row_is_refused(inliers):
    with pytest.raises(DataError, match="at least 2 rows of features, got 1"):
        Mahalanobis.fit(inliers[:1])
    with pytest.raises(DataError, match="at least 2 rows of features, got 0"):
        Mahalanobis.accumulator().finish()


def test_options_are_strict(inliers, labels):
    with pytest.raises(ConfigError, match=r"shrinkage must be a number in \[0, 1\], got 1.5"):
        Mahalanobis.fit(inliers, shrinkage=1.5)
    with pytest.raises(ConfigError, match=r"shrinkage must be a number in \[0, 1\], got nan"):
        Mahalanobis.fit(inliers, shrinkage=float("nan"))
    with pytest.raises(ConfigError, match="must be 'ledoit-wolf' or a number, got 'oas'"):
        Mahalanobis.accumulator(shrinkage="oas")
    with pytest.raises(ConfigError, match="relative=True needs classes"):
        Mahalanobis.fit(inliers, relative=True)
    with pytest.raises(DataError, match="at least 2 classes, got 1"):
        Mahalanobis.fit(inliers, labels=np.zeros(150, int), relative=True)


def test_labels_are_checked(inliers, labels):
    gathered = Mahalanobis.accumulator(class_conditional=True)
    with pytest.raises(DataError, match="needs labels with every batch, got none"):
        gathered.update(inliers)
    with pytest.raises(DataError, match=r"labels must have shape \(150,\)"):
        gathered.update(inliers, labels[:-1])
    with pytest.raises(DataError, match="labels must be integers, got float64"):
        gathered.update(inliers, labels.astype(float))


def test_merging_needs_equal_options_and_widths(inliers):
    gathered, other = Mahalanobis.accumulator(), Mahalanobis.accumulator()
    with pytest.raises(ConfigError, match="must have the same options"):
        gathered.merge(Mahalanobis.accumulator(shrinkage=0.1))
    gathered.update(inliers)
    other.update(inliers[:, :2])
    with pytest.raises(DataError, match="must have one width, got 6 and 2"):
        gathered.merge(other)


def test_a_state_whose_parts_do_not_fit_is_refused(inliers, labels):
    detector = Mahalanobis.fit(inliers, labels=labels)
    with pytest.raises(DataError, match="'classes' of the state must rise strictly"):
        Mahalanobis.from_state(detector.options(), detector.state() | {"classes": detector.classes[::-1]})
    with pytest.raises(DataError, match="unknown array 'classes'"):
        Mahalanobis.from_state({}, detector.state())
