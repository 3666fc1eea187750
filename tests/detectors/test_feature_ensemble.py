"""Ensembles of detectors of features: sums on one scale, in any division of the images."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lit_od.detectors import GMM, KNN, FeatureEnsemble, Mahalanobis, detector_from_state
from lit_od.detectors.held_out import is_held
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError
from lit_od.formats.safetensors_file import load, save

ROWS, WIDTH = 120, 6
MEMBERS: list[dict[str, Any]] = [
    {"kind": "mahalanobis"},
    {"kind": "gmm", "covariance": "diag"},
    {"kind": "knn", "k": 3},
]


def features(n: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, WIDTH)) @ np.random.default_rng(99).standard_normal((WIDTH, WIDTH))
    return (mixed + 3).astype(np.float32)


def test_it_is_the_weighted_sum_of_scaled_members() -> None:
    rows, queries = features(ROWS), features(9, seed=1)
    held = is_held(np.arange(ROWS), 0)
    assert held.sum() == ROWS // 5
    expected = np.zeros(9)
    fitted = (Mahalanobis.fit(rows[~held]), GMM.fit(rows[~held], covariance="diag"), KNN.fit(rows[~held], k=3))
    for detector, weight in zip(fitted, (1.0, 2.0, 0.5), strict=True):
        low, median, high = np.percentile(detector.score(rows[held]), (25, 50, 75))
        shift, scale = (median, high - low) if isinstance(detector, GMM) else (0.0, median)
        expected += weight * (detector.score(queries) - shift) / scale
    found = FeatureEnsemble.fit(rows, members=MEMBERS, weights=[1.0, 2.0, 0.5])
    np.testing.assert_allclose(found.score(queries), expected, rtol=1e-9)
    assert found.input_shape == (WIDTH,)
    assert found.score(queries[:0]).shape == (0,)


def test_a_recipe_names_it_ensemble_and_its_members_decide_what_it_reads() -> None:
    assert DetectorSpec.parse({"kind": "ensemble", "members": MEMBERS}).reads() == "features"
    assert DetectorSpec.parse({"kind": "ensemble"}).reads() == "patches"
    over = [{"kind": "knn", "over": "patches"}, {"kind": "padim"}]
    assert DetectorSpec.parse({"kind": "ensemble", "members": over}).reads() == "patches"
    with pytest.raises(
        ConfigError, match="a member over patches must be one of padim, patchcore, patch_rows, patch_channel, got 'knn'"
    ):
        DetectorSpec.parse({"kind": "ensemble", "members": [MEMBERS[2], {"kind": "padim"}]}).check()


def test_classes_reach_the_members() -> None:
    spec = DetectorSpec.parse(
        {"kind": "ensemble", "members": [{"kind": "mahalanobis", "class_conditional": True}, MEMBERS[2]]}
    )
    assert spec.needs_labels
    assert not DetectorSpec.parse({"kind": "ensemble", "members": MEMBERS}).needs_labels
    rows, labels = features(ROWS), np.arange(ROWS) % 2
    rows[labels == 1] += 50
    held = is_held(np.arange(ROWS), 0)
    found = FeatureEnsemble.fit(rows, labels, members=list(spec.options["members"]))
    apart = Mahalanobis.fit(rows[~held], labels=labels[~held])
    np.testing.assert_allclose(found.members[0].score(rows), apart.score(rows), rtol=1e-9)


@given(cuts=st.lists(st.integers(0, ROWS), max_size=5))
@settings(max_examples=15)
def test_any_split_and_merge_give_the_same(cuts: list[int]) -> None:
    rows, queries = features(ROWS), features(9, seed=1)
    edges = list(pairwise([0, *sorted(cuts), ROWS]))

    def merged(after: Any = None) -> Any:
        def begin(row: int) -> Any:
            if after is None:
                return FeatureEnsemble.accumulator(first_row=row, members=MEMBERS)
            return FeatureEnsemble.start_second(after, row)

        whole = begin(0)
        for start, stop in edges:
            part, again = begin(start), begin(start)
            part.update(rows[start:stop])
            again.restore(load(save(part.state())))
            whole.merge(again)
        return whole

    found = merged(merged()).finish()
    np.testing.assert_allclose(
        found.score(queries), FeatureEnsemble.fit(rows, members=MEMBERS).score(queries), rtol=1e-9
    )


def test_its_state_travels() -> None:
    found, queries = FeatureEnsemble.fit(features(ROWS), members=MEMBERS), features(9, seed=1)
    options = json.loads(json.dumps(found.options()))
    again = detector_from_state(found.kind, options, load(save(found.state())))
    np.testing.assert_array_equal(again.score(queries), found.score(queries))
    assert again.options() == found.options()
    with pytest.raises(DataError, match="'scales' of the state must be positive"):
        detector_from_state(found.kind, options, found.state() | {"scales": np.zeros(3)})
    with pytest.raises(DataError, match="lacks or holds the array 'shifts'"):
        detector_from_state(found.kind, options, {name: a for name, a in found.state().items() if name != "shifts"})


def test_shares_that_do_not_fit_are_refused() -> None:
    gathered = FeatureEnsemble.accumulator(members=MEMBERS)
    gathered.update(features(ROWS))
    state, again = gathered.state(), FeatureEnsemble.accumulator(members=MEMBERS)
    for changed in ({"ranks": state["ranks"][1:]}, {"seen": np.array([3])}):
        with pytest.raises(DataError, match="do not fit together"):
            again.restore(state | changed)
    del state["held"]
    with pytest.raises(DataError, match="do not fit together"):
        again.restore(state)


def test_too_few_images_and_a_scale_of_zero_are_refused() -> None:
    with pytest.raises(DataError, match="needs at least"):
        FeatureEnsemble.fit(
            features(ROWS)[~is_held(np.arange(ROWS), 0)][:1],
            members=[{"kind": "knn", "k": 1}, {"kind": "knn", "k": 1, "metric": "cosine"}],
        )
    same = np.ones((ROWS, WIDTH), np.float32)
    with pytest.raises(DataError, match="member knn gives 24 held-out images no scale"):
        FeatureEnsemble.fit(same, members=[{"kind": "knn"}, {"kind": "knn", "metric": "cosine"}])
