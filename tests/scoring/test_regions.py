"""Regions of maps: exact labels, boxes, peaks, and the way to the image's own pixels."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import find_objects, label

from lit_od.images.geometry import Geometry
from lit_od.images.preparation import Preparation
from lit_od.scoring.regions import Region, above, carried, find_regions, label_runs

SIDES = array_shapes(min_dims=2, max_dims=2, max_side=12)
MASKS = arrays(np.bool_, SIDES)
FEW = st.sampled_from([np.float32(value) for value in (-1.0, 0.0, 0.1, 0.5, 1.0, 2.0)])


def spiral(side: int) -> np.ndarray:
    """Draw one long path that winds inwards, a free pixel between its turns."""
    mask, x, y, dx, dy = np.zeros((side, side), bool), 0, 0, 1, 0
    mask[0, 0] = True
    for length in [side - 1, *(each for each in range(side - 1, 1, -2) for _ in range(2))]:
        for _ in range(length):
            x, y = x + dx, y + dy
            mask[y, x] = True
        dx, dy = -dy, dx
    return mask


@given(MASKS)
@example(np.indices((9, 9)).sum(axis=0) % 2 == 0)
@example(np.indices((9, 9))[0] % 2 == 0)
@example(spiral(21))
@example(spiral(21)[::-1])
def test_labels_are_scipys(mask):
    runs = label_runs(mask)
    found = np.zeros(mask.shape, int)
    for row, start, stop, number in zip(runs.row, runs.start, runs.stop, runs.label, strict=True):
        assert not found[row, start:stop].any()
        found[row, start:stop] = number + 1
    np.testing.assert_array_equal(found, label(mask, np.ones((3, 3)))[0])


@given(arrays(np.float32, SIDES, elements=FEW), FEW)
def test_boxes_areas_and_peaks_are_scipys(one, threshold):
    labels, count = label(one > threshold, np.ones((3, 3)))
    wanted = []
    for number, (rows, columns) in enumerate(find_objects(labels), 1):
        inside = np.where(labels == number, one, -np.inf)
        y, x = np.unravel_index(inside.argmax(), one.shape)
        box = (columns.start, rows.start, columns.stop, rows.stop)
        wanted.append(Region(box, int((labels == number).sum()), float(inside.max()), (int(x), int(y))))
    found = find_regions(one, float(threshold))
    assert len(found) == count
    assert found == sorted(wanted, key=lambda each: -each.peak)


@given(arrays(np.float32, SIDES, elements=st.floats(-10, 10, width=32)), st.floats(-10, 10), st.booleans())
@example(np.full((2, 2), 0.1, np.float32), 0.1, False)  # the float32 is above the float64
@example(np.full((2, 2), 0.7, np.float32), 0.7, False)  # and this one is below it
def test_an_image_is_flagged_exactly_where_it_shows_a_region(one, threshold, at_peak):
    if at_peak:
        threshold = float(one.max())
    assert bool(find_regions(one, threshold)) == (np.float64(one.max()) > threshold)
    assert above(one, threshold).sum() == sum(each.area for each in find_regions(one, threshold))


def prepared_by(size, **crop):
    return Preparation(size=size, mode="grey", **crop)


def test_regions_are_carried_through_resize_and_crop():
    one = Region((2, 3, 5, 4), 3, 7.0, (4, 3))
    (whole,) = carried([one], Geometry((20, 40)), prepared_by((10, 10)))
    assert whole == Region((8, 6, 20, 8), 24, 7.0, (18, 7))
    (cropped,) = carried([one], Geometry((20, 40)), prepared_by((10, 10), crop=(10, 20)))
    assert cropped == Region((14, 8, 20, 9), 6, 7.0, (19, 8))
    (share,) = carried([one], Geometry((20, 40)), prepared_by((10, 10), crop_fraction=0.5))
    assert share == Region((17, 8, 20, 9), 3, 7.0, (19, 8))
    (rounded,) = carried([one], Geometry((10, 15)), prepared_by((10, 10)))
    assert rounded == Region((3, 3, 8, 4), 4, 7.0, (6, 3))
    assert carried([], Geometry((1, 1)), prepared_by((10, 10), crop=(5, 5))) == []


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.data())
def test_boxes_stay_inside_the_image_and_hold_their_peaks(height, width, orientation, data):
    preparation = prepared_by((7, 11), crop_fraction=data.draw(st.sampled_from([None, 0.3, 1.0])))
    left, top = data.draw(st.integers(0, 10)), data.draw(st.integers(0, 6))
    right, bottom = data.draw(st.integers(left + 1, 11)), data.draw(st.integers(top + 1, 7))
    at = (data.draw(st.integers(left, right - 1)), data.draw(st.integers(top, bottom - 1)))
    given_ = Region((left, top, right, bottom), 1, 1.0, at)
    (found,) = carried([given_], Geometry((height, width), orientation), preparation)
    assert 0 <= found.box[0] <= found.at[0] < found.box[2] <= width
    assert 0 <= found.box[1] <= found.at[1] < found.box[3] <= height
    assert found.area >= 1


def test_a_map_below_the_threshold_has_no_region():
    assert find_regions(np.zeros((3, 4), np.float32), 0.0) == []
    assert find_regions(np.full((3, 4), np.nan, np.float32), 0.0) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_thin_maps(shape):
    (region,) = find_regions(np.ones(shape, np.float32), 0.5)
    assert region == Region((0, 0, shape[1], shape[0]), shape[0] * shape[1], 1.0, (0, 0))
