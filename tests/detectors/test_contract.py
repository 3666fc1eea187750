"""What every detector must keep, whatever it computes."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, dataclass, field, is_dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.detectors import Detector, PixelDetector, registry
from lit_od.detectors.registry import DETECTORS, find
from lit_od.errors import ConfigError, DataError
from lit_od.formats.safetensors_file import load, save
from tests.support.detectors import MEAN_DISTANCE

TRUST = (MEAN_DISTANCE,)
accumulator = partial(registry.accumulator, trust=TRUST)
detector_from_state = partial(registry.detector_from_state, trust=TRUST)

ROWS, WIDTH = 120, 6
SHAPE = (3, 2, 1)  # of one image's errors: WIDTH values


@dataclass(frozen=True)
class Case:
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    ordered: bool = False  # the order of the fitted rows matters: they are sampled by row number, or EM starts there

    def __str__(self):
        return f"{self.kind} {json.dumps(self.options)}"

    @property
    def errors(self):
        return find(self.kind, TRUST).reads == "errors"

    def rows(self, n, seed=0, spread=1.0):
        """Correlated float32 features, or squared errors, the larger the more outlying."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, WIDTH)) @ np.random.default_rng(99).standard_normal((WIDTH, WIDTH))
        x *= spread
        return (x**2).reshape(n, *SHAPE).astype(np.float32) if self.errors else (x + 12).astype(np.float32)

    def gather(self, rows, labels=None, first_row=0):
        gathered = accumulator(self.kind, self.options, first_row=first_row)
        gathered.update(rows, np.arange(len(rows)) % 3 if labels is None else labels)
        return gathered

    def fit(self, rows, labels=None):
        return self.gather(rows, labels).finish()


CASES = [
    Case("mahalanobis"),
    Case("mahalanobis", {"shrinkage": 0.2}),
    Case("mahalanobis", {"shrinkage": 0}),
    Case("mahalanobis", {"class_conditional": True}),
    Case("mahalanobis", {"class_conditional": True, "relative": True, "shrinkage": 0.1}),
    Case("knn"),
    Case("knn", {"k": 3, "reduce": "kth", "metric": "cosine", "precision": "fp16"}),
    Case("knn", {"index": "HNSW8", "search": {"efSearch": 200}}, ordered=True),
    Case("knn", {"index": "IVF2,Flat", "search": {"nprobe": 2}, "standardise": True, "precision": "fp16"}),
    Case("knn", {"coreset": 0.5}, ordered=True),
    Case("knn", {"coreset": 40, "coreset_method": "sample", "seed": 2}, ordered=True),
    Case("knn", {"coreset": 0.6, "coreset_method": "sample", "standardise": True}, ordered=True),
    Case("knn", {"memory_budget": "1.2kB", "coreset_method": "sample"}, ordered=True),
    Case("knn", {"precision": "int8", "k": 3}),
    Case("lof"),
    Case("lof", {"k": 7, "metric": "cosine"}),
    Case("lof", {"k": 5, "precision": "fp16", "coreset": 80}, ordered=True),
    Case("lof", {"k": 5, "index": "HNSW8", "memory_budget": None, "coreset": 0.7}, ordered=True),
    Case("lof", {"precision": "int8", "metric": "cosine", "k": 5}),
    Case("local_residual"),
    Case("local_residual", {"k": 5, "metric": "cosine", "precision": "fp16"}),
    Case("local_residual", {"k": 4, "ridge": 1, "standardise": True, "coreset": 60}, ordered=True),
    Case("gmm"),
    Case("gmm", {"covariance": "tied"}),
    Case("gmm", {"covariance": "diag"}),
    Case("gmm", {"covariance": "spherical"}),
    Case("gmm", {"components": 3}, ordered=True),
    Case("gmm", {"components": 2, "covariance": "tied", "reservoir": 80, "seed": 3}, ordered=True),
    Case("gmm", {"components": 2, "covariance": "diag"}, ordered=True),
    Case("gmm", {"components": 2, "covariance": "spherical"}, ordered=True),
    Case("pca_residual"),
    Case("pca_residual", {"components": 2, "whiten": False}),
    Case("reconstruction"),
    Case("reconstruction", {"metric": "rmse", "outlier_perc": 34.5}),
    Case(MEAN_DISTANCE),  # a detector elsewhere keeps the same promises
    Case(MEAN_DISTANCE, {"order": 1}),
]

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def same(scores, others, rtol=1e-9):
    np.testing.assert_allclose(scores, others, rtol=rtol, atol=1e-11)


def test_every_detector_of_the_registry_is_tried():
    # those of patches, and ensembles, which take two passes, are tried in files of their own
    of_rows = {kind for kind, detector in DETECTORS.items() if detector.reads != "patches" and detector.passes == 1}
    assert {case.kind for case in CASES} == of_rows | {*TRUST}


