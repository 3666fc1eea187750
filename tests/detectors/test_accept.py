"""Images that a detector takes after its fit: what is promised of scores, and what stays."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_od.detectors import GMM, KNN, LOF, Ensemble, LocalResidual, Mahalanobis, PaDiM, PatchCore, PCAResidual
from lit_od.detectors.base import Detector
from lit_od.detectors.patch_rows import PatchRows
from lit_od.errors import ConfigError, DataError
from lit_od.types import Outputs

pytest.importorskip("sklearn")  # mixtures are fitted as the tests are found

INF = float("inf")


def taken(detector: Any, *batches: Outputs, limit: float = INF, sums: Any = None) -> Any:
    return detector.accept(lambda: batches, sums, limit=limit)


def rows(seed: int, count: int, width: int = 6, *, offset: float = 0.0, spread: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, width)) * spread + offset
    return drawn.astype(np.float32)


def patches(seed: int, count: int, grid: int = 4, width: int = 5, *, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, grid, grid, width)) + offset).astype(np.float32)


# Scores can only fall

banks = st.fixed_dictionaries(
    {
        "k": st.integers(1, 5),
        "reduce": st.sampled_from(["mean", "kth"]),
        "metric": st.sampled_from(["l2", "cosine"]),
        "precision": st.sampled_from(["fp32", "fp16"]),
        "standardise": st.booleans(),
        "coreset": st.sampled_from([None, 20]),
    }
)


@settings(max_examples=40)
@given(
    options=banks,
    seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 3.0, 1000.0]),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    count=st.integers(1, 12),
    width=st.sampled_from([1, 6, 301]),
)
def test_no_score_of_nearest_rows_rises(
    options: dict[str, Any], seed: int, offset: float, spread: float, count: int, width: int
) -> None:
    """Not even in the last bit, however the rows lie, whatever is accepted."""
    detector = KNN.fit(rows(seed, 40, width, offset=offset, spread=spread), **options)
    assert detector.only_lowers
    near, far = (rows(seed + 1, 50, width, offset=offset, spread=spread), rows(seed + 2, 10, width, offset=offset + 1))
    shown = np.concatenate([near, far])
    after = taken(detector, rows(seed + 3, count, width, offset=offset + 2 * spread, spread=spread))
    before = detector.score(shown)
    assert (after.score(shown) <= before).all()
    assert len(after.bank.rows) == len(detector.bank.rows) + count
    np.testing.assert_array_equal(after.bank.rows[: len(detector.bank.rows)], detector.bank.rows)
    np.testing.assert_array_equal(after.bank.centre, detector.bank.centre)
    np.testing.assert_array_equal(after.bank.scale, detector.bank.scale)


@settings(max_examples=15)
@given(
    aggregate=st.sampled_from(["max", "top_share"]),
    smooth=st.sampled_from([0.0, 1.5]),
    whiten=st.booleans(),
    k=st.integers(1, 3),
    size=st.sampled_from([None, [16, 16], [9, 14]]),
    seed=st.integers(0, 2**16),
)
def test_no_score_over_a_patch_bank_rises(
    aggregate: str, smooth: float, whiten: bool, k: int, size: list[int] | None, seed: int
) -> None:
    """The mean of the largest places may differ in the last bits, since they are added in another order."""
    options: dict[str, Any] = {"aggregate": aggregate, "smooth": smooth, "size": size}
    one = PatchCore.fit(patches(seed, 6), coreset=40, k=k, whiten=whiten, **options)
    members = [{"kind": "patchcore", "coreset": 30}, {"kind": "patchcore", "coreset": 30, "whiten": True}]
    both = Ensemble.fit(patches(seed, 10), members=members, **options)
    shown = np.concatenate([patches(seed + 1, 12), patches(seed + 2, 3, offset=1)])
    odd = patches(seed + 3, 2, offset=1.5)
    for detector in (one, both):
        assert detector.only_lowers
        before = detector.score(shown)
        after = taken(detector, odd, limit=float(np.median(before))).score(shown)
        slack = 0.0 if aggregate == "max" else 1e-12 * np.abs(before)
        assert (after <= before + slack).all()


@pytest.mark.parametrize(
    "detector",
    [
        LOF.fit(rows(0, 40), k=5),
        LocalResidual.fit(rows(0, 40), k=5),
        KNN.fit(rows(0, 400), index="IVF4,Flat"),
        PatchCore.fit(patches(0, 5), reweight=True),
        PaDiM.fit(patches(0, 9)),
        Mahalanobis.fit(rows(0, 40)),
    ],
    ids=lambda detector: detector.kind,
)
def test_the_others_promise_nothing(detector: Detector) -> None:
    assert detector.accepts
    assert not detector.only_lowers


def test_an_ensemble_promises_what_all_members_do() -> None:
    mixed = Ensemble.fit(patches(0, 10), members=[{"kind": "padim"}, {"kind": "patchcore"}])
    assert mixed.accepts
    assert not mixed.only_lowers


# Banks of features


@pytest.mark.parametrize("kind", [KNN, LOF, LocalResidual])
def test_a_bank_with_more_rows_is_that_of_its_state(kind: Any) -> None:
    """The rows of the state, less the old centre, over the old scale, put behind."""
    first, more = rows(0, 60, offset=2), rows(1, 7, offset=3)
    detector = kind.fit(first, k=4, standardise=True)
    after = taken(detector, more[:3], more[3:])
    state = detector.state()
    prepared = ((more - state["centre"]) / state["scale"]).astype(np.float32)
    np.testing.assert_array_equal(after.bank.rows[60:], prepared)
    again = kind.from_state(after.options(), after.state())
    shown = rows(2, 30)
    np.testing.assert_array_equal(again.score(shown), after.score(shown))
    if kind is LOF:
        own = LOF.of_bank(detector.settings, after.bank)
        np.testing.assert_array_equal(after.densities, own.densities)
        assert not np.array_equal(after.densities[:60], detector.densities)


def test_an_index_knows_the_new_rows() -> None:
    detector = KNN.fit(rows(0, 300), k=1, index="IVF4,Flat", search={"nprobe": 4})
    far = rows(1, 3, offset=9)
    after = taken(detector, far)
    assert detector.score(far).min() > 5
    np.testing.assert_allclose(after.score(far), 0.0)


def test_no_row_changes_nothing() -> None:
    detector = KNN.fit(rows(0, 20))
    assert taken(detector).bank is detector.bank
    assert taken(detector, rows(0, 0)).bank is detector.bank


def test_a_full_budget_is_refused() -> None:
    detector = KNN.fit(rows(0, 40), memory_budget="0.9kB", coreset_method="sample")
    assert len(detector.bank.rows) == 37
    with pytest.raises(ConfigError, match=r"memory_budget=0\.9kB holds 37 rows, and 37 are there: 1 more do not fit"):
        taken(detector, rows(1, 1))


def test_rows_out_of_reach_are_refused() -> None:
    with pytest.raises(DataError, match="must lie within 1e\\+15"):
        taken(KNN.fit(rows(0, 20)), rows(1, 1, offset=1e16))
    with pytest.raises(DataError, match="beyond 65,504"):
        taken(KNN.fit(rows(0, 20), precision="fp16"), rows(1, 1, offset=1e6))


# Banks of patches


def test_a_patch_bank_takes_the_fewest_patches_and_the_farthest() -> None:
    detector = PatchCore.fit(patches(0, 8), coreset=60)
    limit = float(detector.score(patches(1, 20)).max())
    odd = patches(2, 1, offset=2)
    after = taken(detector, odd, limit=limit)
    assert detector.score(odd)[0] > limit >= after.score(odd)[0]
    added = len(after.bank.rows) - 60
    assert 0 < added < 16
    own = detector.bank.prepare(odd.reshape(16, 5))
    np.testing.assert_array_equal(after.bank.rows[:60], detector.bank.rows)
    assert all((own == row).all(axis=1).any() for row in after.bank.rows[60:])
    # the last one is needed, and each is the farthest from the bank and from those before it
    for count in range(added):
        bank = after.bank.rows[: 60 + count].astype(np.float64)
        gaps = np.linalg.norm(own[:, None].astype(np.float64) - bank, axis=2).min(axis=1)
        assert gaps.max() > limit
        assert np.linalg.norm(own[gaps.argmax()] - after.bank.rows[60 + count]) < 1e-6


def test_a_patch_bank_takes_nothing_of_images_within_the_limit() -> None:
    detector = PatchCore.fit(patches(0, 8), coreset=60)
    shown = patches(1, 3)
    assert taken(detector, shown, limit=float(detector.score(shown).max())).bank is detector.bank


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_images_end_within_the_limit(whiten: bool, smooth: float) -> None:
    options: dict[str, Any] = {"size": [16, 16], "smooth": smooth}
    members = [{"kind": "patchcore", "coreset": 40, "whiten": whiten}, {"kind": "padim"}]
    members += [{"kind": "patch_rows", "member": {"kind": "knn", "k": 1}}]
    alone = PatchCore.fit(patches(0, 10), coreset=60, whiten=whiten, **options)
    several = Ensemble.fit(patches(0, 10), members=[members[0], members[2]], **options)
    odd = patches(3, 4, offset=2)
    for detector in (alone, several):
        limit = float(np.percentile(detector.score(patches(1, 20)), 90))
        after = taken(detector, odd[:2], odd[2:], limit=limit)
        assert (detector.score(odd) > limit).all()
        assert (after.score(odd) <= limit).all()


def test_where_all_patches_do_not_suffice_all_are_taken() -> None:
    """With k above 1 a patch's own row is one of several."""
    detector = PatchCore.fit(patches(0, 4), coreset=20, k=3)
    odd = patches(1, 1, offset=9)
    assert len(taken(detector, odd, limit=0.5).bank.rows) == 36


