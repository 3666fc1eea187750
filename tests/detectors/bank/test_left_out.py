"""Rows of a bank scored without themselves, as by a detector that was fitted without them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.detectors import KNN, LOF, Detector, LocalResidual, Mahalanobis, PatchCore
from lit_od.detectors.bank.detector import BankDetector
from lit_od.detectors.patch_rows import PatchRows
from lit_od.errors import ConfigError, DataError, LitODWarning

OPTIONS: list[tuple[type[BankDetector], dict[str, Any]]] = [
    (KNN, {"k": 1}),
    (KNN, {"k": 3, "reduce": "kth"}),
    (KNN, {"k": 2, "metric": "cosine"}),
    (LocalResidual, {"k": 4}),
    (LocalResidual, {"k": 3, "metric": "cosine"}),
]


def rows_of(seed: int, count: int, *, ties: bool = False) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(3, 2, (count, 6)).astype(np.float32)
    return np.concatenate([rows, rows[:2]]) if ties else rows


@settings(max_examples=15)
@given(which=st.sampled_from(OPTIONS), seed=st.integers(0, 99), count=st.integers(6, 20), ties=st.booleans())
def test_skipping_own_rows_is_fitting_without_them(
    which: tuple[type[BankDetector], dict[str, Any]], seed: int, count: int, ties: bool
) -> None:
    kind, options = which
    rows = rows_of(seed, count, ties=ties)
    wanted = [
        kind.fit(np.delete(rows, row, axis=0), **options).score(rows[row : row + 1])[0] for row in range(len(rows))
    ]
    found = kind.fit(rows, **options).score_left_out(rows)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LOF, {"k": 3}),  # the densities of the others change
        (KNN, {"k": 1, "standardise": True}),
        (KNN, {"k": 1, "coreset": 5}),
        (KNN, {"k": 1, "memory_budget": "1MB"}),
        (KNN, {"k": 1, "precision": "fp16"}),
        (KNN, {"k": 1, "index": "HNSW8"}),
        (LocalResidual, {"k": 3, "standardise": True}),
    ],
)
def test_where_more_is_learnt_a_fit_is_taken(kind: type[BankDetector], options: dict[str, Any]) -> None:
    fitted = kind.fit(rows_of(0, 12), **options)
    assert not kind.can_leave_out(fitted.settings)
    assert not fitted.falls_with_rows
    with pytest.raises(ConfigError, match="scores its inliers by a fit without each of them"):
        fitted.score_left_out(rows_of(0, 12))
    with pytest.raises(ConfigError, match="detector mahalanobis scores its inliers by a fit without each of them"):
        Mahalanobis.fit(rows_of(0, 12)).score_left_out(rows_of(0, 12))


def test_too_few_rows_and_others_are_refused() -> None:
    fitted = KNN.fit(rows_of(0, 5), k=5)
    with pytest.raises(DataError, match="knn with k=5 needs 6 images to leave one out, got 5"):
        fitted.score_left_out(rows_of(0, 5))
    with pytest.raises(DataError, match="wanted the 5 images that fitted the bank, got 4"):
        fitted.score_left_out(rows_of(0, 4))


PATCH_OPTIONS: list[tuple[Any, dict[str, Any], bool]] = [
    (PatchCore, {"coreset": None}, True),
    (PatchCore, {"coreset": None, "aggregate": "top_share", "share": 0.3, "smooth": 1.0, "size": [8, 8]}, True),
    (PatchCore, {"coreset": 0.5}, False),
    (PatchCore, {"coreset": None, "whiten": True}, False),
    (PatchCore, {"coreset": None, "reweight": True}, False),
    (PatchCore, {"coreset": None, "standardise": True}, False),
    (PatchRows, {"member": {"kind": "knn", "k": 2}}, True),
    (PatchRows, {"member": {"kind": "mahalanobis"}}, False),
]


@pytest.mark.parametrize(("kind", "options", "falls"), PATCH_OPTIONS)
def test_further_images_lower_scores_where_a_detector_says_so(kind: Any, options: dict[str, Any], falls: bool) -> None:
    patches = np.random.default_rng(1).normal(2, 1, (30, 3, 3, 5)).astype(np.float32)
    few, more = kind.fit(patches[:10], **options), kind.fit(patches[:20], **options)
    assert few.falls_with_rows is more.falls_with_rows is falls
    if falls:
        assert (more.score(patches[20:]) <= few.score(patches[20:]) * (1 + 1e-5) + 1e-5).all()


def test_a_sample_of_patches_does_not_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = np.random.default_rng(1).normal(2, 1, (10, 3, 3, 5)).astype(np.float32)
    monkeypatch.setattr("lit_od.detectors.patch_bank.MOST_BYTES", 4 * 5 * 40)
    with pytest.warns(LitODWarning, match="a seeded sample of 40 patches"):
        assert not PatchCore.fit(patches, coreset=None).falls_with_rows
    assert PatchCore.fit(patches[:4], coreset=None).falls_with_rows


@settings(max_examples=15)
@given(seed=st.integers(0, 99), k=st.integers(1, 4), metric=st.sampled_from(["l2", "cosine"]))
def test_further_rows_lower_knn_scores(seed: int, k: int, metric: Any) -> None:
    rows = rows_of(seed, 30)
    few, more = (KNN.fit(rows[:count], k=k, metric=metric) for count in (10, 20))
    assert few.falls_with_rows
    assert (more.score(rows[20:]) <= few.score(rows[20:]) + 1e-5).all()


def test_a_detector_says_nothing_by_default() -> None:
    fitted: Detector = Mahalanobis.fit(rows_of(0, 12))
    assert not fitted.falls_with_rows
    assert not Mahalanobis.can_leave_out(fitted.options())
