"""Maps of which a part counts: nothing outside of it counts in anything."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lit_od.detectors import KNN, PaDiM, PatchCore, Reconstruction
from lit_od.detectors.map_mask import pack, unpack
from lit_od.detectors.map_options import MapOptions, enlarged
from lit_od.detectors.map_region import region_of
from lit_od.detectors.patch_maps import PatchDetector
from lit_od.detectors.spec import DetectorSpec
from lit_od.errors import ConfigError, DataError

GRID = (4, 5, 6)
SIZE = (12, 15)
PIXELS = np.hypot(*(np.mgrid[:12, :15] - np.array([5, 6]).reshape(2, 1, 1))) < 5
CELLS = PIXELS[1::3, 1::3]
MASK: dict[str, Any] = {"mask": pack(PIXELS), "size": list(SIZE)}

TREES: list[dict[str, Any]] = [
    {"kind": "padim", "components": 4},
    {"kind": "patchcore", "coreset": 60, "whiten": True, "reweight": True},
    {"kind": "knn", "over": "patches", "aggregate": "top_share", "share": 0.1},
    {"kind": "gmm", "over": "patches", "smooth": 2.0},
    {"kind": "ensemble", "members": [{"kind": "padim"}, {"kind": "patchcore"}, {"kind": "gmm", "over": "patches"}]},
]

every_kind = pytest.mark.parametrize("tree", [tree | MASK for tree in TREES], ids=[str(tree) for tree in TREES])


def patches(n: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, *GRID)) + np.arange(20).reshape(1, 4, 5, 1)).astype(np.float32)


def elsewhere(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same patches with others in the cells that do not count."""
    return np.where(CELLS[..., None], rows, 1000 * patches(len(rows), seed=7))


def fitted(tree: dict[str, Any], rows: NDArray[np.float32]) -> PatchDetector:
    found = DetectorSpec.parse(tree).fit(rows)
    assert isinstance(found, PatchDetector)
    return found


@every_kind
def test_cells_that_do_not_count_change_nothing(tree: dict[str, Any]) -> None:
    detector, queries = fitted(tree, patches(40)), patches(5, seed=1)
    other = fitted(tree, elsewhere(patches(40)))
    scores, maps = detector.score_map(queries)
    for model, rows in ((detector, elsewhere(queries)), (other, queries)):
        found = model.score_map(rows)
        np.testing.assert_array_equal(found[0], scores)
        np.testing.assert_array_equal(found[1], maps)
    assert detector.input_shape == GRID
    assert all(np.array_equal(array, detector.state()[name]) for name, array in other.state().items())


@every_kind
def test_what_is_left_out_is_above_no_threshold(tree: dict[str, Any]) -> None:
    detector = fitted(tree, patches(40))
    scores, maps = detector.score_map(patches(9, seed=1))
    outside, inside = maps[:, ~PIXELS], maps[:, PIXELS]
    assert (outside == (0 if detector.is_distance else -1e30)).all()
    assert (outside.max() <= inside).all()
    assert not (maps > inside.max(axis=1).min())[:, ~PIXELS].any()
    if detector.settings.aggregate == "max":
        np.testing.assert_array_equal(scores, inside.max(axis=1))
    else:
        count = int(np.ceil(PIXELS.sum() * detector.settings.share))
        np.testing.assert_allclose(scores, np.sort(inside)[:, -count:].mean(axis=1, dtype=float), rtol=1e-6)


def test_positions_and_rows_are_those_of_a_detector_without_a_mask() -> None:
    rows, queries = patches(40), patches(6, seed=1)
    whole = PatchCore.fit(rows[:, CELLS][:, None], coreset=None)
    masked = PatchCore.fit(rows, coreset=None, **MASK)
    np.testing.assert_array_equal(masked.bank.rows, whole.bank.rows)
    assert masked.cell_shape == (1, 8)
    places = PaDiM.fit(rows, components=4, **MASK)
    assert places.means.shape == (8, 4)
    np.testing.assert_allclose(places.score(queries), places.score_map(queries)[1].max(axis=(1, 2)))


@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_values_are_interpolated_among_cells_that_count(smooth: float) -> None:
    options = MapOptions(size=list(SIZE), smooth=smooth, mask=pack(PIXELS))
    region = region_of(options, *GRID[:2])
    assert region is not None
    cells = np.random.default_rng(0).uniform(1, 2, (3, 1, 8)).astype(np.float32)
    found = region.enlarged(cells, options, -5.0)
    basis = np.zeros((20, *GRID[:2]), np.float32)
    basis.reshape(20, 20)[np.arange(20), np.arange(20)] = 1
    weights = enlarged(basis, MapOptions(size=list(SIZE), smooth=smooth))[CELLS.ravel()]  # (8, h, w)
    mean = np.einsum("nc,chw->nhw", cells[:, 0], weights) / np.maximum(weights.sum(axis=0), 1e-9)
    np.testing.assert_allclose(found[:, PIXELS], mean[:, PIXELS], rtol=1e-5)
    assert (found[:, ~PIXELS] == -5).all()
    flat = region.enlarged(np.full_like(cells, 3), options, 0.0)
    np.testing.assert_allclose(flat[:, PIXELS], 3, rtol=1e-6)  # nothing is lowered at the edge