# Sums


@pytest.mark.parametrize(
    ("kind", "options", "drawn"),
    [
        (Mahalanobis, {"shrinkage": 0.3}, rows),
        (Mahalanobis, {}, rows),
        (PCAResidual, {"components": 3}, rows),
        (GMM, {"covariance": "diag"}, rows),
    ],
)
def test_sums_give_the_fit_on_all_images(kind: Any, options: dict[str, Any], drawn: Any) -> None:
    """As if the images had been there from the beginning."""
    first, more = drawn(0, 50), drawn(1, 9, offset=1)
    gathered = kind.accumulator(**options)
    gathered.update(first)
    detector = gathered.finish()
    after = taken(detector, more[:4], more[4:], sums=detector.sums_of(gathered))
    whole = kind.fit(np.concatenate([first, more]), **options)
    shown = drawn(2, 20)
    np.testing.assert_allclose(after.score(shown), whole.score(shown), rtol=1e-9)
    assert not np.allclose(after.score(shown), detector.score(shown), rtol=1e-6)


def test_the_projection_of_positions_stays() -> None:
    first, more = patches(0, 12), patches(1, 5, offset=1)
    gathered = PaDiM.accumulator(components=3)
    gathered.update(first)
    second = PaDiM.start_second(gathered)
    second.update(first)
    detector = second.finish()
    after = taken(detector, more, sums=detector.sums_of(second))
    np.testing.assert_array_equal(after.projection, detector.projection)
    np.testing.assert_array_equal(after.centre, detector.centre)
    components = (np.concatenate([first, more]).reshape(17, 16, 5) - detector.centre) @ detector.projection
    np.testing.assert_allclose(after.means, components.mean(axis=0), rtol=1e-4, atol=1e-5)
    of_first = np.cov(components[:, 0].astype(np.float64).T) + 0.01 * np.eye(3)
    np.testing.assert_allclose(np.linalg.inv(after.whiteners[0].T @ after.whiteners[0]), of_first, rtol=1e-3, atol=1e-4)


