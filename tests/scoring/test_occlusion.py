"""Occlusion maps: a score that hangs on one place is traced to it, with any bundle of features."""

import tracemalloc
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageFilter

from lit_od import Scorer
from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import Mahalanobis
from lit_od.formats.onnx_writer import node
from lit_od.images.preparation import Preparation
from lit_od.scoring.occlusion import BLUR, SIDE, WINDOWS, occlusion_maps
from tests.support.graphs import FLOAT, model_bytes

HEIGHT, WIDTH = 32, 48


def cell_means(cell: int = 8, channels: int = 1) -> bytes:
    """A backbone: the means of square cells of the red or grey channel, in rows."""
    count = (HEIGHT // cell) * (WIDTH // cell)
    nodes = [
        node("Cast", ["images"], ["floats"], to=FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("Slice", ["planes", "zero", "one", "one"], ["plane"]),
        node("AveragePool", ["plane"], ["pooled"], kernel_shape=[cell, cell], strides=[cell, cell]),
        node("Flatten", ["pooled"], ["features"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1])}
    return model_bytes(nodes, (HEIGHT, WIDTH, channels), {"features": (count,)}, constants)


def scorer(channels: int = 1, threads: int | None = 1) -> Scorer:
    """Normal are images of grey noise."""
    rng = np.random.default_rng(0)
    backbone = Backbone.load(cell_means(channels=channels), threads=threads)
    features = backbone(rng.integers(90, 111, (200, HEIGHT, WIDTH, channels), dtype=np.uint8))
    detector = Mahalanobis.fit(features[:100])
    calibration = Calibration.from_inliers(detector.score(features[100:]), {"rule": "percentile", "q": 99})
    mode = "grey" if channels == 1 else "rgb"
    extractor = Extractor(backbone, Preparation(size=(HEIGHT, WIDTH), mode=mode), threads)
    return Scorer(extractor, detector, calibration)


def with_spots(count: int, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Grey images with a bright checkered spot of 6x6 each, and the spots' corners."""
    rng = np.random.default_rng(1)
    images = rng.integers(90, 111, (count, HEIGHT, WIDTH, channels), dtype=np.uint8)
    corners = np.stack([rng.integers(0, HEIGHT - 6, count), rng.integers(0, WIDTH - 6, count)], axis=1)
    for image, (top, left) in zip(images, corners, strict=True):
        image[top : top + 6, left : left + 6] = 255
    return images, corners


@pytest.mark.parametrize("channels", [1, 3])
def test_the_hottest_place_is_the_odd_spot(channels):
    images, corners = with_spots(12, channels)
    maps = occlusion_maps(scorer(channels), images)
    assert maps.shape == images.shape[:3]
    assert maps.dtype == np.float32
    for found, corner in zip(maps, corners, strict=True):
        assert found.max() > 0
        hottest = np.argwhere(found == found.max()).mean(axis=0)
        assert np.abs(hottest - (corner + 2.5)).max() <= SIDE * WIDTH / 2 + 1


def test_a_map_is_the_mean_fall_over_the_windows_that_hide_a_pixel():
    """Against the definition, window by window, pixel by pixel."""
    images, _ = with_spots(1)
    how = scorer()
    smooth = ImageFilter.GaussianBlur(BLUR * HEIGHT)
    blurred = np.asarray(Image.fromarray(images[0, ..., 0]).filter(smooth))[..., None]
    before = how.score(images).score[0]
    sums, counts = np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH))
    for row in range(WINDOWS):
        for column in range(WINDOWS):
            y, x = (row + 0.5) * HEIGHT / WINDOWS, (column + 0.5) * WIDTH / WINDOWS
            tall, wide = SIDE * HEIGHT / 2, SIDE * WIDTH / 2
            where = [
                (i, j)
                for i in range(HEIGHT)
                for j in range(WIDTH)
                if abs(i + 0.5 - y) <= tall and abs(j + 0.5 - x) <= wide
            ]
            hidden = images[0].copy()
            for place in where:
                hidden[place] = blurred[place]
            fall = before - how.score(hidden[None]).score[0]
            for place in where:
                sums[place] += fall
                counts[place] += 1
    assert counts.min() >= 1
    np.testing.assert_allclose(occlusion_maps(how, images)[0], sums / counts, atol=1e-4 * np.abs(sums).max())


def test_threads_and_company_change_nothing():
    images, _ = with_spots(5)
    alone = np.concatenate([occlusion_maps(scorer(), image[None]) for image in images])
    for threads in (1, 2):
        np.testing.assert_allclose(occlusion_maps(scorer(threads=threads), images), alone, atol=1e-4 * alone.max())


def test_prepared_images_are_not_cropped_again():
    images, _ = with_spots(2)
    plain = scorer()
    cropping = replace(
        plain, extractor=replace(plain.extractor, preparation=msgspec.structs.replace(plain.preparation, crop=(20, 20)))
    )
    np.testing.assert_array_equal(occlusion_maps(cropping, images), occlusion_maps(plain, images))


def test_no_image_has_no_map():
    assert occlusion_maps(scorer(), np.empty((0, HEIGHT, WIDTH, 1), dtype=np.uint8)).shape == (0, HEIGHT, WIDTH)


def test_an_image_of_which_the_graph_makes_no_number_has_an_empty_map():
    images, _ = with_spots(1)
    how = scorer()

    class Broken:
        kind, reads = how.detector.kind, how.detector.reads

        def score(self, features):
            return np.full(len(features), np.nan)

    maps = occlusion_maps(replace(how, detector=Broken()), images)
    assert not maps.any()


def test_memory_does_not_grow_with_the_images():
    """Hidden windows come and go; what stays is the map and a batch."""
    how, peaks = scorer(), []
    for count in (4, 32):
        images, _ = with_spots(count)
        tracemalloc.start()
        occlusion_maps(how, images)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    hidden = 28 * WINDOWS**2 * HEIGHT * WIDTH  # what the additional images' windows would take
    assert peaks[1] - peaks[0] < hidden / 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (7, 8), (9, 100), (28, 28), (31, 97)])
def test_windows_cover_every_pixel(height, width):
    from lit_od.scoring.occlusion import _windows

    for length in (height, width):
        windows = _windows(length)
        assert windows.shape == (WINDOWS, length)
        assert windows.any(axis=0).all()