@every_case
def test_its_class_says_all_that_is_asked_of_it(case):
    kind = find(case.kind, TRUST)
    assert (kind.kind, kind.passes) == (case.kind, 1)
    assert is_dataclass(kind.options_type)
    fitted = case.fit(case.rows(ROWS))
    assert fitted.input_shape == (SHAPE if case.errors else (WIDTH,))
    assert isinstance(fitted, PixelDetector) == case.errors
    if case.errors:
        scores, maps = fitted.score_map(case.rows(5, seed=1))
        np.testing.assert_array_equal(scores, fitted.score(case.rows(5, seed=1)))
        assert maps.shape == (5, *SHAPE[:2])


@every_case
def test_an_accumulators_state_travels(case):
    gathered = case.gather(case.rows(ROWS), first_row=7)
    again = accumulator(case.kind, case.options, first_row=7)
    again.restore(load(save(gathered.state())))
    queries = case.rows(20, seed=1)
    np.testing.assert_array_equal(again.finish().score(queries), gathered.finish().score(queries))
    again.restore(accumulator(case.kind, case.options, first_row=7).state())  # in place of the own rows
    with pytest.raises(DataError, match="got 0"):
        again.finish()


@every_case
def test_it_is_a_detector_with_plain_frozen_scores(case):
    detector = case.fit(case.rows(ROWS))
    assert isinstance(detector, Detector)
    assert (detector.kind, detector.width) == (case.kind, WIDTH)
    scores = detector.score(case.rows(7, seed=1))
    assert (scores.shape, scores.dtype) == ((7,), np.float64)
    assert np.isfinite(scores).all()
    with pytest.raises(FrozenInstanceError):
        detector.settings = None


@every_case
def test_round_trip_through_json_and_safetensors(case):
    detector = case.fit(case.rows(ROWS))
    options = json.loads(json.dumps(detector.options()))
    again = detector_from_state(case.kind, options, load(save(detector.state())))
    queries = case.rows(20, seed=1)
    np.testing.assert_array_equal(again.score(queries), detector.score(queries))
    assert again.options() == detector.options()
    for name, array in detector.state().items():
        np.testing.assert_array_equal(again.state()[name], array)
    assert options.items() >= case.options.items()
    accumulator(case.kind, options)


@every_case
def test_permuted_images_have_permuted_scores(case):
    detector, queries = case.fit(case.rows(ROWS)), case.rows(50, seed=1)
    order = np.random.default_rng(2).permutation(50)
    same(detector.score(queries[order]), detector.score(queries)[order])


@pytest.mark.parametrize("case", [case for case in CASES if not case.ordered], ids=str)
def test_the_order_of_the_fitted_rows_changes_nothing(case):
    rows, labels, queries = case.rows(ROWS), np.arange(ROWS) % 3, case.rows(20, seed=1)
    order = np.random.default_rng(2).permutation(ROWS)
    same(case.fit(rows[order], labels[order]).score(queries), case.fit(rows, labels).score(queries), 1e-7)


@every_case
def test_a_score_does_not_depend_on_the_rest_of_the_batch(case):
    detector, queries = case.fit(case.rows(ROWS)), case.rows(45, seed=1)
    whole = detector.score(queries)
    same(np.concatenate([detector.score(row[None]) for row in queries]), whole)
    same(np.concatenate([detector.score(part) for part in np.array_split(queries, 4)]), whole)


@every_case
def test_float32_and_float64_give_the_same(case):
    rows, queries = case.rows(ROWS), case.rows(20, seed=1)
    single, double = case.fit(rows), case.fit(rows.astype(np.float64))
    same(double.score(queries.astype(np.float64)), single.score(queries))
    same(single.score(queries.astype(np.float64)), single.score(queries))


@every_case
def test_higher_is_more_outlying(case):
    detector = case.fit(case.rows(ROWS))
    inliers, outliers = (
        detector.score(case.rows(60, seed=1)),
        detector.score(case.rows(60, seed=2, spread=40)),
    )
    wins = (outliers[:, None] > inliers).mean()
    assert wins > 0.9


@every_case
def test_wrong_input_is_refused(case):
    rows = case.rows(ROWS)
    detector, gathered = case.fit(rows), case.gather(rows)
    bad = rows.copy()
    bad[5].flat[0], bad[9].flat[1] = np.nan, np.inf
    for use in (detector.score, lambda x: gathered.update(x, np.zeros(len(x), int))):
        with pytest.raises(DataError, match="must be finite, but 2 of 120 rows hold NaN or infinity"):
            use(bad)
        with pytest.raises(DataError, match=r"must be|must have"):
            use(rows[:, :-1])
        with pytest.raises(DataError, match="must have shape"):
            use(rows[0])
        with pytest.raises(DataError, match=r"must have shape|must be 6 wide"):
            use(rows[..., :0])
        with pytest.raises(DataError, match="must be floating point, got int64"):
            use(rows.astype(np.int64))
    same(gathered.finish().score(rows), detector.score(rows))