def test_an_ensemble_has_the_sums_of_its_members() -> None:
    members = [{"kind": "padim", "components": 3}, {"kind": "patchcore"}]
    members += [{"kind": "patch_rows", "member": {"kind": "mahalanobis"}}]
    first, more = patches(0, 15), patches(1, 4, offset=0.3)
    gathered = Ensemble.accumulator(members=members)
    gathered.update(first)
    second = Ensemble.start_second(gathered)
    second.update(first)
    detector = second.finish()
    sums = detector.sums_of(second)
    assert sums is not None
    assert {name.partition(".")[0] for name in sums.state()} == {"0", "2"}
    restored = detector.sums()
    assert restored is not None
    restored.restore(sums.state())
    after = taken(detector, more, sums=restored)
    assert [type(member) for member in after.members] == [PaDiM, PatchCore, PatchRows]
    np.testing.assert_array_equal(after.scales, detector.scales)
    assert restored.state()["0.count"][0] == 12 + 4  # four images of five fit the members
    apart = taken(detector.members[0], more, sums=detector.members[0].sums_of(second.gathered[0]))
    np.testing.assert_array_equal(after.members[0].cells(more), apart.cells(more))


@pytest.mark.parametrize(
    "detector",
    [
        Mahalanobis.fit(rows(0, 40), labels=np.arange(40) % 2),
        PatchRows.fit(patches(0, 9), member={"kind": "gmm", "components": 2}),
    ],
    ids=lambda detector: detector.kind,
)
def test_what_only_a_new_fit_moves_is_refused(detector: Detector) -> None:
    assert not detector.accepts
    with pytest.raises(ConfigError, match=f"detector {detector.kind} takes no further images: fit it anew with lit-od"):
        taken(detector)