def test_all_pixels_that_count_are_as_no_mask() -> None:
    rows, queries = patches(30), patches(4, seed=1)
    masked = PatchCore.fit(rows, mask=pack(np.ones(SIZE, bool)), size=list(SIZE))
    plain = PatchCore.fit(rows, size=list(SIZE))
    np.testing.assert_allclose(masked.score_map(queries)[1], plain.score_map(queries)[1], rtol=1e-5)


def test_a_mask_without_a_cell_or_a_size_is_refused() -> None:
    corner = np.zeros(SIZE, bool)
    corner[0, 0] = True
    with pytest.raises(DataError, match="the mask leaves no cell of the grid of 4 x 5"):
        PatchCore.fit(patches(9), mask=pack(corner), size=list(SIZE))
    with pytest.raises(ConfigError, match="a mask needs the size of the map"):
        PaDiM.fit(patches(9), mask=pack(PIXELS))
    with pytest.raises(ConfigError, match="mask leaves nothing of the map"):
        MapOptions(size=list(SIZE), mask=pack(np.zeros(SIZE, bool)))


@pytest.mark.parametrize("text", ["", "%%%", pack(PIXELS)[:-8], pack(np.ones((40, 40), bool)), "é"])
def test_text_that_is_no_mask_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError, match="mask must be the packed pixels of a map of 12 x 15"):
        MapOptions(size=list(SIZE), mask=text)


def test_a_mask_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="mask must be packed pixels: a bundle makes it itself, got 7"):
        MapOptions(size=list(SIZE), mask=7)  # type: ignore[arg-type]


def test_packed_pixels_come_back() -> None:
    np.testing.assert_array_equal(unpack(pack(PIXELS), *SIZE), PIXELS)


def test_a_spec_takes_the_mask_of_a_bundle() -> None:
    spec = DetectorSpec("patchcore", {}).with_map_size(*SIZE)
    masked = spec.with_mask(PIXELS)
    assert masked.options["mask"] == pack(PIXELS)
    assert masked.with_mask(PIXELS.copy()) == masked
    assert spec.with_mask(None) == spec
    features = DetectorSpec(KNN.kind, {})
    assert features.with_mask(PIXELS) == features
    for other in (None, ~PIXELS):
        with pytest.raises(ConfigError, match=r"detector\.mask is taken from data\.mask"):
            masked.with_mask(other)
    errors = DetectorSpec(Reconstruction.kind, {}).with_mask(PIXELS)
    assert errors.options == {"mask": pack(PIXELS)}
    path = "tests.support.patch_detectors:PatchDeviation"
    with pytest.raises(ConfigError, match=r"detector .*PatchDeviation leaves out no part of an image"):
        DetectorSpec(path, {}, (path,)).with_mask(PIXELS)


def test_errors_of_pixels_that_do_not_count_change_nothing() -> None:
    rng = np.random.default_rng(0)
    errors = rng.uniform(size=(9, *SIZE, 3)).astype(np.float32)
    others = np.where(PIXELS[..., None], errors, 50).astype(np.float32)
    for options in ({}, {"outlier_perc": 20, "metric": "rmse"}):
        detector = DetectorSpec(Reconstruction.kind, options).with_mask(PIXELS).fit(errors)
        again = DetectorSpec(Reconstruction.kind, detector.options()).restore(detector.state())
        assert isinstance(again, Reconstruction)
        for rows in (errors, others):
            scores, maps = again.score_map(rows)
            largest = np.sort(errors[:, PIXELS].reshape(9, -1))
            kept = largest[:, -int(np.ceil(largest.shape[1] * options.get("outlier_perc", 100) / 100)) :]
            wanted = kept.mean(axis=1, dtype=float)
            np.testing.assert_allclose(scores, np.sqrt(wanted) if options else wanted)
            assert (maps[:, ~PIXELS] == 0).all()
            np.testing.assert_allclose(maps[:, PIXELS], errors[:, PIXELS].mean(axis=2), rtol=1e-6)
        assert "mask" not in DetectorSpec(Reconstruction.kind, options).fit(errors).options()
    with pytest.raises(ConfigError, match="mask must be the packed pixels of a map of 4 x 4"):
        DetectorSpec(Reconstruction.kind, {"mask": pack(PIXELS)}).fit(errors[:, :4, :4])
