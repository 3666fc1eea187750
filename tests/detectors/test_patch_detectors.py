"""Detectors over patches: what each computes, and what all of them keep."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, mahalanobis

from lit_od.detectors import KNN, Ensemble, PaDiM, PatchCore, PixelDetector
from lit_od.detectors.base import Accumulator
from lit_od.detectors.map_mask import pack
from lit_od.detectors.map_options import MapOptions, enlarged
from lit_od.detectors.patch_rows import PatchRows
from lit_od.detectors.registry import DETECTORS
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError, LitODWarning
from lit_od.formats.safetensors_file import load, save

GRID = (4, 5, 6)
IMAGES = 40

MASK = pack(np.hypot(*(np.mgrid[:12, :15] - np.array([5, 6]).reshape(2, 1, 1))) < 5)
"""A disc of a map of 12 x 15, which leaves 8 of 20 cells."""

TREES: list[dict[str, Any]] = [
    {"kind": "padim", "components": 4, "size": [12, 15]},
    {"kind": "padim", "precision": "fp16"},
    {
        "kind": "padim",
        "reduction": "random",
        "components": 3,
        "shrinkage": "ledoit-wolf",
        "smooth": 1.5,
        "size": [9, 9],
    },
    {"kind": "patchcore", "coreset": 60, "size": [12, 15]},
    {"kind": "patchcore", "coreset": 0.2, "whiten": True, "reweight": True, "precision": "fp16"},
    {"kind": "patchcore", "coreset": 60, "precision": "int8", "whiten": True},
    {"kind": "patchcore", "coreset": None, "index": "IVF4,Flat", "search": {"nprobe": 4}, "k": 3},
    {"kind": "knn", "over": "patches", "k": 2, "aggregate": "top_share", "share": 0.1},
    {"kind": "mahalanobis", "over": "patches", "size": [8, 8]},
    {"kind": "gmm", "over": "patches"},
    {"kind": "patch_channel", "channel": 2, "size": [12, 15]},
    {"kind": "ensemble", "size": [12, 15], "members": [{"kind": "padim"}, {"kind": "patchcore", "coreset": 50}]},
    {
        "kind": "ensemble",
        "aggregate": "top_share",
        "weights": [1.0, 0.5],
        "members": [{"kind": "patch_rows", "member": {"kind": "gmm"}}, {"kind": "patchcore", "coreset": 50}],
    },
    {"kind": "padim", "components": 4, "size": [12, 15], "smooth": 1.0, "mask": MASK},
    {"kind": "patchcore", "coreset": 60, "whiten": True, "reweight": True, "size": [12, 15], "mask": MASK},
    {"kind": "gmm", "over": "patches", "aggregate": "top_share", "share": 0.2, "size": [12, 15], "mask": MASK},
    {
        "kind": "ensemble",
        "size": [12, 15],
        "mask": MASK,
        "members": [{"kind": "padim"}, {"kind": "patch_channel"}, {"kind": "gmm", "over": "patches"}],
    },
]

every_kind = pytest.mark.parametrize("tree", TREES, ids=json.dumps)


def patches(n: int, seed: int = 0, spread: float = 1.0) -> NDArray[np.float32]:
    """Make patches whose mean and correlations differ by position."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    rows = rng.standard_normal((n, *GRID)) * spread
    mixed = np.einsum("nhwd,hwde->nhwe", rows, fixed.standard_normal((*GRID, GRID[2])))
    return (mixed + 5 * fixed.standard_normal(GRID)).astype(np.float32)


def gather(spec: DetectorSpec, rows: NDArray[np.float32], first_row: int, after: Accumulator | None) -> Accumulator:
    gathered = spec.accumulator(first_row=first_row, after=after)
    gathered.update(rows)
    return gathered


def test_every_detector_over_patches_is_tried() -> None:
    kinds = {DetectorSpec.parse(tree).kind for tree in TREES}
    assert kinds == {kind for kind, detector in DETECTORS.items() if detector.reads == "patches"}


@every_kind
def test_scores_are_aggregates_of_maps_and_survive_a_round_trip(tree: dict[str, Any]) -> None:
    spec, queries = DetectorSpec.parse(tree), patches(11, seed=1)
    detector = spec.fit(patches(IMAGES))
    assert isinstance(detector, PixelDetector)
    scores, maps = detector.score_map(queries)
    assert (scores.dtype, maps.dtype) == (np.float64, np.float32)
    assert maps.shape == (11, *(tree.get("size") or GRID[:2]))
    np.testing.assert_array_equal(detector.score(queries), scores)
    assert detector.score_is_peak == (tree.get("aggregate") != "top_share")
    if detector.score_is_peak:
        np.testing.assert_array_equal(maps.max(axis=(1, 2)), scores)
    options = json.loads(json.dumps(detector.options()))
    again = DetectorSpec(spec.kind, options).restore(load(save(detector.state())))
    np.testing.assert_array_equal(again.score(queries), scores)
    one_by_one = np.concatenate([detector.score(each[None]) for each in queries])
    np.testing.assert_allclose(one_by_one, scores, rtol=1e-5)
    outliers = detector.score(patches(11, seed=2, spread=9))
    assert outliers.min() > scores.max()
    assert detector.score(patches(0)).shape == (0,)


