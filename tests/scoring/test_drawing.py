"""Overlays, outlines and bars of colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from lit_od.scoring.colour_scale import ColourScale, colours
from lit_od.scoring.drawing import OPAQUE, OUTLINE, colour_bar, enlarged, outline, outlined, overlay
from lit_od.scoring.regions import find_regions


@pytest.mark.parametrize("channels", [1, 3])
def test_without_heat_an_image_stays_as_it_is(channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, channels), dtype=np.uint8)
    heats = np.zeros((2, 5, 4))
    heats[1, 2, 3] = 1.0
    found = overlay(images, heats)
    expected = np.broadcast_to(images, (2, 5, 4, 3)).copy()
    expected[1, 2, 3] = np.rint((1 - OPAQUE) * expected[1, 2, 3] + OPAQUE * np.array([252, 255, 164]))
    np.testing.assert_array_equal(found, expected)


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_outlines_part_a_mask_from_all_else(mask):
    height, width = mask.shape
    rows, columns = np.zeros((height + 1, width), int), np.zeros((height, width + 1), int)
    for left, top, right, bottom in outline(mask).tolist():
        assert (left == right) != (top == bottom)
        if top == bottom:
            rows[top, left:right] += 1
        else:
            columns[top:bottom, left] += 1
    framed = np.pad(mask, 1).astype(int)
    np.testing.assert_array_equal(rows, np.abs(np.diff(framed, axis=0))[:, 1:-1])
    np.testing.assert_array_equal(columns, np.abs(np.diff(framed, axis=1))[1:-1])


def test_outlines_are_drawn_where_regions_are_and_nowhere_else():
    map_ = np.zeros((40, 50), np.float32)
    map_[5:12, 30:38], map_[20, 20], map_[35:, :4] = 3, 2, 4  # the last one in a corner
    pixels = np.full((40, 50, 3), 90, np.uint8)
    drawn = outlined(pixels, map_ > 1)
    assert drawn.shape == (160, 200, 3)
    cyan = (drawn == OUTLINE).all(axis=2)
    np.testing.assert_array_equal(drawn[~cyan], enlarged(pixels)[~cyan])
    near = np.zeros_like(cyan)
    for region in find_regions(map_, 1):
        left, top, right, bottom = (4 * side for side in region.box)
        assert cyan[top:bottom, left : right + 1].any(axis=1).all()
        assert cyan[top : bottom + 1, left:right].any(axis=0).all()
        near[top : bottom + 1, left : right + 1] = True
    assert not (cyan & ~near).any()
    np.testing.assert_array_equal(outlined(pixels, map_ > 9), enlarged(pixels))


def test_a_bar_holds_the_colours_and_marks_the_threshold():
    bar = colour_bar(ColourScale(3.0, 7.0), 256)
    assert (bar.shape[0], bar.dtype) == (256, np.uint8)
    assert bar.shape[1] > 60
    strip = bar[6:-6, 3].astype(int)
    marked = (strip == OUTLINE).all(axis=1)
    assert marked.sum() == 2
    assert np.flatnonzero(marked).mean() == pytest.approx(122, abs=1)
    np.testing.assert_array_equal(strip[~marked], colours(np.linspace(1, 0, 244))[~marked])
    assert (bar[:, 20:] < 100).any()  # text
    assert not np.array_equal(bar[:, 20:], colour_bar(ColourScale(3.0, 8.0), 256)[:, 20:])
