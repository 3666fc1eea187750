"""Maps of tiles are joined by their weights, and scored by the detector's aggregate."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from lit_od.detectors.joined_map import JoinedMap
from lit_od.detectors.map_options import Cells, MapOptions, enlarged
from lit_od.images.tiles import Place, places_of

TILE, OVERLAP = (64, 64), 32


@dataclass
class Stub:
    """Options of maps, all that joining asks of a detector."""

    map_options: MapOptions = field(default_factory=lambda: MapOptions(size=list(TILE)))
    least_map_value: float = -7.0

    def cells_of_tiles(self, outputs: np.ndarray) -> Cells:
        return outputs


def joined(cells: np.ndarray, places: list[Place], size: tuple[int, int], *, counted=None, options=None):
    stub = Stub() if options is None else Stub(options)
    whole = JoinedMap(stub, size, counted)
    for own, place in zip(cells, places, strict=True):
        whole.add(own, place.rows, place.columns, place.down, place.across)
    score, maps = whole.finish()
    return score, maps[0]


def test_a_joined_map_is_the_weighted_mean_of_its_tiles_maps() -> None:
    size, rng = (100, 150), np.random.default_rng(0)
    places = places_of(size, TILE, OVERLAP)
    cells = rng.random((len(places), 8, 8)).astype(np.float32)
    score, found = joined(cells, places, size)
    wanted, options = np.zeros(size), MapOptions(size=list(TILE))
    for y in range(size[0]):
        for x in range(size[1]):
            for own, place in zip(enlarged(cells, options), places, strict=True):
                row, column = y - place.rows.start, x - place.columns.start
                if 0 <= row < 64 and 0 <= column < 64:
                    wanted[y, x] += own[row, column] * place.down[row] * place.across[column]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert score == found.max()


@pytest.mark.parametrize("masked", [False, True])
def test_tiles_of_one_value_join_without_a_seam(masked: bool) -> None:
    size = (130, 170)
    places = places_of(size, TILE, OVERLAP)
    counted = np.hypot(*(np.mgrid[:130, :170] - np.array([60, 80]).reshape(2, 1, 1))) < 50 if masked else None
    score, found = joined(np.full((len(places), 8, 8), 3.5, np.float32), places, size, counted=counted)
    inside = np.ones(size, bool) if counted is None else counted
    np.testing.assert_allclose(score, 3.5, rtol=1e-5)
    near = found > 0
    np.testing.assert_allclose(found[near], 3.5, rtol=1e-5)
    assert (found[~near] == -7).all()
    assert not (near & ~inside).any()
    assert (near & inside).sum() > 0.97 * inside.sum()


def test_cells_outside_the_region_change_nothing() -> None:
    size, rng = (100, 150), np.random.default_rng(1)
    places = places_of(size, TILE, OVERLAP)
    counted = np.zeros(size, bool)
    counted[:, :70] = True
    one = rng.random((len(places), 8, 8)).astype(np.float32)
    other = one.copy()
    for cells, place in zip(other, places, strict=True):
        centres = counted[place.rows, place.columns][4::8, 4::8]
        cells[~centres] = 1e6
    for found, wanted in zip(
        joined(other, places, size, counted=counted), joined(one, places, size, counted=counted), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_top_share_averages_the_places_that_count() -> None:
    size = (64, 64)
    counted = np.zeros(size, bool)
    counted[:32] = True
    cells = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    options = MapOptions(size=list(TILE), aggregate="top_share", share=0.5)
    score, found = joined(cells, places_of(size, TILE, OVERLAP), size, counted=counted, options=options)
    values = np.sort(found[found > -7])
    np.testing.assert_allclose(score, values[len(values) - -(-len(values) // 2) :].mean(), rtol=1e-6)


def test_an_image_of_which_no_cell_counts_has_the_least_score() -> None:
    counted = np.zeros((64, 64), bool)
    counted[0, 0] = True
    score, found = joined(np.ones((1, 8, 8), np.float32), places_of((64, 64), TILE, OVERLAP), (64, 64), counted=counted)
    assert score == [-7]
    assert (found == -7).all()