@every_kind
@given(cuts=st.lists(st.integers(0, IMAGES), max_size=3))
@settings(max_examples=4)
def test_shards_that_travel_merge_to_the_same_detector(tree: dict[str, Any], cuts: list[int]) -> None:
    spec, rows, queries = DetectorSpec.parse(tree), patches(IMAGES), patches(8, seed=1)
    after: Accumulator | None = None
    for _ in range(spec.passes):
        merged = spec.accumulator(after=after)
        for start, stop in pairwise([0, *sorted(cuts), IMAGES]):
            travelled = spec.accumulator(first_row=start, after=after)
            travelled.restore(load(save(gather(spec, rows[start:stop], start, after).state())))
            merged.merge(travelled)
        after = merged
    assert after is not None
    np.testing.assert_allclose(after.finish().score(queries), spec.fit(rows).score(queries), rtol=2e-4)


@every_kind
def test_wrong_patches_and_damaged_states_are_refused(tree: dict[str, Any]) -> None:
    spec, rows = DetectorSpec.parse(tree), patches(IMAGES)
    detector = spec.fit(rows)
    bad = rows.copy()
    bad[3, 0, 0, 0] = np.nan
    for wrong, message in [
        (bad, "patches must be finite, but 1 of 40 images"),
        (rows[:, :-1], "patches must have shape"),
        (rows[0], "patches must have shape"),
        (rows.astype(int), "patches must be floating point"),
    ]:
        with pytest.raises(DataError, match=message):
            detector.score(wrong)
        gathered = spec.accumulator()
        gathered.update(rows)
        with pytest.raises(DataError, match=message):
            gathered.update(wrong)
    state = detector.state()
    for name, array in state.items():
        with pytest.raises(DataError):
            spec.restore({key: value for key, value in state.items() if key != name})
        with pytest.raises(DataError):
            spec.restore(state | {name: array[..., None]})
    with pytest.raises(DataError, match="surplus"):
        spec.restore(state | {"surplus": np.zeros(3)})
    with pytest.raises(DataError, match=r"Pass more images|got 0"):
        spec.fit(rows[:0])


def test_padim_is_the_distance_to_the_gaussian_of_each_position() -> None:
    rows, queries = patches(IMAGES).astype(float), patches(5, seed=1).astype(float)
    detector = PaDiM.fit(rows, components=GRID[2], ridge=0.3)
    scale = rows.reshape(-1, GRID[2]).std(axis=0)
    for row, column in ((0, 0), (3, 4), (2, 1)):
        own = rows[:, row, column] / scale
        inverse = np.linalg.inv(np.cov(own.T) + 0.3 * np.eye(GRID[2]))
        expected = [mahalanobis(each[row, column] / scale, own.mean(axis=0), inverse) for each in queries]
        np.testing.assert_allclose(detector.cells(queries.astype(np.float32))[:, row, column], expected, rtol=1e-4)


def test_padim_keeps_the_directions_of_largest_variance() -> None:
    rows = patches(IMAGES)
    flat = rows.reshape(-1, GRID[2]).astype(float)
    standard = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    variances = np.linalg.svd(standard, compute_uv=False)[:3] ** 2 / len(standard)
    detector = PaDiM.fit(rows, components=3)
    np.testing.assert_allclose(((flat - detector.centre) @ detector.projection).var(axis=0), variances, rtol=1e-4)


def test_ledoit_wolf_at_a_position_is_that_of_scikit_learn() -> None:
    from sklearn.covariance import LedoitWolf

    rows, queries = patches(IMAGES), patches(3, seed=1)
    detector = PaDiM.fit(rows, components=GRID[2], shrinkage="ledoit-wolf")
    reduced = (rows[:, 1, 2] - detector.centre) @ detector.projection
    fitted = LedoitWolf().fit(reduced)
    expected = np.sqrt(fitted.mahalanobis((queries[:, 1, 2] - detector.centre) @ detector.projection))
    np.testing.assert_allclose(detector.cells(queries)[:, 1, 2], expected, rtol=1e-4)