@every_case
def test_no_rows_have_no_scores(case):
    scores = case.fit(case.rows(ROWS)).score(case.rows(0))
    assert (scores.shape, scores.dtype) == ((0,), np.float64)


@every_case
def test_duplicate_rows_and_a_constant_column_fit(case):
    rows = case.rows(ROWS)
    twice = case.fit(np.concatenate([rows, rows]))
    assert np.isfinite(twice.score(rows)).all()
    if case.options.get("shrinkage") != 0:
        rows.reshape(ROWS, -1)[:, 2] = 0.1
        assert np.isfinite(case.fit(rows).score(case.rows(ROWS, seed=1))).all()


@every_case
def test_scoring_and_fitting_leave_their_input_alone(case):
    rows = case.rows(ROWS).astype(np.float64)
    before = rows.copy()
    case.fit(rows).score(rows)
    np.testing.assert_array_equal(rows, before)


@every_case
@given(cuts=st.lists(st.integers(0, ROWS), max_size=6))
@settings(max_examples=8)
def test_any_split_of_the_stream_and_any_merge_give_the_same_object(case, cuts):
    rows, labels, queries = case.rows(ROWS), np.arange(ROWS) % 3, case.rows(20, seed=1)
    edges = [0, *sorted(cuts), ROWS]
    stream = accumulator(case.kind, case.options)
    merged = accumulator(case.kind, case.options)
    for start, stop in pairwise(edges):
        stream.update(rows[start:stop], labels[start:stop])
        merged.merge(case.gather(rows[start:stop], labels[start:stop], first_row=start))
    whole = case.fit(rows, labels)
    for detector in (stream.finish(), merged.finish()):
        same(detector.score(queries), whole.score(queries))
        assert {name: (a.shape, a.dtype) for name, a in detector.state().items() if name != "index"} == {
            name: (a.shape, a.dtype) for name, a in whole.state().items() if name != "index"
        }


@every_case
def test_an_accumulator_goes_on_after_finish(case):
    rows, labels = case.rows(ROWS), np.arange(ROWS) % 3
    gathered = case.gather(rows[:60], labels[:60])
    first = gathered.finish()
    before = first.score(rows)
    gathered.update(rows[60:], labels[60:])
    same(gathered.finish().score(rows), case.fit(rows, labels).score(rows))
    np.testing.assert_array_equal(first.score(rows), before)


@every_case
def test_no_features_are_refused(case):
    with pytest.raises(DataError, match="must have shape"):
        accumulator(case.kind, case.options).update(case.rows(ROWS)[..., :0], np.zeros(ROWS, int))


@every_case
def test_no_rows_are_refused(case):
    with pytest.raises(DataError, match=r"got 0|got none"):
        accumulator(case.kind, case.options).finish()


@every_case
def test_unlike_accumulators_do_not_merge(case):
    gathered = case.gather(case.rows(ROWS))
    other = accumulator(case.kind, _changed(case))
    with pytest.raises(ConfigError, match="must have the same options"):
        gathered.merge(other)


def _changed(case):
    return {
        "mahalanobis": case.options | {"shrinkage": 0.77},
        "knn": case.options | {"k": 1},
        "lof": case.options | {"k": 1},
        "local_residual": case.options | {"k": 7},
        "gmm": case.options | {"seed": 9},
        "pca_residual": case.options | {"components": 3},
        "reconstruction": case.options | {"outlier_perc": 1},
        MEAN_DISTANCE: case.options | {"order": 3},
    }[case.kind]


@every_case
def test_a_damaged_state_is_refused(case):
    detector = case.fit(case.rows(ROWS))
    options, state = detector.options(), detector.state()

    def refused(changed, message):
        with pytest.raises(DataError, match=message):
            detector_from_state(case.kind, options, changed)

    refused(state | {"surplus": np.zeros(3)}, "unknown array 'surplus'")
    for name, array in state.items():
        refused({key: value for key, value in state.items() if key != name}, f"lacks the array '{name}'")
        refused(state | {name: array[..., None]}, f"'{name}' of the state must have shape")
        refused(state | {name: array.astype(np.complex64)}, f"'{name}' of the state must be")
        refused(state | {name: array[:0]}, f"'{name}' of the state must have shape")
        if array.dtype.kind == "f":
            broken = array.copy()
            broken.flat[-1] = np.nan
            refused(state | {name: broken}, f"'{name}' of the state must be finite")


@every_case
def test_unknown_options_are_refused_on_the_way_back(case):
    detector = case.fit(case.rows(ROWS))
    with pytest.raises(ConfigError, match=f"{case.kind} has no option 'colour'"):
        detector_from_state(case.kind, detector.options() | {"colour": 1}, detector.state())


@every_case
def test_several_threads_score_at_once(case):
    fitted, rows = case.fit(case.rows(ROWS)), case.rows(ROWS)
    expected = fitted.score(rows)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(fitted.score, [rows] * 12):
            np.testing.assert_array_equal(scores, expected)
