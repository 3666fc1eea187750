"""Resizing by ONNX Runtime: beside Pillow's, and cut to whole pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_od import Preparation
from lit_od.images.preparation import crop_box, prepare
from lit_od.images.resize_graph import GraphResize, resized, whole_box
from lit_od.images.sources import Source

FILTERS: dict[GraphResize, Image.Resampling] = {
    "graph": Image.Resampling.BILINEAR,
    "graph-bicubic": Image.Resampling.BICUBIC,
}
sides = st.integers(1, 90)


@given(height=sides, width=sides, size=st.tuples(sides, sides), colour=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60)
@pytest.mark.parametrize("way", FILTERS)
def test_it_is_within_a_few_levels_of_pillow(way, height, width, size, colour, seed) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3 if colour else 1), dtype=np.uint8)
    found = resized(pixels, size, way)
    image = Image.fromarray(pixels if colour else pixels[..., 0])
    wanted = np.asarray(image.resize(size[::-1], FILTERS[way])).reshape(found.shape)
    assert (found.shape, found.dtype) == ((*size, pixels.shape[2]), np.uint8)
    # Pillow rounds, and clips what cubic weights overshoot in noise, between its two passes
    assert np.abs(found.astype(int) - wanted).max() <= (2 if way == "graph" else 24)


@pytest.mark.parametrize("way", FILTERS)
def test_on_real_images_it_is_close_to_pillow(way: GraphResize, garments: list[Source]) -> None:
    for source in garments[:20]:
        image = source.decode()
        for size in ((9, 20), (28, 61), (75, 40)):
            wanted = np.asarray(image.resize(size[::-1], FILTERS[way]))
            gap = np.abs(resized(np.asarray(image)[..., None], size, way)[..., 0].astype(int) - wanted)
            assert gap.max() <= 2 if way == "graph" else gap.mean() < 1


@pytest.mark.parametrize("way", ["graph", "graph-bicubic"])
def test_an_image_of_the_size_is_unchanged(way: GraphResize) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resized(pixels, (21, 34), way), pixels)


@given(size=st.tuples(sides, sides), wanted=st.tuples(sides, sides), fraction=st.floats(0.01, 1.0, exclude_min=True))
def test_a_box_is_centred_within_the_image(size, wanted, fraction) -> None:
    left, upper, right, lower = whole_box(size, wanted, fraction)
    assert 0 <= left < right <= size[1]
    assert 0 <= upper < lower <= size[0]
    assert abs(left - (size[1] - right)) <= 1
    assert abs(upper - (size[0] - lower)) <= 1
    scale = fraction * min(size[0] / wanted[0], size[1] / wanted[1])
    assert lower - upper == max(1, round(wanted[0] * scale + 1e-9)) or lower - upper == size[0]


@pytest.mark.parametrize("options", [{}, {"crop": (40, 50)}, {"crop_fraction": 0.8}, {"crop_fraction": 1.0}])
@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_preparations_resize_by_it(mode, options) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (71, 90, 3), dtype=np.uint8)
    preparation = Preparation(size=(32, 24), mode=mode, resize="graph", **options)
    found = prepare(pixels, preparation)
    left, upper, right, lower = (round(side) for side in crop_box((71, 90), preparation))
    image = Image.fromarray(pixels).convert("RGB" if mode == "rgb" else "L").crop((left, upper, right, lower))
    wanted = np.asarray(image.resize((24, 32), Image.Resampling.BILINEAR)).reshape(found.shape)
    assert np.abs(found.astype(int) - wanted).max() <= 2