def test_patchcore_is_the_distance_to_the_nearest_patch() -> None:
    rows, queries = patches(IMAGES), patches(5, seed=1)
    detector = PatchCore.fit(rows, coreset=None)
    expected = cdist(queries.reshape(-1, GRID[2]), rows.reshape(-1, GRID[2])).min(axis=1)
    np.testing.assert_allclose(detector.cells(queries).ravel(), expected, rtol=1e-5)


def test_the_papers_weight() -> None:
    rows, queries = patches(IMAGES), patches(5, seed=1)
    plain, weighed = (PatchCore.fit(rows, coreset=None, reweight=each).cells(queries) for each in (False, True))
    bank = rows.reshape(-1, GRID[2]).astype(float)
    for image, cells, scores in zip(queries, plain, weighed, strict=True):
        most = image.reshape(-1, GRID[2])[cells.argmax()].astype(float)
        nearest = bank[np.linalg.norm(bank - most, axis=1).argmin()]
        around = bank[np.argsort(np.linalg.norm(bank - nearest, axis=1))[:9]]
        gaps = np.exp(np.linalg.norm(around - most, axis=1))
        weight = 1 - np.exp(np.linalg.norm(nearest - most)) / gaps.sum()
        np.testing.assert_allclose(scores, cells * weight, rtol=1e-4)


def test_a_detector_over_patches_scores_each_patch() -> None:
    rows, queries = patches(IMAGES), patches(5, seed=1)
    detector = DetectorSpec.parse({"kind": "knn", "over": "patches", "k": 2}).fit(rows)
    expected = KNN.fit(rows.reshape(-1, GRID[2]), k=2).score(queries.reshape(-1, GRID[2]))
    assert isinstance(detector, PatchRows)
    np.testing.assert_allclose(detector.cells(queries).ravel(), expected, rtol=1e-6)


def test_members_come_on_one_scale_by_images_that_fitted_none() -> None:
    rows, queries = patches(IMAGES), patches(6, seed=1)
    members = [{"kind": "padim"}, {"kind": "patch_rows", "member": {"kind": "gmm"}}]
    detector = Ensemble.fit(rows, members=members, weights=[1.0, 2.0])
    gathered = Ensemble.accumulator(members=members)
    gathered.update(rows)
    held = gathered.state()["held"]
    assert len(held) == IMAGES // 5
    fitted = np.array([row for row in rows if not (row == held).all(axis=(1, 2, 3)).any()])
    assert len(fitted) == IMAGES - len(held)
    distances, densities = PaDiM.fit(fitted), PatchRows.fit(fitted, member={"kind": "gmm"})
    low, median, high = np.percentile(densities.cells(held), (25, 50, 75))
    expected = distances.cells(queries) / np.median(distances.cells(held))
    expected += 2 * (densities.cells(queries) - median) / (high - low)
    np.testing.assert_allclose(detector.cells(queries), expected, rtol=1e-3)


def test_a_scale_of_zero_and_too_few_images_are_refused() -> None:
    same = np.repeat(patches(1), IMAGES, axis=0)
    with pytest.raises(DataError, match="gives 8 held-out images no scale"):
        Ensemble.fit(same, members=[{"kind": "patchcore"}, {"kind": "patchcore", "whiten": True}])
    with pytest.raises(DataError, match="needs at least"):
        Ensemble.fit(patches(1), members=[{"kind": "patchcore"}, {"kind": "patchcore", "k": 2}])


