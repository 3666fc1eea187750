"""The scale of a bundle's maps, and its colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_od.scoring.colour_scale import AT_THRESHOLD, TOP, ColourScale, colours

VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)


def lightness(colour):
    """CIE L* of 8-bit sRGB, by the standard's formulas."""
    linear = np.where(colour / 255 <= 0.04045, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def test_colours_rise_evenly_in_lightness():
    steps = np.diff(lightness(colours(np.linspace(0, 1, 33)).astype(float)))
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean()


def test_the_table_is_that_of_inferno():
    from matplotlib import colormaps

    heats = np.linspace(0, 1, 101)
    assert np.abs(colours(heats) - 255 * colormaps["inferno"](heats)[:, :3]).max() < 12


@given(VALUES, st.floats(1e-3, 1e6), st.lists(VALUES, min_size=2, max_size=40))
def test_heat_never_falls_and_is_fixed_at_the_threshold(normal, height, values):
    scale = ColourScale(normal, normal + height)
    at = scale.heat(np.array([normal - 1, normal, scale.threshold, normal + 2 * TOP * height]))
    np.testing.assert_allclose(at, [0, 0, AT_THRESHOLD, 1], atol=1e-6)
    heats = scale.heat(np.sort(np.array(values)))
    assert (np.diff(heats) >= 0).all()
    assert heats.min() >= 0
    assert heats.max() <= 1


@given(st.floats(1.1, TOP / 1.1), st.floats(0.01, 100))
def test_above_the_threshold_colours_still_differ(height, factor):
    scale = ColourScale(3 * factor, 5 * factor)
    heats = scale.heat(3 * factor + 2 * factor * height * np.array([1.0, 1.1]))
    assert heats[1] - heats[0] == pytest.approx(0.5 * np.log(1.1) / np.log(TOP))


@given(VALUES, VALUES)
def test_above_and_below_the_threshold_are_apart_by_heat(normal, threshold):
    values = np.array([np.nextafter(threshold, -np.inf), threshold, threshold + 0.1 * max(1, abs(threshold - normal))])
    below, at, above = ColourScale(normal, threshold).heat(values)
    assert below <= at <= AT_THRESHOLD < above


@pytest.mark.parametrize("normal", [0.0, 2.0])
def test_a_threshold_that_is_not_above_the_normal_value_parts_black_from_white(normal):
    scale = ColourScale(normal, 0.0)
    np.testing.assert_array_equal(scale.heat(np.array([-1, 0, 1e-9, 5], np.float32)), [0, 0, 1, 1])
    assert scale.marks() == [(AT_THRESHOLD, 0.0, "threshold")]


def test_the_normal_value_is_that_of_the_median_image():
    maps = np.array([[[1, 2, 9]], [[3, 4, 50]], [[700, 800, 900]]], np.float32)
    assert ColourScale.of_maps(maps, 10) == ColourScale(4.0, 10.0)
    assert ColourScale.of_maps(maps - 7, 10, least=0.0) == ColourScale(0.0, 10.0)


def test_marks_say_the_values_of_heats():
    scale = ColourScale(2.0, 5.0)
    heats, values, names = zip(*scale.marks(), strict=True)
    assert values == (2, 5, 8, 14, 26, 50)
    np.testing.assert_allclose(heats, [0, 0.5, 0.625, 0.75, 0.875, 1])
    assert names == ("normal", "threshold", "", "", "", "")


def test_a_tiny_height_overflows_to_the_end():
    assert ColourScale(0.0, 5e-324).heat(np.array([1e300])).tolist() == [1]