@pytest.mark.parametrize("size", [(28, 30), (4, 5), (2, 3), (1, 1)])
def test_enlarging_is_that_of_torch(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    cells = np.random.default_rng(0).random((3, 4, 5), np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(cells)[:, None], size=size, mode="bilinear")
    got = enlarged(cells, MapOptions(size=list(size)))
    np.testing.assert_allclose(got, expected[:, 0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("smooth", [0.6, 4.0, 30.0])
def test_smoothing_is_that_of_scipy(smooth: float) -> None:
    cells = np.random.default_rng(0).random((2, 6, 7), np.float32)
    plain = enlarged(cells, MapOptions(size=[24, 21])).astype(float)
    got = enlarged(cells, MapOptions(size=[24, 21], smooth=smooth))
    np.testing.assert_allclose(got, gaussian_filter(plain, (0, smooth, smooth)), rtol=1e-5)


def test_the_largest_share_is_averaged() -> None:
    rows, queries = patches(IMAGES), patches(4, seed=1)
    cells = PatchCore.fit(rows).cells(queries).reshape(4, -1)
    score = PatchCore.fit(rows, aggregate="top_share", share=0.15).score(queries)
    np.testing.assert_allclose(score, np.sort(cells, axis=1)[:, -3:].mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "padim", "aggregate": "mean"}, "aggregate must be one of max, top_share"),
        ({"kind": "padim", "size": [0, 4]}, r"size must be height and width, as \[224, 224\], got"),
        ({"kind": "padim", "size": [2**26, 1], "smooth": 4.0}, "size must be height and width"),
        ({"kind": "padim", "ridge": 0}, "ridge must be a number"),
        ({"kind": "padim", "shrinkage": "oas"}, "shrinkage must be one of ledoit-wolf"),
        ({"kind": "patchcore", "reduce": "kth"}, "detector patchcore has no option 'reduce'"),
        ({"kind": "patchcore", "coreset": 0}, "coreset must be an integer of at least 1"),
        ({"kind": "knn", "over": "pixels"}, "over must be patches, got 'pixels'"),
        ({"kind": "padim", "over": "patches"}, "over: patches takes a member of kind mahalanobis, knn"),
        ({"kind": "mahalanobis", "over": "patches", "class_conditional": True}, "over: patches takes one class"),
        ({"kind": "ensemble", "members": [{"kind": "padim"}]}, "members must be two detectors or more"),
        (
            {"kind": "ensemble", "members": [{"kind": "padim"}, {"kind": "knn"}]},
            "a member over patches must be one of padim",
        ),
        ({"kind": "ensemble", "weights": [1.0]}, "weights must be 3 numbers"),
        ({"kind": "padim", "size": [8, 8], "mask": [1]}, "mask must be packed pixels"),
        ({"kind": "patchcore", "size": [8, 8], "mask": "?"}, "mask must be the packed pixels of a map of 8 x 8"),
    ],
)
def test_options_are_strict(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorSpec.parse(tree).check()


def test_a_map_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="size must be height and width"):
        MapOptions(size=[2**24, 2])
    with pytest.raises(DataError, match="a grid of 4096 x 1 cannot be enlarged to 8192 x 8"):
        enlarged(np.zeros((1, 4096, 1), np.float32), MapOptions(size=[8192, 8]))


def test_a_grid_with_too_many_positions_is_refused() -> None:
    with pytest.raises(DataError, match="at most 4,096; got a grid of 80 x 80"):
        PaDiM.fit(np.ones((2, 80, 80, 1), np.float32))


def test_patches_beyond_the_limit_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_od.detectors.patch_bank.MOST_BYTES", 4 * GRID[2] * 200)
    with pytest.warns(LitODWarning, match="from a seeded sample of 200 patches, which is what 0 MiB hold; the images"):
        assert len(PatchCore.fit(patches(IMAGES), coreset=None).bank.rows) == 200


@pytest.mark.parametrize("grid", [(2, 2, 0), (0, 2, 6), (2, 2, 8)])
@pytest.mark.parametrize("kind", [PaDiM, PatchCore])
def test_shares_whose_grid_is_none_of_theirs_are_refused(
    kind: type[PaDiM | PatchCore], grid: tuple[int, int, int]
) -> None:
    gathered = kind.accumulator()
    gathered.update(np.random.default_rng(0).normal(size=(3, 2, 2, 6)))
    share = gathered.state() | {"grid": np.array(grid, np.int64)}
    with pytest.raises(DataError):
        kind.accumulator().restore(share)


def test_a_share_of_padim_makes_no_room_for_more_positions_than_there_may_be() -> None:
    gathered = PaDiM.accumulator()
    gathered.update(np.random.default_rng(0).normal(size=(3, 2, 2, 6)))
    with pytest.raises(DataError, match="array 'grid' of the state"):
        PaDiM.accumulator().restore(gathered.state() | {"grid": np.array([2**30, 2**30, 6], np.int64)})


def test_a_bank_that_its_own_state_refuses_is_not_fitted() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with pytest.raises(DataError, match=r"must lie within 1e\+15 of their mean"):
        KNN.fit(rows * np.float32(1e17))
    KNN.fit(rows * np.float32(1e17), standardise=True)


def test_shares_of_an_ensemble_merge_in_the_order_of_the_images() -> None:
    patches = np.random.default_rng(0).normal(size=(20, 2, 2, 6))
    members = [{"kind": "padim"}, {"kind": "padim", "components": 2}]
    parts = [Ensemble.accumulator(first_row=row, members=members) for row in (0, 10)]
    for part, row in zip(parts, (0, 10), strict=True):
        part.update(patches[row : row + 10])
    with pytest.raises(DataError, match="must have first_row=20, got 0"):
        parts[1].merge(parts[0])
    parts[0].merge(Ensemble.accumulator(members=members))
    parts[0].merge(parts[1])
    assert parts[0].seen == 20
